"""The arrows of the design: a module imports only what stands above it in `LAYERS`, also inside functions."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "truing"
LAYERS = (
    "_version",
    "errors",
    "records",
    "chat",
    "files",
    "names",
    "hub",
    "quiet",
    "templates",
    "ranks",
    "models",
    "catalog",
    "checkpoints",
    "tinkering",
    "config",
    "config_files",
    "endpoint",
    "formats",
    "benchmarks",
    "variants",
    "truth",
    "lookup",
    "recipes",
    "datasets",
    "preparation",
    "stats",
    "detect",
    "tally",
    "pocket",
    "engines",
    "judges",
    "calibration",
    "trainers",
    "store",
    "probing",
    "draws",
    "monitor",
    "instruments",
    "work",
    "costs",
    "plan",
    "study",
    "workers",
    "launched",
    "organism",
    "analysis",
    "inspect",
    "audit",
    "report",
    "callback",
    "cli",
    "__main__",
)
"""From the bottom up. A package counts as one; inside it, modules must not form a cycle."""
SIDEWAYS = {("engines", "judges"), ("engines", "trainers"), ("judges", "trainers")}
"""Pairs of edges that may not know each other, in either direction."""
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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = unit(path)
    if own == "__init__":
        return
    for name in imports(path):
        other = name.split(".")[1]
        if other == own:
            continue
        assert LAYERS.index(other) < LAYERS.index(own), f"{own} imports {name}"
        assert (own, other) not in SIDEWAYS
        assert (other, own) not in SIDEWAYS


def test_no_cycles_inside_packages() -> None:
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


def test_every_module_has_a_layer() -> None:
    assert {unit(path) for path in FILES} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
