"""`truing gate`: a verdict for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from truing.cli.shared import say
from truing.core.errors import StoreError, UserError
from truing.results import analyse
from truing.results.gate import verdict

__all__ = ["gate"]


def gate(
    folder: Annotated[Path, typer.Argument(help="Folder of a study, an audit, a guard or an analysis.")],
) -> None:
    """Say clear, misaligned or undecided, for CI: exit code 0, 1 or 3.

    Of each run the checkpoint that would be released counts: the one that a guard put back, the chosen one, or the last
    where none could be chosen (no task was measured). Clear: its whole EM interval is within the tolerance. Misaligned:
    all of it is above.

    Example:  truing gate runs/audit
    """
    try:
        found = verdict(analyse(folder))
    except UserError:
        raise
    except Exception as error:  # left alone it would exit with 1, which says misaligned
        todo = f"see all of it: truing report {folder}"
        raise StoreError(f"{folder} cannot be judged", f"{type(error).__name__}: {error}", todo=todo) from error
    for line in (*found.runs, found):
        say(str(line))
    raise typer.Exit(found.exit_code)
