"""The house of DESIGN: twelve rooms and no loose module, arrows down, budgets of lines, files and functions short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import FILES, MODULES, ROOMS, ROOT, SOURCE, count_lines, drawn, imports, room_of

ORDER = (*ROOMS, "__main__")

APART = {("judges", "backends")}
"""Rooms that may not know each other."""
OWED: set[tuple[str, str]] = set()
"""Arrows that the straightening still has to turn; only ever fewer."""
PROVIDERS = re.compile(r"openai|tinker|vllm", re.IGNORECASE)
"""Systems whose names no library that truing is built on has, too."""
NAMED = {
    "config/__init__.py": "names of configs",
    "config/services.py": "how each is reached, and where its key is",
    "core/plugins.py": "which extra brings which library",
}
"""Files outside backends/ that may name a provider, and why."""
ENTERED = {
    ("integrations/guard", "transformers"): "it samples the live model of a Trainer of transformers",
    ("integrations/inspect", "inspect"): "both speak Inspect's words",
    ("studies/costs.py", "endpoint"): "prices of models at endpoints",
    ("cli/shared.py", "endpoint"): "the journal of calls holds what they cost",
    ("cli/status.py", "endpoint"): "the journal of calls holds what they cost",
}
"""Folders of backends/ that somebody outside enters, and why; all others go through the table."""
PLUG_INS = re.compile(r"engine|trainer|judge|completer")


def test_imports_point_down() -> None:
    wrong = []
    for path in FILES:
        own = room_of(path)
        if own == "__init__":
            continue
        for name in sorted(imports(path)):
            other = name.split(".")[1]
            if other == own or (str(path.relative_to(SOURCE)), name) in OWED:
                continue
            if ORDER.index(other) >= ORDER.index(own) or {(own, other), (other, own)} & APART:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_cycles_inside_rooms() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    state: dict[str, str] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert state.get(name) != "open", f"import cycle: {' -> '.join((*path, name))}"
        if name in state or name not in graph:
            return
        state[name] = "open"
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        state[name] = "done"

    for name in graph:
        visit(name, ())


def test_no_module_is_loose() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} <= {"__init__", "__main__", "api"}
    assert {room_of(path) for path in FILES} - {"__init__"} <= set(ORDER)


def named_in(tree: ast.AST) -> Iterator[str]:
    """Identifiers, and strings that are no docstring and no sentence."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)) if id(node) not in told and not re.search(r"\s", text):
                yield text


def test_a_provider_is_named_in_its_own_folder_and_the_table_only() -> None:
    wrong = []
    for path in FILES:
        own = str(path.relative_to(SOURCE))
        if own.startswith("backends/") or own in NAMED:
            continue
        found = {name for name in named_in(ast.parse(path.read_text(encoding="utf-8"))) if PROVIDERS.search(name)}
        wrong += [f"{own} names {name}" for name in sorted(found)]
        entered = {name.split(".")[2] for name in imports(path) if name.startswith("truing.backends.")}
        allowed = {folder for (where, folder) in ENTERED if own.startswith(where)}
        wrong += [f"{own} enters backends/{folder}" for folder in sorted(entered - allowed)]
    assert not wrong, "\n".join(wrong)


def test_providers_do_not_know_each_other() -> None:
    """`endpoint` is no provider: it is the client of one protocol, for those whose servers speak it."""
    wrong = []
    for path in FILES:
        own = path.relative_to(SOURCE).parts
        if own[0] == "backends" and len(own) > 2:
            known = {own[1]} | ({"endpoint"} if own[1] in ("openai", "vllm") else set())
            others = {
                name for name in imports(path) if re.match(rf"truing\.backends\.(?!(?:{'|'.join(known)})\b)", name)
            }
            wrong += [f"{path.relative_to(SOURCE)} imports {name}" for name in sorted(others)]
    assert not wrong, "\n".join(wrong)


def test_nobody_asks_a_plug_in_what_it_has() -> None:
    """Optional methods have defaults in the base class; `load_class` completes a user's class, once."""
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                asked = ast.unparse(node.args[0])
                if PLUG_INS.search(asked.lower()):
                    wrong.append(f"{path.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines"
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            assert count <= 9, f"{node.name} has {count} parameters"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_keep_their_budgets(room: str) -> None:
    assert count_lines(room) <= ROOMS[room], f"take something out of {room}, or say in the commit what was taken out"


def test_the_picture_in_contributing_is_this_house() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert text == drawn(text), "draw it again: python -m tests.house --write"
    assert len(text.splitlines()) <= 90  # one page
