"""`truing run`: a study, or what is owed of it."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from truing.cli.progress import Display, Quiet, ShownAs, how_shown
from truing.cli.report import show_report
from truing.cli.shared import Sets, going_on, say, say_costs, split_pairs
from truing.config import StudyConfig
from truing.config.files import load_study
from truing.core.distributed import rank_and_world
from truing.core.errors import ConfigError, plural
from truing.core.progress import Shown
from truing.monitor import open_folder
from truing.studies.folder import check_judged
from truing.studies.on_ray import Cluster
from truing.studies.plan import plan_study
from truing.studies.schedule import Place, run_study


def run(  # noqa: PLR0913 - the flags of a command
    study: Annotated[Path, typer.Argument(help="Study file (YAML); see docs/study.md.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder or URL (docs/scale.md) of the study; by default runs/NAME.", show_default=False),
    ] = None,
    sets: Sets = None,
    on: Annotated[
        str, typer.Option(help="ray, or ray://HOST:PORT: runs go to a Ray cluster (docs/scale.md).", show_default=False)
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="ID", help="This run alone, while others run elsewhere; may be given again."),
    ] = None,
    resources: Annotated[
        str, typer.Option(help="What one run takes of a Ray cluster, such as CPU=1,GPU=0.25,judge=1.")
    ] = "CPU=1",
    judge_resources: Annotated[
        str,
        typer.Option(
            help="With Ray: one judge for all runs, which takes this of the cluster; for a model on its machines.",
            show_default=False,
        ),
    ] = "",
    quiet: Quiet = False,
    progress: ShownAs = "auto",
) -> None:
    """Run a study, or go on with one that was interrupted: only what is owed is done.

    Example:  truing run study.yaml --out runs/mine --set training.steps=50
    """
    config = load_study(study, split_pairs(sets))
    folder = open_folder(out or Path("runs") / config.name, begin=True)
    words = [str(study), "--out", str(folder), *(word for each in sets or () for word in ("--set", each))]
    words += ["--on", on, "--resources", resources] if on else []
    words += ["--judge-resources", judge_resources] if judge_resources else []
    words += [word for each in only or () for word in ("--run", each)]
    place = Place(_cluster(on, resources, judge_resources), tuple(only or ()))
    run_here(config, folder, f"truing run {shlex.join(words)}", how_shown(quiet, progress), place)


def _cluster(on: str, resources: str, judge: str) -> Cluster | None:
    run = _amounts("--resources", resources)
    if not on:
        if judge:
            raise ConfigError("--judge-resources is for a Ray cluster", judge, "--on ray, too", "or leave it out")
        return None
    if on != "ray" and not on.startswith("ray://"):
        raise ConfigError("runs cannot go there", on, "ray, or ray://HOST:PORT", "leave --on out to run here")
    return Cluster(on, run, _amounts("--judge-resources", judge) if judge else {})


def _amounts(flag: str, resources: str) -> dict[str, float]:
    try:
        amounts = {name.strip(): float(n) for name, n in (part.split("=") for part in resources.split(","))}
    except ValueError:
        amounts = {}
    if not amounts or not all(0 <= n < math.inf for n in amounts.values()):
        raise ConfigError(f"{flag} cannot be read", resources, "NAME=NUMBER,NAME=NUMBER: CPU=1,GPU=0.25")
    return amounts


def run_here(
    config: StudyConfig,
    out: Path,
    again: str,
    shown: Shown = "auto",
    place: Place = Place(),  # noqa: B008 - it cannot be changed
) -> None:
    """Run a study, show how it goes, and report; `again` is the command that goes on.

    Raises:
        Exit: With code 1, some runs failed; with 130, Ctrl-C.
    """
    if rank_and_world()[0] > 0:  # rank 0 shows and reports
        run_study(config, out)
        return
    with going_on(again):
        plan = plan_study(config)
        runs = f"{plural(plan.runs, 'run')}, {plural(plan.checkpoints, 'checkpoint')}"
        twins = f", up to {plural(plan.twins, 'unstopped twin')}" if plan.twins else ""
        say(f"{config.name}: {runs}, up to {plural(plan.responses, 'response')}{twins}")
        if plan.faster:
            say(plan.faster)
        with Display(config, shown) as display:
            states = run_study(config, out, display.update, place)
        failed = [s for s in states if s.state == "failed"]
        if not failed or len(failed) < len(states):
            show_report(out)
        say_costs(out)
        if failed:
            say(f"{plural(len(failed), 'run')} failed; `{again}` tries them again. First: {failed[0].error}")
            raise typer.Exit(1)
        check_judged(out)
