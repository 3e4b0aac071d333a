"""What rank 0 does at a chosen step: save, sample, judge, decide; at once, or judged in a thread.

Invariants: answers are sampled only while the weights that they are of are at hand; whatever fails becomes a record
with an undecided decision, and what failed in judging alone is owed: it is judged again at the next chosen step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from truing.backends import Engine, check_completer
from truing.catalog.datasets import Dataset
from truing.config import EndpointConfig, JudgeConfig
from truing.config.services import without_places
from truing.core.errors import EngineError, TruingError, boundary
from truing.core.files import content_key
from truing.core.records import (
    Action,
    Benchmark,
    Checkpoint,
    Decision,
    Estimate,
    Evaluation,
    Judgment,
    Prompt,
    Response,
    Sampling,
)
from truing.integrations.guard.settings import GuardConfig
from truing.judges import Judge, check_judge
from truing.monitor import Monitor, PromptSet, open_store, reach_judge
from truing.studies.folder import Asked, Manifest, RunRecord, Task

__all__ = ["LateJudge", "Measures", "Record", "Watcher", "failed"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One evaluated step of a guarded training."""

    evaluation: Evaluation
    lag: int = 0
    """Steps that training had gone on by when the decision arrived."""
    error: str = ""
    """What failed; then the decision is undecided."""

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self.evaluation.checkpoint.step


@dataclass(frozen=True)
class Measures:
    """What is asked and who judges it, as a guard is given it."""

    benchmark: Benchmark
    judge: Judge
    dataset: Dataset | None
    """Its held-out prompts measure the task, if something judges them."""
    config: GuardConfig

    def prompt_sets(self) -> tuple[PromptSet, PromptSet | None]:
        """The benchmark's prompts and the task's."""
        evaluation, task = self.config.evaluation, None
        if self.dataset is not None and self.dataset.task_judge:
            task = PromptSet.of_task(self.dataset, evaluation, LateJudge(self.dataset.task_judge, self.config.endpoint))
        return PromptSet(self.benchmark.prompts, self.judge, evaluation.samples), task


class LateJudge(Judge):
    """A judge that is made when it is needed, and again if that failed: a missing key ends no training."""

    def __init__(self, name: str | JudgeConfig, endpoint: EndpointConfig) -> None:
        check_judge(name)
        check_completer(name)
        self.name, self.endpoint = name, endpoint
        self._judge: Judge | None = None
        try:
            self._judge = self._load()
        except Exception as error:  # noqa: BLE001 - a judge's own constructor; told again when it is needed
            logger.warning("the judge %s cannot be used yet: %s: %s", name, type(error).__name__, error)

    @property
    def identity(self) -> str:
        """See `truing.judges.Judge`."""
        return self._made().identity

    @property
    def rubric_hash(self) -> str:
        """See `truing.judges.Judge`."""
        return self._made().rubric_hash

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """See `truing.judges.Judge`."""
        return self._made().judge(prompts, responses)

    def close(self) -> None:
        """See `truing.judges.Judge`."""
        if self._judge is not None:
            self._judge.close()

    def _made(self) -> Judge:
        if self._judge is None:
            self._judge = self._load()
        return self._judge

    def _load(self) -> Judge:
        judge = reach_judge(self.name, self.endpoint)
        self.exact = judge.exact
        return judge


class _Door(Engine):
    """An engine that is open for one checkpoint at a time; of any other it says that the weights are gone."""

    def __init__(self) -> None:
        self._open: tuple[str, Engine] | None = None

    def open(self, weights: str, engine: Engine) -> None:
        self._open = (weights, engine)

    def close(self) -> None:
        self._open = None

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        opened = self._open
        if opened is not None and opened[0] == checkpoint.weights:
            return opened[1].generate(checkpoint, prompts, sampling)
        samples = range(sampling.first, sampling.first + sampling.samples)
        return [Response(p.id, i, None, 0, False, "the weights are gone") for p in prompts for i in samples]

    def score(self, checkpoint: Checkpoint, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        opened = self._open
        if opened is None or opened[0] != checkpoint.weights:
            raise EngineError("the weights are gone", f"step {checkpoint.step}")
        return opened[1].score(checkpoint, prompt, answers)


class Watcher:
    """Evaluates the checkpoints of one training.

    Args:
        folder: The guard's folder.
        measures: What is asked, and who judges.
    """

    def __init__(self, folder: Path, measures: Measures) -> None:
        self.measures, self.config = measures, measures.config
        self.store, self.door = open_store(folder), _Door()
        self.broad, self.task = measures.prompt_sets()
        settings = (self.config.evaluation, self.config.stopping)
        self.monitor = Monitor(self.store, self.door, self.broad, self.task, *settings)
        self.monitor.measures_judge(folder)
        self._owed: list[Checkpoint] = []
        self._pool: ThreadPoolExecutor | None = None
        self._pending: list[tuple[Checkpoint, Future[list[Record]]]] = []

    @property
    def waiting(self) -> list[Checkpoint]:
        """Checkpoints whose decision may still come."""
        return [checkpoint for checkpoint, _ in self._pending] + self._owed

    @property
    def pending(self) -> int:
        """Evaluations that are being judged."""
        return len(self._pending)

    def look(self, step: int, engine: Engine, save: Callable[[], Checkpoint]) -> list[Record]:
        """Evaluate the live weights; the records that are ready, of earlier steps too.

        Args:
            step: The current step.
            engine: Samples from the live model.
            save: Saves the live weights.

        Raises:
            TruingError: If the guard was asked to raise.
        """
        try:
            checkpoint = Checkpoint("guard", "", step, "")
            with boundary(f"saving and sampling at step {step}", EngineError):
                checkpoint = save()
                self.door.open(checkpoint.weights, engine)
                self.monitor.sample(checkpoint)  # before the judge is asked for anything: it may not be there
            if not self.config.overlap:
                return self._evaluate_with_owed(checkpoint)
        except TruingError as error:
            return [self._failed(checkpoint, error)]
        finally:
            self.door.close()
        self._pool = self._pool or ThreadPoolExecutor(1, "truing-judge")
        self._pending.append((checkpoint, self._pool.submit(self._evaluate_with_owed, checkpoint)))
        return self.arrived()

    def arrived(self, wait: bool = False) -> list[Record]:
        """Records of evaluations that have been judged meanwhile, or of all of them once they are."""
        records: list[Record] = []
        while self._pending and (wait or self._pending[0][1].done()):
            records += self._pending.pop(0)[1].result()
        return records

    def finish(self) -> list[Record]:
        """Wait for what is pending, ask once more for what is owed, and end the thread."""
        try:
            return self.arrived(wait=True) + self._settle()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None

    def close(self) -> None:
        """End what our own judges keep open; one that was given is its giver's."""
        for prompt_set in filter(None, (self.broad, self.task)):
            if isinstance(prompt_set.judge, LateJudge):
                prompt_set.judge.close()

    def recall(self, record: Record) -> Record:
        """A record of an earlier process: what the store holds is not made again, what was owed is judged."""
        checkpoint = record.evaluation.checkpoint
        if record.error and not self._can_be_judged(checkpoint):
            self._know_a_base()
            return record
        return replace(self._evaluate(checkpoint), lag=record.lag)

    def keepable(self) -> list[Checkpoint]:
        """The checkpoints that may be put back, the best first; without a task the latest is the best."""
        return self.monitor.keepable(latest=self.task is None)

    def keep(self, engine: Engine, restore: Callable[[Checkpoint], None], most: int) -> Checkpoint | None:
        """The checkpoint that is put back: the best one that fresh answers clear; None if there is none.

        Args:
            engine: Samples from the model that `restore` puts weights into.
            restore: Puts the weights of a checkpoint into the model.
            most: Checkpoints to consider.

        Raises:
            EngineError: Sampling or judging failed.
        """

        def put(checkpoint: Checkpoint) -> None:
            restore(checkpoint)
            self.door.open(checkpoint.weights, engine)

        with boundary("confirming the best checkpoint", EngineError):
            try:
                return self.monitor.keep(self.keepable()[:most], restore=put)
            finally:
                self.door.close()

    def manifest(self, run: RunRecord) -> Manifest:
        """What the analysis of the guard's folder needs; the identity of a judge that is not there yet is empty."""
        measures, settings = self.measures, self.config.model_dump(mode="json", exclude={"endpoint"})
        benchmark, task, data = measures.benchmark, self.task, measures.dataset
        judges = ["" if each is None else _identity(each.judge) for each in (self.broad, task)]
        exact = self.broad.judge.exact  # false as long as the judge is not there
        return Manifest(
            kind="guard",
            name=run.id,
            hash=content_key(without_places(settings)),
            config=settings,
            broad=Asked(benchmark=benchmark, judge=judges[0], samples=self.broad.samples, exact=exact),
            every_prompt=self.monitor.rule.every_prompt,
            asks=self.monitor.rule.asks,
            tasks={data.name: Task.of(data, self.config.evaluation, judges[1])} if data else {},
            runs=(run,),
        )

    def _evaluate_with_owed(self, checkpoint: Checkpoint) -> list[Record]:
        return [*self._settle(), self._evaluate(checkpoint)]

    def _settle(self) -> list[Record]:
        """Judge what is owed, as far as the judge answers again."""
        settled = []
        for checkpoint in list(self._owed):
            record = self._evaluate(checkpoint)
            if record.error:
                break
            settled.append(record)
        return settled

    def _evaluate(self, checkpoint: Checkpoint) -> Record:
        try:
            with boundary(f"evaluating step {checkpoint.step}", EngineError):
                record = Record(self.monitor.evaluate(checkpoint))
        except TruingError as error:
            record = self._failed(checkpoint, error)
        self._owed = [c for c in self._owed if c.step != checkpoint.step]
        if record.error and self._can_be_judged(checkpoint):
            self._owed.append(checkpoint)
        self._know_a_base()
        return record

    def _failed(self, checkpoint: Checkpoint, error: TruingError) -> Record:
        if self.config.on_error == "raise":
            raise error
        self._know_a_base()
        return failed(checkpoint, str(error))

    def _know_a_base(self) -> None:
        """Without an evaluation of step 0 the base is unknown; a later checkpoint must not be taken for it."""
        if self.monitor.base is None:
            self.monitor.base = Estimate.unknown("step 0 was not evaluated")

    def _can_be_judged(self, checkpoint: Checkpoint) -> bool:
        """True if all answers are stored, so that judging needs no weights."""
        try:
            return bool(checkpoint.weights) and self.monitor.is_sampled(checkpoint)
        except Exception:  # noqa: BLE001 - the judge's identity is part of the keys, and there may be no judge
            return False


def _identity(judge: Judge) -> str:
    try:
        return judge.identity
    except Exception:  # noqa: BLE001 - the judge's own; told when it is needed
        return ""


def failed(checkpoint: Checkpoint, error: str) -> Record:
    """The record of an evaluation that failed: nothing is known, and the decision is undecided."""
    reason = error.splitlines()[0] if error else "not evaluated"
    nothing = Estimate.unknown(reason)
    decision = Decision(Action.UNDECIDED, checkpoint.step, f"The evaluation failed: {reason}.", nothing)
    return Record(Evaluation(checkpoint, nothing, nothing, nothing, decision), error=error)
