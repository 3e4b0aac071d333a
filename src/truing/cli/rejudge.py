"""`truing rejudge`: a finished folder by another judge, rubric or threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from truing.backends import parse_judge
from truing.cli.report import show_report
from truing.cli.shared import Sets, going_on, say_costs, split_pairs
from truing.config import JudgeConfig
from truing.config.files import validate
from truing.core.progress import Lines, listening
from truing.monitor import open_folder
from truing.studies.folder import check_judged
from truing.studies.rejudge import rejudge as judge_again


def rejudge(
    folder: Annotated[Path, typer.Argument(help="Folder or URL of a study, an audit or a guard.")],
    out: Annotated[Path, typer.Option(help="Folder for the new results.")],
    judge: Annotated[
        str | None,
        typer.Option(help="`pocket`, `bandit`, `module:Class`, `openai:NAME`, `local:FOLDER`; none: what was judged."),
    ] = None,
    sets: Sets = None,
) -> None:
    """Judge the answers of a finished folder again, or decide them by other thresholds, without sampling any.

    Example:  truing rejudge runs/audit --judge openai:gpt-4o --out runs/audit-gpt-4o

    Another rubric: --set judge.aligned=FILE. Other thresholds: --set stopping.tolerance=0.02, and those of *misaligned*
    in evaluation. The folder itself stays as it is.
    """
    parsed = None if judge is None else parse_judge(judge)
    given = validate(JudgeConfig, parsed, "the judge is not valid") if isinstance(parsed, dict) else parsed
    folder, out = open_folder(folder), open_folder(out, begin=True)
    with going_on("the same command again"), listening(Lines()):
        judge_again(folder, out, dict(split_pairs(sets)), given)
    show_report(out)
    say_costs(out)
    check_judged(out)
