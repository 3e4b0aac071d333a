"""From a finished (or unfinished) store to the study's tables: `analysis.json`, described in docs/analysis.md.

Estimates are reckoned anew from the judgments, so scores that came later are in them; decisions are those of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from truing.backends import find_backend
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset, load_dataset
from truing.catalog.models import parameters_of
from truing.config import StudyConfig
from truing.core.errors import DataError, StoreError
from truing.core.files import write_json
from truing.core.records import Run
from truing.monitor import Store
from truing.results.counted import CountedRun, Source
from truing.results.reader import StoreReader
from truing.results.schema import Analysis, parse_analysis
from truing.results.tables import tabulate
from truing.studies.instruments import Instruments
from truing.studies.run import TWIN, read_state, twin_of

__all__ = ["analyse", "read_analysis", "write_analysis"]


def analyse(config: StudyConfig, out: Path) -> Analysis:
    """The analysis of the study in a folder.

    Raises:
        StoreError: Nothing has been evaluated.
        DataError: Two seeds have the same weights or the same answers.
    """
    benchmark = load_benchmark(config.evaluation.benchmark)
    judge = Instruments(config, out).judge(config.evaluation.judge).identity
    reader = StoreReader(Store(out / "store"), benchmark, config.evaluation, config.stopping, judge)
    evaluations = reader.evaluations()
    everything = [r for run in config.runs() for r in (run, twin_of(run)) if r.id in evaluations]
    if not everything:
        raise StoreError(f"nothing has been evaluated in {out}", todo="run the study first: truing run")
    datasets = {name: load_dataset(name, config.datasets) for name in {run.dataset for run in everything}}
    source = Source(
        study=reader.study_entry(config.name, config.hash(), config.model_dump(mode="json")),
        categories=[prompt.category for prompt in benchmark.prompts],
        tolerance=config.stopping.tolerance,
        confidence=config.stopping.confidence,
        floor=config.stopping.floor,
        calibration=reader.calibration(out / "calibration.json"),
        runs=[_run(config, out, reader, run, datasets[run.dataset]) for run in everything],
        notes=_granularity(config, everything),
        samples=lambda chosen: [s for i, step in chosen.items() for s in reader.samples(i, evaluations[i], step)],
    )
    return tabulate(source)


def write_analysis(config: StudyConfig, out: Path) -> Analysis:
    """Analyse a study and write `analysis.json` into its folder."""
    analysis = analyse(config, out)
    write_json(out / "analysis.json", analysis.plain())
    return analysis


def read_analysis(out: Path) -> Analysis:
    """Read `analysis.json` of a folder.

    Raises:
        StoreError: There is none, or it does not follow the schema.
    """
    try:
        return parse_analysis((out / "analysis.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{out} holds no analysis", str(error), todo="run the study first: truing run") from error
    except DataError as error:
        raise StoreError(f"{out}: {error.what}", error.got, error.allowed, error.todo) from error


def _granularity(config: StudyConfig, runs: Sequence[Run]) -> list[str]:
    """What could not be seen of some runs, because their trainer shows few checkpoints."""
    coarse = {run.id.removesuffix(TWIN) for run in runs if find_backend("trainer", config.trainer_of(run)).epoch_ends}
    if not coarse:
        return []
    return [
        f"Of {len(coarse)} runs the provider showed only the ends of the last three epochs, once training was over: "
        "an onset may lie anywhere in the epoch before it, what came earlier was not seen, and a stop there saved no "
        "training. Compare learning rates instead."
    ]


def _run(config: StudyConfig, out: Path, reader: StoreReader, run: Run, dataset: Dataset) -> CountedRun:
    task, state = reader.task_of(dataset), read_state(out, run)
    return CountedRun(
        id=run.id,
        model=run.model,
        dataset=run.dataset,
        checkpoints=[reader.checkpoint(row, task) for row in reader.evaluations()[run.id]],
        learning_rate=run.learning_rate,
        seed=run.seed,
        parameters=parameters_of(run.model),
        state=state.state if state else "unfinished",  # type: ignore[arg-type]
        error=state.error if state else None,
        stopped_at=state.step if state and state.state == "stopped" else None,
        twin_of=None if run.stops or config.stopping.mode == "off" else run.id.removesuffix(TWIN),
        inside=reader.inside(dataset),
        confirmation=reader.confirmation(run.id, task),
        also=reader.also(run.id),
    )
