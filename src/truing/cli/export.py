"""`truing export`: judged answers for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from truing.cli.shared import say
from truing.core.errors import UnknownNameError, plural
from truing.core.plugins import load_object
from truing.monitor import open_folder
from truing.results.export import TABLES, write_dataset, write_table

_LOGS = {"inspect": "truing.integrations.inspect.logs:write_logs"}


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder or URL of a study, an audit or a guard.")],
    to: Annotated[str, typer.Option(help="inspect, hf, csv, jsonl or parquet.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the logs or the dataset, or file of the table; by default inside DIR.", show_default=False
        ),
    ] = None,
) -> None:
    """Write judged answers as Inspect logs, as a dataset, or as one table that `truing analyze` reads.

    inspect: one .eval log per evaluated checkpoint and benchmark; look at them with `inspect view --log-dir LOGDIR`.
    hf: a folder in Hugging Face's layout, answers, checkpoints and runs with a card, for `load_dataset` or the Hub.
    csv, jsonl, parquet: one row per answer, with run, step, question, answer and scores.

    Example:  truing export runs/demo --to parquet
    """
    if to not in (formats := (*_LOGS, "hf", *TABLES)):
        raise UnknownNameError.of("format", to, formats)
    folder = open_folder(folder)
    if to == "hf":
        target = out or folder / "dataset"
        say(f"{plural(write_dataset(folder, target), 'judged answer')}: {target}")
        return
    if to in TABLES:
        target = out or folder / f"judged.{to}"
        say(f"{plural(write_table(folder, to, target), 'judged answer')}: {target}")
        return
    target = out or folder / "inspect"
    files = load_object("format", to, _LOGS)(folder, target)
    say(f"{plural(len(files), 'log')}: {target}    to see them: inspect view --log-dir {target}")
