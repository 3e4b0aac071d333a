"""`truing report`: the figures and the page of a folder, made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from truing.cli.shared import Sets, say_analysis, split_pairs
from truing.monitor import open_folder
from truing.report import write_report


def report(
    folder: Annotated[Path, typer.Argument(help="Folder or URL of a study, an audit, a guard or an analysis.")],
    sets: Sets = None,
) -> None:
    """Analyse a folder again and write analysis.json and report.html into it; neither judge nor data are needed.

    Example:  truing report runs/demo

    By other thresholds, said in the report:  --set stopping.tolerance=0.02
    """
    show_report(open_folder(folder), notes=bool(sets), changes=split_pairs(sets))


def show_report(folder: Path, notes: bool = True, changes: Mapping[str, str] | None = None) -> None:
    """Write the report of a folder, and print its table; `notes` prints what is odd, too."""
    say_analysis(write_report(folder, changes), folder, notes)
