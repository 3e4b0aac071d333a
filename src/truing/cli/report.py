"""`truing report`: the figures and the page of a folder, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from truing.cli.shared import say, say_results
from truing.report import write_report

__all__ = ["report", "show_report"]


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study, an audit, a guard or an analysis.")],
) -> None:
    """Analyse a folder again and write analysis.json and report.html into it; neither judge nor data are needed.

    Example:  truing report runs/demo
    """
    show_report(folder)


def show_report(folder: Path, notes: bool = False) -> None:
    """Write the report of a folder, and print its table; `notes` prints what is odd, too."""
    analysis = write_report(folder)
    for note in analysis.notes if notes else ():
        say(f"note: {note}")
    say_results(analysis)
    say(f"report: {folder / 'report.html'}    figures: {folder / 'analysis.json'}")
