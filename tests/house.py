"""The rooms of `src/truing`, what each may hold, and the picture of them in CONTRIBUTING.md.

python -m tests.house            draws the picture
python -m tests.house --write    puts it into CONTRIBUTING.md
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "truing"
ROOMS = {
    "core": 2635,
    "config": 920,
    "stats": 3950,
    "catalog": 2275,
    "backends": 6975,
    "judges": 1895,
    "monitor": 2245,
    "studies": 4450,
    "results": 6350,
    "report": 1720,
    "integrations": 2515,
    "api": 270,
    "cli": 2165,
}
"""Room -> its budget: the most lines it may have, raised only in a commit that says what was taken out for it.

From the bottom up: a room imports what stands above it here, also inside functions."""
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(("truing", *p.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES
}
_BEGIN, _END = "<!-- drawn by: python -m tests.house --write -->\n```\n", "```\n<!-- end -->\n"


def room_of(path: Path) -> str:
    """The room of a file; the file's own name if it is in none."""
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


def count_lines(room: str) -> int:
    """Lines of the Python files of a room."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES if room_of(path) == room)


def draw() -> str:
    """The rooms from the top down, each with its budget of lines and a mark below every room that it imports."""
    known: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in FILES:
        known.setdefault(room_of(path), set()).update(name.split(".")[1] for name in imports(path))
    rooms = [room for room in reversed(ROOMS) if any(room_of(path) == room for path in FILES)]
    columns = [(room, len(room) + 1) for room in rooms[1:]]
    lines = [f"{'imports:':>20}  " + "".join(f"{room:<{width}}" for room, width in columns).rstrip()]
    for room in rooms:
        below = rooms[rooms.index(room) + 1 :]
        signs = {other: "●" if other in known[room] else "·" for other in below}
        marks = "".join(f"{signs.get(other, ''):<{width}}" for other, width in columns)
        lines.append(f"{room:<13}{ROOMS[room]:>7,}  {marks}".rstrip())
    return "\n".join(lines) + "\n"


def drawn(text: str) -> str:
    """The text of CONTRIBUTING.md with the picture drawn again."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}{draw()}{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    contributing = ROOT / "CONTRIBUTING.md"
    if "--write" in sys.argv:
        contributing.write_text(drawn(contributing.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(draw())
