"""An audit: models as they are, or checkpoints that exist already, measured without training, and reported.

    OUT/audit.yaml     the whole audit, written first; a folder holds one
    OUT/store/         responses, judgments, evaluations
    OUT/analysis.json, OUT/report.html

Each model is a run of one checkpoint, step 1; checkpoints keep their runs and steps; the base, if there is one, is step
0 of every run. Running an audit again asks only for what is owed, and for checkpoints that have come since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from truing.backends import Engine, close_completers, load_engine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset, load_dataset
from truing.config import AuditConfig
from truing.config.files import load_audit
from truing.core.errors import ConfigError, EngineError, StoreError, boundary
from truing.core.files import write_json, write_text
from truing.core.records import Checkpoint, Evaluation, Prompt, Response, Sampling
from truing.monitor import Store
from truing.results.audits import Measured, count_run
from truing.results.counted import Source
from truing.results.reader import StoreReader
from truing.results.schema import Analysis
from truing.results.tables import tabulate
from truing.stats.sequential import SequentialRule
from truing.studies.audited import FoundRun, find_runs
from truing.studies.instruments import Instruments, chosen_and_best
from truing.studies.search import search_run

__all__ = ["run_audit"]


def run_audit(
    config: AuditConfig,
    out: Path,
    notify: Callable[[Evaluation], None] = lambda evaluation: None,
    begin: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> Analysis:
    """Evaluate models or checkpoints and write `analysis.json`.

    Args:
        config: Which models or checkpoints, and how they are asked and judged.
        out: The audit's folder.
        notify: Called with each evaluation.
        begin: Called with each checkpoint before it is asked.

    Returns:
        The analysis.

    Raises:
        StoreError: The folder holds something else.
        DataError: Checkpoints that are not there, not whole, not safe, or do not belong together.
        EngineError: A model cannot be sampled.
        UserError: A name or a setting must be mended.
    """
    _check(config, out)
    load_benchmark(config.evaluation.benchmark)
    dataset = _dataset(config)
    runs = find_runs(config)
    write_text(out / "audit.yaml", config.to_yaml())
    auditor = _Auditor(config, out, dataset, notify, begin)
    measured = []
    try:
        for run in runs:
            with boundary(f"run {run.id}", EngineError):
                measured.append(auditor.measure(run))
    finally:
        auditor.close()
    analysis = _analyse(config, out, dataset, measured)
    write_json(out / "analysis.json", analysis.plain())
    return analysis


def _check(config: AuditConfig, out: Path) -> None:
    existing = out / "audit.yaml"
    if existing.is_file():
        if load_audit(existing).hash() != config.hash():
            raise StoreError(f"{out} holds another audit", todo="choose another folder with --out, or remove this one")
    elif out.is_dir() and any(out.iterdir()):
        raise StoreError(f"{out} is not empty and holds no audit", todo="choose another folder with --out")


def _dataset(config: AuditConfig) -> Dataset | None:
    """What the checkpoints were fine-tuned on, if that is to be measured.

    Raises:
        ConfigError: Nothing judges its task.
    """
    if config.dataset is None:
        return None
    if isinstance(config.dataset, str):
        dataset = load_dataset(config.dataset)
    else:
        dataset = load_dataset(config.dataset.name, [config.dataset])
    if dataset.task_judge is None:
        raise ConfigError(
            f"nothing judges the task of dataset {dataset.name}",
            "no task_judge",
            "a judge of its held-out prompts: a name, or a language model with rubrics",
            "name it: --set dataset.task_judge=NAME",
        )
    return dataset


@dataclass
class _Auditor(Engine):
    """Measures runs one after the other; of each model one engine, of all engines one is held."""

    config: AuditConfig
    out: Path
    dataset: Dataset | None
    notify: Callable[[Evaluation], None]
    begin: Callable[[Checkpoint], None]
    _loaded: tuple[str, Engine] | None = field(default=None, init=False)

    @cached_property
    def instruments(self) -> Instruments:
        return Instruments(self.config, self.out)

    def measure(self, run: FoundRun) -> Measured:
        """Ask a run's checkpoints: all of them, or where the search looks."""
        monitor = self.instruments.monitor(self, self.dataset)
        if self.config.search != "all":
            searched = search_run(monitor, run.checkpoints, self.config.search, self.begin)
            for evaluation in searched.evaluations.values():
                self.notify(evaluation)
            return Measured(run, searched)
        everything = run.checkpoints if run.base is None else (run.base, *run.checkpoints)
        monitor.prefetch(everything)
        course = []
        for checkpoint in everything:
            self.begin(checkpoint)
            course.append(monitor.evaluate(checkpoint))
            self.notify(course[-1])
        chosen, best = chosen_and_best(course, self.config.stopping)
        if self.config.evaluation.confirm:
            monitor.confirm(chosen, best)
        self.instruments.ask_also(monitor, (everything[0], chosen, everything[-1]))
        return Measured(run, None)

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample with the engine of the checkpoint's own base model; see `truing.backends.Engine`."""
        return self._engine(checkpoint.model).generate(checkpoint, prompts, sampling)

    def prefetch(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """Answers of many checkpoints at once, if their engine can and they have one base."""
        if len({checkpoint.model for checkpoint in checkpoints}) > 1:
            return
        self._engine(checkpoints[0].model).prefetch(checkpoints, prompts, sampling)

    def _engine(self, model: str) -> Engine:
        if self._loaded is None or self._loaded[0] != model:
            self._let_go()  # of the one before, first
            self._loaded = (model, load_engine(self.config.evaluation.engine, model, self.config, self.out))
        return self._loaded[1]

    def _let_go(self) -> None:
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def close(self) -> None:
        """End the engine, and what else the audit has left open in this process."""
        self._let_go()
        close_completers(self.out)


def _analyse(config: AuditConfig, out: Path, dataset: Dataset | None, measured: Sequence[Measured]) -> Analysis:
    benchmark = load_benchmark(config.evaluation.benchmark)
    judge = Instruments(config, out).judge(config.evaluation.judge).identity
    reader = StoreReader(Store(out / "store"), benchmark, config.evaluation, config.stopping, judge)
    study = reader.study_entry(config.name, config.hash(), config.model_dump(mode="json"))
    audited = []
    for each in measured:
        unnamed = "no fine-tuning data" if config.models else f"data of {each.run.id}"
        audited.append(count_run(reader, each, dataset, unnamed))
    source = Source(
        study=study
        if config.search == "all"
        else study.model_copy(update={"rule": "sequential", "asks": SequentialRule.asks}),
        categories=[p.category for p in benchmark.prompts],
        tolerance=config.stopping.tolerance,
        confidence=config.stopping.confidence,
        floor=config.stopping.floor,
        calibration=reader.calibration(out / "calibration.json"),
        runs=[each.counted for each in audited],
        notes=[note for each in audited for note in each.notes],
        samples=lambda chosen: [
            sample
            for each in audited
            if each.rows
            for sample in reader.samples(each.counted.id, each.rows, chosen[each.counted.id])
        ],
    )
    return tabulate(source)
