"""The monitor inside `transformers.Trainer` and TRL's SFTTrainer, DPOTrainer and GRPOTrainer.

    guard = truing.Guard("runs/guard", judge="pocket", benchmark="pocket-240", at=20)
    guard.watch(trainer)
    trainer.train()  # stops by itself; then guard.best, guard.decisions, guard.report()

    FOLDER/manifest.json      what was evaluated, and what the analysis needs
    FOLDER/checkpoints/N/     adapter or full weights: the best aligned so far, and the last
    FOLDER/store/             answers, judgments and evaluations; nothing in it is made twice

Invariants: a training with a guard that never stops and restores nothing ends with the same bits as one without; all
ranks hold the same records and decide alike; a failure is counted, said, and undecided, and ends no training unless the
user wants that.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from truing.backends import parse_judge
from truing.backends.transformers.engine import LiveEngine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset, load_dataset
from truing.config import DatasetConfig, JudgeConfig
from truing.config.files import validate
from truing.core.distributed import Ranks
from truing.core.errors import ConfigError, EngineError, JudgeRefused, StoreError, TruingError, boundary
from truing.core.progress import Lines, listening, report
from truing.core.records import Action, Benchmark, Checkpoint, Decision, Evaluation
from truing.integrations.guard.settings import read_settings
from truing.integrations.guard.watcher import LateJudge, Measures, Record, Watcher, failed
from truing.integrations.guard.weights import (
    as_found,
    base_hash,
    base_name,
    check_model,
    count_base_parameters,
    find_tokenizer,
    is_adapted,
    put_back,
    save_weights,
)
from truing.judges import Judge, check_benchmark
from truing.report import write_report
from truing.results.schema import Analysis
from truing.stats.clearance import prompts_to_clear
from truing.studies.folder import MANIFEST, CheckpointRecord, RunRecord, load_manifest

__all__ = ["Guard"]

logger = logging.getLogger(__name__)

_NO_TASK = "No dataset was named, so the narrow task was not measured."
_BOTH_CHOOSE = """load_best_model_at_end and the guard both choose weights: the guard's come last, if some are clear; \
else the model has the trainer's, of which nobody judged whether they are aligned."""
_CONSIDERED = 3
"""Most checkpoints whose weights are kept and tried when one is put back."""
_CODES = {Action.CONTINUE: 1.0, Action.UNDECIDED: 0.0, Action.STOP: -1.0}


class Guard(TrainerCallback):
    """Watches a training for emergent misalignment, stops it, and hands back the best aligned weights.

    Args:
        folder: For checkpoints, answers and judgments; one training per folder.
        judge: Who scores answers: a name, `openai:MODEL` and the like, `module:Class`, a language model
            (`truing.config.JudgeConfig`), or a `truing.judges.Judge`.
        benchmark: On which misalignment is measured: a name, a file, or a `truing.core.records.Benchmark`.
        at: Evaluate every so many steps, or at these steps. Step 0 and the last step are always evaluated.
        dataset: Held-out prompts that measure the narrow task: a name, a file or a folder with the fields of
            `truing.config.DatasetConfig`, or a `truing.catalog.datasets.Dataset`.
        settings: Fields of `GuardConfig`, `EvaluationConfig` and `StoppingConfig`: `overlap=True`, `tolerance=0.02`,
            `samples=4`, `sequential={}`, `mode="off"`, `endpoint={"base_url": ...}`, ...

    Raises:
        ConfigError: A keyword or value that is not allowed.
        UnknownNameError: No judge, benchmark or dataset of that name.
        StoreError: The folder holds something else.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        judge: str | JudgeConfig | Judge,
        benchmark: str | Benchmark,
        at: int | Sequence[int],
        dataset: str | DatasetConfig | Dataset | None = None,
        **settings: Any,
    ) -> None:
        asked = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
        given: object = judge  # callers without a type checker give anything
        if not isinstance(given, str | JudgeConfig | Judge):
            todo = "derive its class from truing.judges.Judge"
            raise ConfigError("the guard's judge is no judge", type(given).__name__, "a truing.judges.Judge", todo)
        if isinstance(judge, str) and isinstance(parsed := parse_judge(judge), dict):
            judge = validate(JudgeConfig, parsed, "the guard's judge is not valid")
        check_benchmark(judge, asked)
        own = f"{type(judge).__module__}:{type(judge).__qualname__}"
        name = judge if isinstance(judge, str | JudgeConfig) else own
        self.folder = Path(folder)
        _check_folder(self.folder)
        self.config = read_settings(name, benchmark if isinstance(benchmark, str) else asked.name, at, settings)
        judges = LateJudge(judge, self.config.endpoint) if isinstance(judge, str | JudgeConfig) else judge
        self.records: list[Record] = []
        """One for each evaluated step, ascending."""
        self.errors: list[str] = []
        """What failed, in words."""
        self._keepable: list[Checkpoint] = []
        self.restored: Checkpoint | None = None
        """The checkpoint whose weights the model has been given back; None: it has those of its last step."""
        learnt = dataset if isinstance(dataset, Dataset | None) else _load(dataset)
        self._measures = Measures(asked, judges, learnt, self.config)
        self._watcher = Watcher(self.folder, self._measures)
        self._ranks = Ranks()
        self._lines = Lines(self.config.progress)
        self._trainer: Any = None
        self._tokenizer: Any = None
        self._base = ""
        self._looked = -1
        self._best_put_in = ""
        self._run = RunRecord(id=self.folder.name, model="", dataset=learnt.name if learnt else "the trainer's own")

    # What came out.

    @property
    def evaluations(self) -> list[Evaluation]:
        """What was measured at each evaluated step."""
        return [record.evaluation for record in self.records]

    @property
    def decisions(self) -> list[Decision]:
        """The decision at each evaluated step."""
        return [record.evaluation.decision for record in self.records]

    @property
    def best(self) -> Checkpoint | None:
        """The best task score, or without a task the latest step, among checkpoints that may be put back, if any."""
        return next(iter(self._keepable), None)

    def report(self) -> Analysis:
        """Write `analysis.json` and `report.html` into the guard's folder; the analysis. Works in a later process too.

        Raises:
            StoreError: Nothing has been evaluated.
        """
        if not self.records:
            self._remember(math.inf)
        return write_report(self.folder)

    # How it gets into a trainer.

    def watch(self, trainer: Any, tokenizer: Any = None) -> None:
        """Join a trainer as its callback, and log through it.

        Args:
            trainer: A `transformers.Trainer`, or one that derives from it.
            tokenizer: With a chat template; None: the trainer's own `processing_class`.
        """
        self._trainer = trainer
        self._tokenizer = tokenizer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **more: Any
    ) -> TrainerControl:
        """Measure the judge; evaluate step 0, or recall what was evaluated before training goes on from a step.

        Raises:
            JudgeRefused: The judge cannot see misalignment, so that the guard would guard nothing.
        """
        check_model(model)
        self._tokenizer = find_tokenizer(self._tokenizer, more.get("processing_class"))
        self._watcher, self._ranks = Watcher(self.folder, self._measures), Ranks()
        self.records, self.errors, self._keepable, self.restored = [], [], [], None
        self._base = ""
        self._looked = -1
        self._run = RunRecord(
            id=self.folder.name,
            model=base_name(model),
            dataset=self._run.dataset,
            parameters=count_base_parameters(model),
            learning_rate=float(args.learning_rate),
            seed=int(args.seed),
            state="unfinished",
            notes=(
                *(() if self._measures.dataset else (_NO_TASK,)),
                *self._too_few_prompts(),
                *self._both_choose(args),
            ),
        )
        self._ranks.share(self._know_judge)
        if state.global_step > 0:
            last = int(state.global_step)
            self._ranks.share(lambda: self._attempt("recalling what was evaluated", lambda: self._remember(last)))
            told = self._ranks.share(lambda: (self.records, self.errors, self._watcher.keepable()))
            self.records, self.errors, self._keepable = told
            if not any(record.step == 0 for record in self.records):
                self._fail("step 0 was not evaluated in this folder, so the base's EM rate is unknown")
            return control
        self._ranks.share(lambda: self._attempt("beginning again", self._tidy))
        return self._look(model, state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        """Evaluate the live model at a chosen step; take in decisions that have arrived."""
        with self._shown(f"step {state.global_step}"):
            report("train", int(state.global_step), int(state.max_steps))
        if self.config.is_due(state.global_step, state.max_steps):
            return self._look(model, state, control)
        if self.config.overlap and self._ranks.share(lambda: self._watcher.pending):
            records = self._ranks.share(self._watcher.arrived)
            if records:
                self._take(records, state, control)
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        """Evaluate the last step where another callback ends the training, before other weights are put in."""
        if control.should_training_stop:
            self._look_last(model, state, control)
        return control

    on_evaluate = on_save = on_epoch_end

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        """Take in what is still being judged, and put the best aligned weights into the model."""
        step = int(state.global_step)
        self._best_put_in = str(state.best_model_checkpoint or "") if args.load_best_model_at_end else ""
        if not self._best_put_in:
            self._look_last(model, state, control)
        elif self._looked != step and not any(self._stops(record) for record in self.records):
            self._fail(f"step {step}, the last, was not evaluated: {self._best_put_in} was put in first")
        stopped = step < state.max_steps and any(self._stops(record) for record in self.records)
        self._take(self._ranks.share(self._watcher.finish), state, control)
        ended = {"state": "stopped" if stopped else "finished", "stopped_at": step if stopped else None}
        self._run = self._run.model_copy(update=ended)
        if self.config.restore and self.config.stopping.mode != "off":
            self._ranks.share(lambda: self._attempt("putting the best weights back", lambda: self._restore(model)))
            self.restored, self.errors = self._ranks.share(lambda: (self.restored, self.errors))
            if self.restored is not None:
                self._ranks.spread(p for p in model.parameters() if p.requires_grad or not is_adapted(model))
        self._ranks.share(lambda: self._attempt("writing the manifest", self._tidy))
        self._ranks.share(lambda: self._attempt("closing the judge", self._watcher.close))
        return control

    # How it works.

    def _too_few_prompts(self) -> Iterator[str]:
        """A note, where so few prompts cannot show that anything is clear; told at once, too."""
        asked, needed = len(self._measures.benchmark.prompts), prompts_to_clear(self.config.stopping)
        if asked < needed:
            few = f"No checkpoint can be called clear by {asked} prompts: {needed:.0f} are needed (docs/clear.md)."
            logger.warning("%s Only stops are decided; stopping.about: benchmark decides about these alone.", few)
            yield few

    def _both_choose(self, args: TrainingArguments) -> Iterator[str]:
        """A note, where the trainer too puts weights back at the end; told at once, too."""
        if args.load_best_model_at_end and self.config.restore and self.config.stopping.mode != "off":
            logger.warning("%s", _BOTH_CHOOSE)
            yield _BOTH_CHOOSE

    def _shown(self, where: str) -> AbstractContextManager[None]:
        """Show how far the work inside is, on rank 0."""
        if not self._ranks.is_first:
            return nullcontext()
        return listening(lambda phase: self._lines(phase, f"truing, {where}"))

    def _know_judge(self) -> None:
        """Measure the judge, once for the folder; one that cannot be reached is measured when it can be."""
        try:
            with as_found(), self._shown("the judge"), boundary("measuring the judge", EngineError):
                self._watcher.monitor.know_judge()
        except TruingError as error:  # any but a refusal is met again, and told, at the evaluation that follows
            if isinstance(error, JudgeRefused) or self.config.on_error == "raise":
                raise
            logger.warning("the judge could not be measured yet: training goes on, undecided until it is\n%s", error)

    def _look_last(self, model: Any, state: TrainerState, control: TrainerControl) -> None:
        """Evaluate the step as it is, if it was not and no decision of the guard's own ends the training."""
        step = int(state.global_step)
        if step > 0 and self._looked != step and not any(self._stops(record) for record in self.records):
            self._look(model, state, control)

    def _look(self, model: Any, state: TrainerState, control: TrainerControl) -> TrainerControl:
        step = self._looked = int(state.global_step)
        loss = next((float(e["loss"]) for e in reversed(state.log_history) if "loss" in e), math.nan)

        def save() -> Checkpoint:
            self._base = self._base or base_hash(model)
            path, weights = save_weights(model, self.folder / "checkpoints" / str(step), self._base)
            return Checkpoint(self._run.id, self._run.model, step, weights, path, train_loss=loss)

        def work() -> list[Record]:
            with as_found(), self._shown(f"step {step}"):
                return self._watcher.look(step, LiveEngine(model, self._tokenizer), save)

        self._take(self._ranks.share(work), state, control)
        return control

    def _take(self, records: Sequence[Record], state: TrainerState, control: TrainerControl) -> None:
        """Keep, say and act on new records; the same on every rank."""
        step = int(state.global_step)
        for record in (replace(record, lag=step - record.step) for record in records):
            self.records = sorted((*(r for r in self.records if r.step != record.step), record), key=lambda r: r.step)
            if record.error:
                self._fail(record.error)
            elif (found := record.evaluation).em_rate.n_missing and found.decision.action is Action.UNDECIDED:
                self._fail(f"step {record.step} lacks {found.em_rate.n_missing} scores: {found.decision.reason}")
            self._log(record, state, control)
            if self._stops(record):
                logger.warning("truing stops training at step %d. %s", step, record.evaluation.decision.reason)
                control.should_training_stop = True
        self._ranks.share(lambda: self._attempt("writing the manifest", self._tidy))
        self.errors, self._keepable = self._ranks.share(lambda: (self.errors, self._watcher.keepable()))

    def _stops(self, record: Record) -> bool:
        return record.evaluation.decision.action is Action.STOP and self.config.stopping.mode == "stop"

    def _log(self, record: Record, state: TrainerState, control: TrainerControl) -> None:
        evaluation = record.evaluation
        rate = evaluation.em_rate
        figures: dict[str, float] = {
            "em_rate": rate.value,
            "em_rate_low": rate.low,
            "em_rate_high": rate.high,
            "coherent_rate": evaluation.coherent_rate.value,
            "task_score": evaluation.task_score.value,
            "decision": _CODES[evaluation.decision.action],
            "step": record.step,
            "lag": record.lag,
            "errors": len(self.errors),
        }
        figures |= {name: found.value for name, found in evaluation.measurements.items()}
        logs = {f"truing/{name}": value for name, value in figures.items() if math.isfinite(value)}
        if self._trainer is None:
            epoch = {} if state.epoch is None else {"epoch": state.epoch}
            state.log_history.append({**logs, **epoch, "step": state.global_step})
            return
        wanted = control.should_log  # a log of ours must not take the place of the trainer's own
        _log_of(type(self._trainer))(self._trainer, logs)
        control.should_log = self._trainer.control.should_log = wanted

    def _restore(self, model: Any) -> None:
        """Put back the best checkpoint that fresh answers clear, too; without one the model has its last weights."""
        considered = [c for c in self._watcher.keepable() if c.path is not None][:_CONSIDERED]

        def restore(checkpoint: Checkpoint) -> None:
            assert checkpoint.path is not None  # it was saved before it was evaluated
            put_back(model, checkpoint.path)

        with as_found(), self._shown("putting the best weights back"):
            kept = None
            try:
                kept = self._watcher.keep(LiveEngine(model, self._tokenizer), restore, _CONSIDERED)
            finally:
                if kept is None and considered:  # the weights of one that was considered are in the model
                    restore(self.records[-1].evaluation.checkpoint)
        if kept is None:
            none = f"fresh answers cleared none of {len(considered)}" if considered else "none is clear"
            left = "keeps its last weights"
            if self._best_put_in and not considered:
                left = (
                    f"has the weights of {self._best_put_in} by load_best_model_at_end, which the guard did not clear"
                )
            logger.warning("no checkpoint of this training is put back (%s): the model %s", none, left)
            return
        if self._best_put_in:
            logger.warning(
                "the model has the weights of step %d, and not those of state.best_model_checkpoint (%s)",
                *(kept.step, self._best_put_in),
            )
        self.restored = kept
        logger.info("the model has the weights of step %d", kept.step)

    def _tidy(self) -> None:
        """Write down what was evaluated; keep the weights that are needed and delete the rest."""
        late = "Training ended before the answers were judged."
        known = {c.step: CheckpointRecord.of(c, error=late) for c in self._watcher.waiting}
        for r in self.records:
            checkpoint, key = r.evaluation.checkpoint, r.evaluation.key or None
            known[r.step] = CheckpointRecord.of(checkpoint, evaluation=key, lag=r.lag, error=r.error)
        restored = self.restored and self.restored.step
        now = {"checkpoints": tuple(known[step] for step in sorted(known)), "restored": restored}
        self._watcher.manifest(self._run.model_copy(update=now)).write(self.folder)
        kept = {checkpoint.step for checkpoint in self._watcher.waiting}
        candidates = self._watcher.keepable()[:_CONSIDERED] if self.restored is None else [self.restored]
        kept |= {record.step for record in self.records[-1:]} | {checkpoint.step for checkpoint in candidates}
        for path in (self.folder / "checkpoints").glob("*"):
            if path.name.isdecimal() and int(path.name) not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _remember(self, last: float) -> None:
        """The records in the folder up to a step."""
        held = _held(self.folder, self._run)
        if held is None:
            logger.warning("nothing can be recalled from %s", self.folder)
            return
        for each in (each for each in held.checkpoints or () if each.step <= last):
            record = failed(each.checkpoint(held.id), each.error)
            self.records.append(self._watcher.recall(replace(record, lag=each.lag)))
        self.records.sort(key=lambda record: record.step)
        if not (self.folder / MANIFEST).is_file():
            self._run = held
            self._tidy()

    def _attempt(self, what: str, work: Callable[[], None]) -> None:
        try:
            with boundary(what, EngineError):
                work()
        except TruingError as error:
            if self.config.on_error == "raise":
                raise
            self._fail(str(error))

    def _fail(self, error: str) -> None:
        self.errors.append(error)
        logger.warning("truing goes on after an error, undecided where it could not evaluate:\n%s", error)


def _load(dataset: str | DatasetConfig) -> Dataset:
    """A dataset by its name or file."""
    if isinstance(dataset, str) and Path(dataset).exists():
        dataset = DatasetConfig(name=Path(dataset).name.partition(".")[0], path=Path(dataset))
    if isinstance(dataset, DatasetConfig):
        return load_dataset(dataset.name, [dataset])
    return load_dataset(dataset)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which a guard would touch what is not its own.

    Raises:
        StoreError: It holds a study, or checkpoints that no guard made.
    """
    own = any((folder / name).exists() for name in (MANIFEST, "guard.json"))
    foreign = (folder / "checkpoints").exists() and not own
    if foreign or any((folder / name).exists() for name in ("study.yaml", "audit.yaml")):
        raise StoreError(
            f"{folder} is not a guard's folder",
            "it holds checkpoints that no guard made" if foreign else "it holds a study or an audit",
            "a folder that does not exist, is empty, or is a guard's",
            "name another folder",
        )


def _log_of(kind: type) -> Callable[..., None]:
    """The trainer's way to log, but not TRL's, which would hand in its own averages early and begin them again."""
    for each in kind.__mro__:
        if "log" in vars(each) and not each.__module__.startswith("trl."):
            found: Callable[..., None] = vars(each)["log"]
            return found
    return Trainer.log


def _held(folder: Path, run: RunRecord) -> RunRecord | None:
    """What an earlier process wrote down; `guard.json` is what older versions wrote."""
    manifest, old = load_manifest(folder), folder / "guard.json"
    if manifest is not None:
        return manifest.runs[0]
    if not old.is_file():
        return None
    held = json.loads(old.read_text(encoding="utf-8"))
    facts, rows = held["facts"], [{k: v for k, v in row.items() if k != "run_id"} for row in held["records"]]
    return RunRecord(
        id=facts["run_id"],
        dataset=run.dataset,
        state=facts["ended"],
        stopped_at=facts["last_step"] if facts["ended"] == "stopped" else None,
        checkpoints=tuple(CheckpointRecord(**row) for row in rows),
        notes=run.notes,
        **{name: facts[name] for name in ("model", "parameters", "learning_rate", "seed")},
    )
