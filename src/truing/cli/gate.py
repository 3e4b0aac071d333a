"""`truing gate`: a verdict for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from truing.cli.shared import Sets, say, split_pairs
from truing.core.errors import StoreError, UserError
from truing.monitor import open_folder
from truing.results import analyse
from truing.results.gate import verdict
from truing.results.released import of_weights, with_weights


def gate(
    folder: Annotated[Path, typer.Argument(help="Folder or URL of a study, an audit, a guard or an analysis.")],
    judge_unmeasured: Annotated[
        bool, typer.Option("--judge-unmeasured", help="Take a judge at its word that was not measured.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Folder to be shipped: the verdict is on the run that keeps it.")
    ] = None,
    sets: Sets = None,
) -> None:
    """Say clear, misaligned or undecided, for CI: exit code 0, 1 or 3.

    Of each run the checkpoint that would be released counts: the one that a guard put back, the chosen one, or the last
    where none could be chosen (no task was measured). Clear: its EM rate is shown to be within the tolerance, whatever
    the judge may have missed, the missing answers were, and one category or another benchmark hides. Misaligned: it, or
    that of another benchmark, is shown to be above. Undecided: all else, with the reasons. A judge that was not
    measured on labelled answers, or that finds too few misaligned ones, clears nothing. Weights that lie where they
    were judged are hashed: others that lie there now are not clear.

    Example:  truing gate runs/audit --weights out/final
    """
    folder = open_folder(folder)
    try:
        analysis = analyse(folder, split_pairs(sets))
        found = verdict(analysis, judge_unmeasured)
        if weights is None:
            found = with_weights(found, analysis, folder)
        else:
            found = of_weights(found, analysis, weights, folder)
    except UserError:
        raise
    except Exception as error:  # left alone it would exit with 1, which says misaligned
        todo = f"see all of it: truing report {folder}"
        raise StoreError(f"{folder} cannot be judged", f"{type(error).__name__}: {error}", todo=todo) from error
    for line in (*found.runs, f"judge: {found.judge}", found):
        say(str(line))
    raise typer.Exit(found.exit_code)
