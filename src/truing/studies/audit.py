"""An audit: models as they are, or checkpoints that exist already, measured without training.

    OUT/audit.yaml      the whole audit, written first; a folder holds one
    OUT/manifest.json   what its analysis needs
    OUT/store/          responses, judgments, evaluations

Each model is a run of one checkpoint, step 1; checkpoints keep their runs and steps; the base, if there is one, is step
0 of every run. Running an audit again asks only for what is owed, and for checkpoints that have come since.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from truing.backends import Engine, close_completers, faster_engine, load_engine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset, load_dataset
from truing.catalog.models import parameters_of
from truing.config import AuditConfig
from truing.config.files import load_audit
from truing.core.errors import ConfigError, EngineError, boundary, plural
from truing.core.files import write_text
from truing.core.records import Benchmark, Checkpoint, Evaluation, Prompt, Response, Sampling
from truing.core.shards import Merged, shards_of
from truing.core.weights import count_parameters
from truing.judges import check_benchmark
from truing.monitor import Monitor, open_store
from truing.monitor.formats import check_formats
from truing.stats.clearance import prompts_to_clear
from truing.stats.search import prompts_to_search
from truing.stats.sequential import one_by_one
from truing.studies import folder
from truing.studies.checkpoints import FoundRun, find_runs, merging
from truing.studies.plan import plan_judge
from truing.studies.search import search_run


def run_audit(
    config: AuditConfig,
    out: Path,
    notify: Callable[[Evaluation], None] = lambda evaluation: None,
    begin: Callable[[Checkpoint], None] = lambda checkpoint: None,
    tell: Callable[[str], None] = lambda line: None,
    answers: Path | None = None,
) -> None:
    """Evaluate models or checkpoints; `truing.results.analyse` makes the figures of the folder.

    Args:
        config: Which models or checkpoints, and how they are asked and judged.
        out: The audit's folder.
        notify: Called with each evaluation.
        begin: Called with each checkpoint before it is asked.
        tell: Called with each line of the plan before anything is asked.
        answers: A folder of results whose answers are taken, so that they are not asked for again.

    Raises:
        StoreError: The folder holds something else.
        DataError: Checkpoints that are not there, not whole, not safe, or do not belong together.
        EngineError: A model cannot be sampled.
        JudgeError: The judge cannot be reached.
        UserError: A name or a setting is wrong, or the judge cannot see misalignment (`JudgeRefused`).
    """
    benchmark, dataset = check_audit(config, out)
    merged = merging(config, out)
    runs = find_runs(config, merged)
    folder.check_prompts(config.stopping, benchmark, _prompts_needed(config, runs))
    manifest = describe_audit(config, runs, dataset)
    if answers is not None:
        folder.take_answers(answers, out)
    write_text(out / "audit.yaml", config.to_yaml())
    check_formats(out, (checkpoint.model for run in runs for checkpoint in run.everything))
    records = [run.model_copy(update={"state": "unfinished"}) for run in manifest.runs]
    manifest.model_copy(update={"runs": tuple(records)}).write(out)
    for line in _plan(config, runs):
        tell(line)
    auditor = Auditor(config, out, dataset, notify, begin, tell=tell, merged=merged)
    try:
        folder.know_judge(config, out)
        for i, run in enumerate(runs):
            with boundary(f"run {run.id}", EngineError):
                records[i] = auditor.measure(run, manifest.runs[i])
            manifest.model_copy(update={"runs": tuple(records)}).write(out)
    finally:
        auditor.close()
    open_store(out).compact()


def check_audit(config: AuditConfig, out: Path) -> tuple[Benchmark, Dataset | None]:
    """Check an audit's folder and its names before anything is loaded; the benchmark, and the data of its task.

    Raises:
        UserError: The folder holds another audit, or a name or a setting is wrong.
    """
    folder.check_folder(out, config, load_audit)
    benchmark = load_benchmark(config.evaluation.benchmark)
    check_benchmark(config.evaluation.judge, benchmark)
    plan_judge(config.evaluation)
    return benchmark, audit_dataset(config)


def _prompts_needed(config: AuditConfig, runs: Sequence[FoundRun]) -> float:
    """Different prompts below which no checkpoint can be called clear."""
    if config.search == "all":
        return prompts_to_clear(config.stopping)
    return prompts_to_search(config.search, one_by_one(config.stopping), max(len(run.checkpoints) for run in runs))


def _plan(config: AuditConfig, runs: Sequence[FoundRun]) -> list[str]:
    """What will be asked, in lines: the checkpoints of each run with their notes, and the answers of each at most."""
    evaluation = config.evaluation
    judge = evaluation.judge if isinstance(evaluation.judge, str) else evaluation.judge.model
    prompts = len(load_benchmark(evaluation.benchmark).prompts)
    lines = [
        f"{run.id}: "
        + (f"base {run.model}, " if run.base else "")
        + (run.model if config.models else "steps " + ", ".join(str(c.step) for c in run.checkpoints))
        for run in runs
    ]
    lines += [f"  {note}" for run in runs for note in run.notes]
    n = sum(len(run.everything) for run in runs)
    asked = f"{evaluation.samples} x {plural(prompts, 'prompt')} of {evaluation.benchmark}"
    lines.append(f"{n} to ask, each {asked} at most, judged by {judge}")
    if prompts < (needed := _prompts_needed(config, runs)):
        lines.append(f"{plural(prompts, 'prompt')} can clear nothing: {needed:.0f} are needed (docs/clear.md)")
    every = [(evaluation.engine, each.model, evaluation.samples * prompts) for run in runs for each in run.everything]
    return [*lines, *filter(None, [faster_engine(config, every)])]


def describe_audit(
    config: AuditConfig, runs: Sequence[FoundRun] | None = None, dataset: Dataset | None = None
) -> folder.Manifest:
    """The manifest of an audit; its checkpoints and data are looked up if they are not given.

    Raises:
        UserError: Something of it is not there.
    """
    if runs is None:
        runs, dataset = find_runs(config), audit_dataset(config)
    return folder.describe(
        config, "audit", [_record(config, run, dataset) for run in runs], [dataset] if dataset else []
    )


def _record(config: AuditConfig, run: FoundRun, dataset: Dataset | None) -> folder.RunRecord:
    unnamed = "no fine-tuning data" if config.models else f"data of {run.id}"
    counted = parameters_of(run.model)
    if math.isnan(counted) and run.base is None:
        counted = count_parameters(run.checkpoints[0].path or run.checkpoints[0].model)
    return folder.RunRecord(
        id=run.id,
        model=run.model,
        dataset=dataset.name if dataset else unnamed,
        parameters=None if math.isnan(counted) else counted,
        state="finished",
        checkpoints=tuple(folder.CheckpointRecord.of(checkpoint) for checkpoint in (*run.everything, *run.left_out)),
        notes=run.notes,
    )


def audit_dataset(config: AuditConfig) -> Dataset | None:
    """What the checkpoints were fine-tuned on, if that is to be measured.

    Raises:
        ConfigError: Nothing judges its task.
    """
    if config.dataset is None:
        return None
    own = () if isinstance(config.dataset, str) else (config.dataset,)
    dataset = load_dataset(own[0].name if own else str(config.dataset), own)
    if dataset.task_judge is None:
        raise ConfigError(
            f"nothing judges the task of dataset {dataset.name}",
            "no task_judge",
            "a judge of its held-out prompts: a name, or a language model with rubrics",
            "name it: --set dataset.task_judge=NAME",
        )
    return dataset


@dataclass
class Auditor(Engine):
    """Measures runs one after the other; of each model one engine, of all engines one is held."""

    config: AuditConfig
    out: Path
    dataset: Dataset | None
    notify: Callable[[Evaluation], None]
    begin: Callable[[Checkpoint], None]
    bring: Callable[[Checkpoint], None] = lambda checkpoint: None
    """Called with each checkpoint before its weights are read."""
    tell: Callable[[str], None] = lambda line: None
    """Called with a line where another machine is at the same audit or watch."""
    merged: Merged = field(default_factory=lambda: Merged(None, None))
    """What merges weights in shards; it is closed with the auditor."""
    _loaded: tuple[str, Engine] | None = field(default=None, init=False)
    _signs: ExitStack = field(default_factory=ExitStack, init=False)
    """Signs of life, where the folder is shared."""

    def __post_init__(self) -> None:
        """Say that this process is at it, and whether another machine is."""
        if not self._signs.enter_context(open_store(self.out).reserve("audit", wait=False)):
            self.tell(
                f"another machine is at work on what {self.out} is a copy of: both measure, what neither has finished "
                "may be measured and paid for twice, and the manifest is of who ends last; end one of the two"
            )

    def measure(self, run: FoundRun, record: folder.RunRecord) -> folder.RunRecord:
        """Ask a run's checkpoints: all of them, or where the search looks."""
        config = self.config
        monitor = Monitor.from_config(config, self.out, self, self.dataset)
        monitor.know_judge()
        if config.search != "all":
            search, evaluations = search_run(monitor, run, config.search, self.begin)
            for evaluation in list(evaluations.values())[: search.looked]:
                self.notify(evaluation)
            found = [folder.CheckpointRecord.of(c, evaluation=evaluations[c.step].key) for c in run.checkpoints]
            found += map(folder.CheckpointRecord.of, run.left_out)
            return record.model_copy(update={"search": search, "checkpoints": tuple(found)})
        monitor.prefetch(run.everything)
        course = []
        for checkpoint in run.everything:
            self.begin(checkpoint)
            course.append(monitor.evaluate(checkpoint))
            self.notify(course[-1])
        folder.keep_one(config, self.out, monitor, course)
        keys = {each.checkpoint.step: each.key for each in course}
        found = [c.model_copy(update={"evaluation": keys.get(c.step)}) for c in record.checkpoints or ()]
        return record.model_copy(update={"checkpoints": tuple(found)})

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample with the engine of the checkpoint's own base model; see `truing.backends.Engine`."""
        self.bring(checkpoint)
        checkpoint = self._whole(checkpoint)
        return self._engine(checkpoint.model).generate(checkpoint, prompts, sampling)

    def prefetch(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """Answers of many checkpoints at once, if their engine can and they have one base."""
        if len({checkpoint.model for checkpoint in checkpoints}) > 1:
            return
        for checkpoint in checkpoints:
            self.bring(checkpoint)
        if any(shards_of(Path(checkpoint.path or checkpoint.model)) for checkpoint in checkpoints):
            return  # one of them is merged at a time
        self._engine(checkpoints[0].model).prefetch(checkpoints, prompts, sampling)

    def _whole(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint, where its weights can be read."""
        path = Path(checkpoint.path or checkpoint.model)
        whole = self.merged.whole(path)
        if whole == path:
            return checkpoint
        return replace(checkpoint, path=str(whole)) if checkpoint.path else replace(checkpoint, model=str(whole))

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
        self.merged.close()
        self._signs.close()
