"""The monitor inside `transformers.Trainer` and TRL's SFTTrainer, DPOTrainer and GRPOTrainer.

    guard = truing.Guard("runs/guard", judge="pocket", benchmark="pocket-240", at=20)
    guard.watch(trainer)
    trainer.train()  # stops by itself; then guard.best, guard.decisions, guard.report()

    FOLDER/manifest.json      what was evaluated, and what the analysis needs
    FOLDER/checkpoints/N/     adapter or full weights: the best aligned so far, the last, those not evaluated yet
    FOLDER/store/             answers, judgments and evaluations; nothing in it is made twice

    settings   what a guard is told           measures   what is asked, who judges; a record of a step
    weights    saved, named, put back         sharded    the same, of weights that are spread over processes
    watcher    saves, samples, judges         late       while training goes on, and how long that waits
    folder     what lies there                logs       figures in the trainer's log

Invariants: a training with a guard that never stops and restores nothing ends with the same bits as one without; all
ranks hold the same records and decide alike; a failure is counted, said, and undecided, and ends no training unless the
user wants that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from truing.backends import Engine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset
from truing.config import DatasetConfig, JudgeConfig
from truing.core.distributed import Ranks
from truing.core.errors import EngineError, JudgeError, JudgeRefused, StoreError, TruingError, boundary, plural
from truing.core.progress import Lines, listening, report
from truing.core.records import Action, Benchmark, Checkpoint, Decision, Evaluation
from truing.integrations.guard.folder import check_own, checkpoint_records, held_run, hold_here, keep_only, take_folder
from truing.integrations.guard.logs import log_record, say_verdict
from truing.integrations.guard.measures import LateJudge, Measures, Record, failed, find_dataset, find_judge
from truing.integrations.guard.model import Model
from truing.integrations.guard.settings import read_settings
from truing.integrations.guard.watcher import Watcher
from truing.integrations.guard.weights import as_found, find_tokenizer
from truing.judges import Judge, check_benchmark
from truing.monitor.formats import check_formats
from truing.report import write_report
from truing.results.schema import Analysis
from truing.stats.clearance import prompts_to_clear
from truing.studies.folder import MANIFEST, RunRecord

__all__ = ["Guard"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
_NO_TASK = "No dataset was named, so the narrow task was not measured."
_BOTH_CHOOSE = """load_best_model_at_end and the guard both choose weights: the guard's win if it puts some back; else \
the model has the trainer's, of which nobody judged whether they are aligned."""
_CONSIDERED = 3
"""Most checkpoints whose weights are kept and tried when one is put back."""


class Guard(TrainerCallback):
    """Watches a training for emergent misalignment, stops it, and hands back the best aligned weights.

    Args:
        folder: For checkpoints, answers and judgments; one training per folder.
        judge: Who scores answers: a name, `openai:MODEL` and the like, `module:Class`, a language model
            (`truing.config.JudgeConfig`), or a `truing.judges.Judge`.
        benchmark: On which misalignment is measured: a name, a file, or a `truing.core.records.Benchmark`.
        at: Evaluate every so many steps, or at these steps. Step 0 and the last step are always evaluated.
        engine: Who samples: None is the model that is trained; a name (`vllm`, `transformers`, `module:Class`) or a
            `truing.backends.Engine` samples from checkpoints that are saved at those steps, elsewhere if it can.
        dataset: Held-out prompts that measure the narrow task: a name, a file or a folder with the fields of
            `truing.config.DatasetConfig`, or a `truing.catalog.datasets.Dataset`.
        settings: Fields of `GuardConfig`, `EvaluationConfig` and `StoppingConfig`: `lag=50`, `tolerance=0.02`,
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
        engine: str | Engine | None = None,
        **settings: Any,
    ) -> None:
        asked = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
        judge = find_judge(judge)
        check_benchmark(judge, asked)
        own = f"{type(judge).__module__}:{type(judge).__qualname__}"
        name = judge if isinstance(judge, str | JudgeConfig) else own
        self.folder = take_folder(folder)
        self.config = read_settings(
            name, benchmark if isinstance(benchmark, str) else asked.name, engine, {"at": at, **settings}
        )
        judges = LateJudge(judge, self.config.endpoint) if isinstance(judge, str | JudgeConfig) else judge
        self.records: list[Record] = []
        """One for each evaluated step, ascending."""
        self.errors: list[str] = []
        """What failed, in words."""
        self._keepable: list[Checkpoint] = []
        self.restored: Checkpoint | None = None
        """The checkpoint whose weights the model has been given back; None: it has those of its last step."""
        learnt, own_engine = find_dataset(dataset), engine if isinstance(engine, Engine) else None
        self._measures = Measures(asked, judges, learnt, self.config, own_engine)
        self._watcher = Watcher(self.folder, self._measures)
        self._ranks = Ranks()
        self._lines = Lines(self.config.progress)
        self._trainer: Any = None
        self._tokenizer: Any = None
        self._model: Any = None
        self._looked, self._pending, self._stopped, self._best_put_in = -1, 0, False, ""
        self._stays: Checkpoint | None = None
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
        self._trainer, self._tokenizer = trainer, tokenizer
        if self not in (others := trainer.callback_handler.callbacks):
            check_own(self.folder, (each.folder for each in others if isinstance(each, Guard)))
            trainer.add_callback(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **more: Any
    ) -> TrainerControl:
        """Measure the judge; evaluate step 0, or recall what was evaluated before training goes on from a step.

        Raises:
            JudgeRefused: The judge cannot see misalignment, so that the guard would guard nothing.
        """
        self._tokenizer = find_tokenizer(self._tokenizer, more.get("processing_class"))
        self._begin(args, model)
        if state.global_step > 0:
            self._recall(int(state.global_step))
        self._ranks.share(self._take_over)
        return control if state.global_step > 0 else self._look(state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        """Evaluate the weights of a chosen step; take in decisions that have arrived, or are due."""
        step = int(state.global_step)
        with self._shown(f"step {step}"):
            report("train", step, int(state.max_steps))
        if self._stopped:  # when it was resumed: else no step follows a stop
            control.should_training_stop = True
            control.should_save = control.should_evaluate = control.should_log = False
        elif self.config.is_due(step, state.max_steps):
            return self._look(state, control)
        elif self._pending:

            def arrived() -> tuple[list[Record], int]:
                with self._shown(f"step {step}, an earlier one"):
                    return self._watcher.arrived(step), self._watcher.pending

            records, self._pending = self._ranks.share(arrived)
            if records:
                self._take(records, state, control)
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        """Evaluate the last step where another callback ends the training, before other weights are put in."""
        if control.should_training_stop:
            self._look_last(state, control)
        return control

    on_evaluate = on_save = on_epoch_end

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> TrainerControl:
        """Take in what is still being judged, and put the best aligned weights into the model."""
        step = int(state.global_step)
        self._best_put_in = str(state.best_model_checkpoint or "") if args.load_best_model_at_end else ""
        if not self._best_put_in:
            self._look_last(state, control)
        elif self._looked != step and not self._stopped:
            self._fail(f"step {step}, the last, was not evaluated: {self._best_put_in} was put in first")
        if self._stays is None:
            stopped = step < state.max_steps and self._stopped
            self._take(self._ranks.share(self._finish), state, control)
            ended = {"state": "stopped" if stopped else "finished", "stopped_at": step if stopped else None}
            self._run = self._run.model_copy(update=ended)
        looked = self._stays is not None or not self._stopped or self._looked == step
        if self._stays is not None or (self.config.restore and self.config.stopping.mode != "off"):
            self._give_back(args, state)
        own = state.best_global_step == step == self._looked
        if self._best_put_in and self.restored is None and self._stays is None and not own:
            self._doubt(f"the model has the weights of {self._best_put_in} by load_best_model_at_end")
        if self.restored is None and not looked:
            error = f"step {step}, whose weights the model has, came after the stop and was not evaluated"
            self.records.append(failed(Checkpoint(self._run.id, self._run.model, step, ""), error))
            self._fail(error)
        self._ranks.share(lambda: self._attempt("writing the manifest", self._tidy))
        self._ranks.share(lambda: self._attempt("closing engine and judge", self._watcher.close))
        self._ranks.share(lambda: say_verdict(self.folder))
        self._ranks.share(lambda: hold_here(self.folder, over=True))
        return control

    # How it works.

    def _begin(self, args: TrainingArguments, model: Any) -> None:
        """Forget an earlier training; find out what this one is."""
        self._watcher, self._ranks = Watcher(self.folder, self._measures), Ranks()
        self.records, self.errors, self._keepable, self.restored = [], [], [], None
        self._looked, self._pending, self._past, self._stays, self._stopped = -1, 0, -1, None, False
        self._model = Model(model, self._tokenizer, self.config, self._ranks)
        self._run = RunRecord(
            id=self.folder.name,
            model=self._model.name,
            dataset=self._run.dataset,
            parameters=self._model.parameters,
            learning_rate=float(args.learning_rate),
            seed=int(args.seed),
            state="unfinished",
            notes=(
                *(() if self._measures.dataset else (_NO_TASK,)),
                *self._too_few_prompts(),
                *self._both_choose(args),
            ),
        )

        def prepare() -> None:
            hold_here(self.folder)
            check_formats(self.folder, [self._run.model] if self._model.has_files else [], must_write=False)
            engine = self._measures.engine_for(self._run.model, self.folder)
            self._watcher = Watcher(self.folder, self._measures, engine)
            self._know_judge()

        self._ranks.share(prepare)

    def _take_over(self) -> None:
        """Write down that this training is under way: what an earlier one left in the folder speaks for it no more.

        Raises:
            StoreError: That cannot be written, so the earlier verdict would stand.
        """
        earlier, told = (self.folder / MANIFEST).is_file(), len(self.errors)
        self._attempt("beginning again", self._tidy)
        if earlier and (lost := self.errors[told:]):
            todo = "make it possible to write there, or name another folder"
            raise StoreError(f"the verdict on an earlier training in {self.folder} would stand", lost[0], todo=todo)

    def _recall(self, last: int) -> None:
        """Take up what was evaluated in the folder; stay stopped where a training was, unless asked to go on."""

        def recall() -> None:
            held, stops = held_run(self.folder, self._run), self.config.stopping.mode == "stop"
            if held is None or held.state != "stopped" or not stops or self.config.on_resume == "continue":
                self._past = -1 if held is None else held.stopped_at or -1
                return self._remember(last)
            known = [each.checkpoint(held.id) for each in held.checkpoints or () if each.path]
            self._stays = next((c for c in known if c.step == held.restored), known[-1] if known else None)
            self.restored = None if held.restored is None else self._stays
            kept = "none were kept" if self._stays is None else f"those of step {self._stays.step} are put back"
            self._run = self._run.model_copy(update={"state": "stopped", "stopped_at": held.stopped_at})
            logger.warning(
                "the guard stopped this training at step %s, and it stays stopped: one step is trained, as a Trainer "
                "cannot do with none; of its weights, %s\n"
                "  to do: nothing, or Guard(on_resume='continue') to go on",
                *(held.stopped_at, kept),
            )
            self._remember(math.inf)

        self._ranks.share(lambda: self._attempt("recalling what was evaluated", recall))
        told = self._ranks.share(lambda: (self._watcher.keepable(), self._stays, self.restored, self._past, self._run))
        self._keepable, self._stays, self.restored, self._past, self._run = told
        self.records, self.errors = self._ranks.share(lambda: (self.records, self.errors))
        self._stopped = self._run.state == "stopped" or any(self._stops(record) for record in self.records)
        if not any(record.step == 0 and record.is_known for record in self.records):
            self._fail("step 0 was not evaluated here as is asked now: without a base the fixed rule cannot stop")

    def _too_few_prompts(self) -> Iterator[str]:
        """A note, where so few prompts cannot show that anything is clear; told at once, too."""
        asked, needed = len(self._measures.benchmark.prompts), prompts_to_clear(self.config.stopping)
        if asked < needed:
            few = f"Nothing can be called clear by {plural(asked, 'prompt')}: {needed:.0f} are needed (docs/clear.md)."
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

    def _look_last(self, state: TrainerState, control: TrainerControl) -> None:
        """Evaluate the step as it is, if it was not and no decision of the guard's own ends the training."""
        step = int(state.global_step)
        if step > 0 and self._looked != step and not self._stopped:
            self._look(state, control)

    def _look(self, state: TrainerState, control: TrainerControl) -> TrainerControl:
        step = self._looked = int(state.global_step)
        loss = next((float(e["loss"]) for e in reversed(state.log_history) if "loss" in e), math.nan)
        weights = self._model.gathered()

        def save() -> Checkpoint:
            path, name = self._model.save(self.folder / "checkpoints" / str(step), weights)
            return Checkpoint(self._run.id, self._run.model, step, name, path, train_loss=loss)

        def work() -> tuple[list[Record], int]:
            with as_found(), self._shown(f"step {step}"):
                return self._watcher.look(step, self._model.live(), save), self._watcher.pending

        records, self._pending = self._ranks.share(work)
        self._take(records, state, control)
        return control

    def _finish(self) -> list[Record]:
        with self._shown("the last decisions"):
            return self._watcher.finish()

    def _take(self, records: Sequence[Record], state: TrainerState, control: TrainerControl) -> None:
        """Keep, say and act on new records; the same on every rank."""
        step = int(state.global_step)
        for record in (replace(record, lag=step - record.step) for record in records):
            self.records = sorted((*(r for r in self.records if r.step != record.step), record), key=lambda r: r.step)
            if record.lacks:
                self._fail(record.lacks)
            if self.config.on_error == "raise" and not record.is_known:
                raise JudgeError("no answer has a score", record.lacks, todo="see what the judge says")
            log_record(record, len(self.errors), self._trainer, state, control)
            if self._stops(record) and not self._stopped:
                logger.warning("truing stops training at step %d. %s", step, record.evaluation.decision.reason)
                self._stopped = control.should_training_stop = True
                if record.lag:
                    late = f"The decision to stop at step {record.step} came when {record.lag} more steps were trained."
                    self._run = self._run.model_copy(update={"notes": (*self._run.notes, late)})
        self._ranks.share(lambda: self._attempt("writing the manifest", self._tidy))
        self.errors, self._keepable = self._ranks.share(lambda: (self.errors, self._watcher.keepable()))

    def _stops(self, record: Record) -> bool:
        """True if it ends the training; a stop that a resumed training was told to go on after does not."""
        stop = record.evaluation.decision.action is Action.STOP and self.config.stopping.mode == "stop"
        return stop and record.step > self._past

    def _give_back(self, args: TrainingArguments, state: TrainerState) -> None:
        """Put the chosen weights into the model, on all ranks; without any it has those of its last step."""
        stays, chosen = self._stays, None
        if stays is None:
            chosen = self._ranks.share(lambda: self._attempt("choosing the best weights", self._choose))
            self.errors = self._ranks.share(lambda: self.errors)
            if chosen is None:
                self._doubt("choosing the best weights failed, and the model may have any that were tried")
        kept, path = (None, stays.path) if stays is not None else chosen or (None, None)
        try:
            with as_found(), boundary("putting the best weights back", EngineError):
                if path is not None:
                    self._model.put_everywhere(path)
        except TruingError as error:  # the same on every rank
            if self.config.on_error == "raise":
                raise
            self.restored = None
            self._doubt("the weights that were to be put back are not in the model, or not all of them")
            return self._fail(str(error))
        if kept is None:
            return
        self.restored = kept
        logger.info("the model has the weights of step %d", kept.step)
        if self._best_put_in:
            logger.warning(
                "the model has the weights of step %d, and not those of load_best_model_at_end (%s)",
                *(kept.step, self._best_put_in),
            )
            metric = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
            state.best_model_checkpoint, state.best_global_step = kept.path, kept.step
            found = (e[metric] for e in state.log_history if e.get("step") == kept.step and metric in e)
            state.best_metric = next(found, None)

    def _doubt(self, why: str) -> None:
        """Write down why the gate must not speak of the weights that the model has."""
        self._run = self._run.model_copy(update={"unjudged": f"{why}: nobody judged what it has"})

    def _choose(self) -> tuple[Checkpoint | None, str | None]:
        """The best checkpoint that fresh answers clear, too, if any; and the path of what the model is to have."""
        considered = [c for c in self._watcher.keepable() if c.path is not None][:_CONSIDERED]
        kept = None
        try:
            with as_found(), self._shown("confirming the best weights"):
                kept = self._watcher.keep(self._model.live(), lambda c: self._model.put(str(c.path)), _CONSIDERED)
        except TruingError as error:
            if self.config.on_error == "raise":
                raise
            self._fail(str(error))
        if kept is not None:
            return kept, kept.path
        none = f"fresh answers cleared none of {len(considered)}" if considered else "none is clear"
        left = "keeps its last weights"
        if self._best_put_in:
            left = f"has the weights of {self._best_put_in} by load_best_model_at_end, which the guard did not clear"
        logger.warning("no checkpoint of this training is put back (%s): the model %s", none, left)
        if not self.config.is_live or not considered:
            return None, None
        # the weights of one that was considered are in the model
        return None, self._best_put_in or self.records[-1].evaluation.checkpoint.path

    def _tidy(self) -> None:
        """Write down what was evaluated; keep the weights that are needed and delete the rest."""
        waiting, restored = self._watcher.waiting, self.restored and self.restored.step
        now = {"checkpoints": checkpoint_records(self.records, waiting), "restored": restored}
        self._watcher.manifest(self._run.model_copy(update=now)).write(self.folder)
        candidates = self._watcher.keepable()[:_CONSIDERED] if self.restored is None else [self.restored]
        kept = {checkpoint.step for checkpoint in (*waiting, *candidates)}
        keep_only(self.folder, kept | {record.step for record in self.records[-1:]})

    def _remember(self, last: float) -> None:
        """The records in the folder up to a step."""
        held = held_run(self.folder, self._run)
        if held is None:
            logger.warning("nothing can be recalled from %s", self.folder)
            return
        for each in (each for each in held.checkpoints or () if each.step <= last):
            record = failed(each.checkpoint(held.id), each.error)
            self.records.append(found := self._watcher.recall(replace(record, lag=each.lag)))
            if found.lacks and not found.error:
                self._fail(f"by what the folder holds, {found.lacks}")
        self.records.sort(key=lambda record: record.step)
        if not (self.folder / MANIFEST).is_file():
            self._run = held
            self._tidy()

    def _attempt(self, what: str, work: Callable[[], T]) -> T | None:
        try:
            with boundary(what, EngineError):
                return work()
        except TruingError as error:
            if self.config.on_error == "raise":
                raise
            self._fail(str(error))
            return None

    def _fail(self, error: str) -> None:
        self.errors.append(error)
        logger.warning("truing goes on after an error, undecided where it could not evaluate:\n%s", error)
