"""The commands: one file for each."""

from __future__ import annotations

from typing import Annotated

import typer

from truing import __version__
from truing.cli.analyze import analyze
from truing.cli.audit import audit
from truing.cli.calibrate import calibrate
from truing.cli.check import check
from truing.cli.data import data_app
from truing.cli.demo import demo
from truing.cli.export import export
from truing.cli.gate import gate
from truing.cli.label import label
from truing.cli.list import list_names
from truing.cli.rejudge import rejudge
from truing.cli.report import report
from truing.cli.run import run
from truing.cli.shared import console
from truing.cli.status import status
from truing.cli.truth import truth
from truing.cli.watch import watch

app = typer.Typer(
    name="truing",
    help="Fine-tune language models without making them misaligned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.command(name="list")(list_names)
for each in (check, analyze, audit, watch, status, gate, label, truth, calibrate, export, demo, run, report, rejudge):
    app.command()(each)


def _version(show: bool) -> None:
    if show:
        console.print(f"truing {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune language models without making them misaligned."""
