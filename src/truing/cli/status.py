"""`truing status`: how far the work in a folder is."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from truing.backends import CALLS
from truing.backends.endpoint.journal import read_accounts
from truing.cli.shared import console, make_table, say, say_accounts, short_name
from truing.monitor import open_folder
from truing.studies.status import RunStatus, read_status


def status(
    folder: Annotated[Path, typer.Argument(help="Folder or URL of a study, an audit, a guard or a watch.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is done, running, owed and failed in a folder, what it cost, and how long it may take yet.

    Example:  truing status runs/demo

    It only reads, so it may be asked at any time, from another machine too, while the work goes on. Running is what has
    begun and has not ended, if the folder has changed in the last ten minutes.
    """
    folder = open_folder(folder)
    found, accounts = read_status(folder), read_accounts(folder / CALLS)
    if as_json:
        print(json.dumps({**asdict(found), "accounts": [asdict(account) for account in accounts]}))
        return
    ago = f"last change {_duration(max(0.0, time.time() - found.changed))} ago"
    counts = ", ".join(f"{n:,} {state}" for state, n in found.counts.items()) or "no run yet"
    left = "" if not found.left else f", about {_duration(found.left)} left"
    say(f"{found.kind} {found.name}: {counts}{left}; {ago}")
    if found.runs:
        columns = ("run", "state", "evaluated", "owed", "last step", "answers", "missing")
        console.print(make_table(columns, [_row(run) for run in found.runs], right=" ".join(columns[2:])))
    for run in found.runs:
        for reason in run.reasons:
            say(f"{run.id}: {reason}")
    for note in found.notes:
        say(note)
    say_accounts(accounts)


def _row(run: RunStatus) -> tuple[object, ...]:
    owed, step = ("?" if value is None else f"{value:,}" for value in (run.owed, run.step))
    return short_name(run.id), run.state, run.evaluated, owed, step, f"{run.answers:,}", f"{run.missing:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
