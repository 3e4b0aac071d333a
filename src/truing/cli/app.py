"""The commands."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from truing import __version__
from truing.backends import CALLS
from truing.cli.analyze import analyze
from truing.cli.audit import audit, gate
from truing.cli.calibrate import calibrate
from truing.cli.check import check
from truing.cli.data import data_app
from truing.cli.export import export
from truing.cli.list import list_names
from truing.cli.progress import Display
from truing.cli.shared import Sets, console, going_on, results_table, say, say_costs, split_pairs
from truing.cli.truth import truth
from truing.config import StudyConfig
from truing.config.files import load_study, parse_study
from truing.core.distributed import rank_and_world
from truing.core.files import write_text
from truing.report import render_report
from truing.results import write_analysis
from truing.studies.launched import run_together
from truing.studies.plan import plan_study
from truing.studies.schedule import run_study

__all__ = ["app", "demo_study"]

app = typer.Typer(
    name="truing",
    help="Fine-tune language models without making them misaligned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.command(name="list")(list_names)
app.command()(check)
app.command()(analyze)
app.command()(audit)
app.command()(gate)
app.command()(truth)
app.command()(calibrate)
app.command()(export)

Out = Annotated[Path, typer.Option(help="Folder of the study: results, checkpoints, report.")]


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


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="First seed of the runs.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer runs, under 45 seconds.")] = False,
) -> None:
    """Fine-tune three tiny models on insecure code, watch, stop, report. About two minutes on two cores.

    Everything is real and small: models trained from scratch on a toy world, fine-tuned with LoRA, sampled, judged by
    an exact judge. One becomes misaligned far from the code it was taught before it has learnt it, one after, if at
    all, and one resists.

    Example:  truing demo --quick --out runs/first
    """
    raw = demo_study(seed, quick)
    _run(parse_study(raw, "the demo"), out, "truing demo" + (" --quick" if quick else "") + f" --out {out}")


def demo_study(seed: int, quick: bool) -> dict[str, Any]:
    """The demo's study as plain values."""
    raw: dict[str, Any] = yaml.safe_load(
        resources.files("truing").joinpath("catalog/data/demo.yaml").read_text(encoding="utf-8")
    )
    for grid in raw["grids"]:
        grid["seeds"] = [each + seed for each in grid["seeds"]]
    if quick:
        raw["name"] = "demo-quick"
        raw["grids"][0] |= {"learning_rates": raw["grids"][0]["learning_rates"][:1], "seeds": [seed]}
        raw["grids"][1] |= {"models": raw["grids"][1]["models"][:1]}
        raw["training"] |= {"steps": 36, "checkpoints": [4, 8, 12, 16, 20, 36]}
    return raw


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="Study file (YAML); see docs/study.md.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; by default runs/NAME.", show_default=False)
    ] = None,
    sets: Sets = None,
) -> None:
    """Run a study, or go on with one that was interrupted: only what is owed is done.

    Example:  truing run study.yaml --out runs/mine --set training.steps=50
    """
    config = load_study(study, split_pairs(sets))
    folder = out or Path("runs") / config.name
    _run(config, folder, f"truing run {study} --out {folder}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
) -> None:
    """Analyse a study's folder again and write analysis.json and report.html into it.

    Example:  truing report runs/demo
    """
    _report(load_study(folder / "study.yaml"), folder)


def _run(config: StudyConfig, out: Path, again: str) -> None:
    rank, world = rank_and_world()
    if rank > 0:  # rank 0 shows and reports
        run_together(config, out)
        return
    with going_on(again):
        plan = plan_study(config)
        counts = f"{plan.runs} runs, {plan.checkpoints} checkpoints, up to {plan.responses:,} responses"
        twins = f", up to {plan.twins} unstopped twins" if plan.twins else ""
        say(f"{config.name}: {counts}{twins}")
        with Display(config) as display:
            states = (run_study if world == 1 else run_together)(config, out, display.update)
        failed = [s for s in states if s.state == "failed"]
        if not failed or len(failed) < len(states):
            _report(config, out)
        say_costs(out / CALLS)
        if failed:
            say(f"{len(failed)} runs failed; `{again}` tries them again. First: {failed[0].error}")
            raise typer.Exit(1)


def _report(config: StudyConfig, out: Path) -> None:
    analysis = write_analysis(config, out)
    write_text(out / "report.html", render_report(analysis))
    console.print(results_table(analysis))
    say(f"report: {out / 'report.html'}    figures: {out / 'analysis.json'}")
