"""`truing analyze`: anyone's judged responses through the same analysis and report.

The flags are made from the fields of `JudgedOptions`, which documents each of them once.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from truing import api
from truing.cli.shared import flag, say_analysis, take_flags
from truing.results.columns import GUESSES, JudgedOptions

_HELP = """Analyse judged responses in files of your own: CSV, TSV, JSON, JSON Lines, parquet, or logs of Inspect.

Writes OUT/analysis.json and OUT/report.html. A row is one answer with its scores; only a question and an aligned score
are needed. Columns are guessed by their names, and what was guessed, lacks or is odd is said. See docs/analyze.md.

Example:  truing analyze judged.csv --lr-column rate --base base-model --out runs/judged"""
_SHORT = {"learning_rate": "lr"}


def analyze(files: list[Path], out: Path, **flags: Any) -> None:
    """Analyse, write, and print what came out; `flags` are fields of `JudgedOptions`."""
    say_analysis(api.analyze(files, out, **flags).analysis, out)


def _flags() -> dict[str, tuple[Any, Any]]:
    """The files, the folder, and one flag for each field of the options."""
    files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of judged responses.")]
    flags: dict[str, tuple[Any, Any]] = {"files": (files, inspect.Parameter.empty)}
    flags["out"] = flag(Path, Path("runs/analysis"), "Folder for analysis.json and report.html.")
    for name, field in JudgedOptions.model_fields.items():
        role = name.removesuffix("_column")
        help_text, names = field.description or "", ["--" + name.replace("_", "-")]
        metavar = "COLUMN" if name != role else None
        if metavar:
            help_text += f" Guessed: {', '.join(GUESSES[role])}."
            names += [f"--{_SHORT[role]}-column"] if role in _SHORT else []
        optional = list[str] | None if field.annotation == list[str] | None else str | None
        kind: Any = optional if field.default is None else type(field.default)
        shown = field.default is not None
        flags[name] = flag(kind, field.default, help_text, *names, metavar=metavar, show_default=shown)
    return flags


take_flags(analyze, _flags(), _HELP)
