"""The house of DESIGN: twelve rooms and no loose module, arrows down, budgets of lines, files and functions short."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "truing"
ROOMS = (
    "core",
    "config",
    "stats",
    "catalog",
    "backends",
    "judges",
    "monitor",
    "studies",
    "results",
    "report",
    "integrations",
    "api",
    "cli",
    "__main__",
)
"""From the bottom up: a room imports what stands above it here, also inside functions."""
APART = {("judges", "backends")}
"""Rooms that may not know each other."""
OWED = {
    ("backends/transformers/completer.py", "truing.judges.scores"),
    *(("studies/audit.py", f"truing.results.{name}") for name in ("audits", "counted", "reader", "tables")),
}
"""Arrows that the straightening still has to turn; only ever fewer."""
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(("truing", *p.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES
}


def unit(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> set[str]:
    """Dotted names of every truing module that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("truing.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module or "")
    return {name for name in names if name.startswith("truing.")}


def test_imports_point_down() -> None:
    wrong = []
    for path in FILES:
        own = unit(path)
        if own == "__init__":
            continue
        for name in sorted(imports(path)):
            other = name.split(".")[1]
            if other == own or (str(path.relative_to(SOURCE)), name) in OWED:
                continue
            if ROOMS.index(other) >= ROOMS.index(own) or {(own, other), (other, own)} & APART:
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
    assert {unit(path) for path in FILES} - {"__init__"} <= set(ROOMS)


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
