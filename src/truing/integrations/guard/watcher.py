"""What rank 0 does at a chosen step: save, sample, judge, decide; at once, or late, while training goes on.

Invariants: answers are sampled only of weights that are at hand: the model's own as it stands, or those in a folder.
Whatever fails becomes a record with an undecided decision, and what can be asked again is owed at the next chosen step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from truing.backends import Engine, no_answers
from truing.config.services import Services, shape_of
from truing.core.errors import EngineError, TruingError, boundary
from truing.core.files import content_key
from truing.core.records import Checkpoint, Estimate, Prompt, Response, Sampling
from truing.integrations.guard.late import Late
from truing.integrations.guard.measures import LateJudge, Measures, Record, failed
from truing.judges import Judge
from truing.monitor import Monitor, open_store
from truing.studies.folder import Asked, Manifest, RunRecord, Task

_MOST_OWED = 3
"""Checkpoints whose weights are kept because they could not be sampled."""


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
        return no_answers(prompts, sampling, "the weights are gone")

    def score(self, checkpoint: Checkpoint, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        opened = self._open
        if opened is None or opened[0] != checkpoint.weights:
            raise EngineError("the weights are gone", f"step {checkpoint.step}")
        return opened[1].score(checkpoint, prompt, answers)


class Watcher:
    """Evaluates the checkpoints of one training.

    The `engine` samples from the checkpoints' folders; None: from the live model, by an engine that `look` is given.
    """

    def __init__(self, folder: Path, measures: Measures, engine: Engine | None = None) -> None:
        self.measures, self.config, self.engine = measures, measures.config, engine
        self.store, self.door = open_store(folder), _Door()
        self.broad, self.task = measures.prompt_sets()
        settings = (self.config.evaluation, self.config.stopping)
        self._elsewhere = engine if self.config.works_elsewhere else None
        self.monitor = Monitor(self.store, self._elsewhere or self.door, self.broad, self.task, *settings)
        self.monitor.measures_judge(folder)
        self._owed: list[Checkpoint] = []
        self._late = Late(self.config.most_patience, self.config.on_error == "raise")

    @property
    def waiting(self) -> list[Checkpoint]:
        """Checkpoints whose decision may still come."""
        return self._late.checkpoints + self._owed

    @property
    def pending(self) -> int:
        """Evaluations that are under way."""
        return len(self._late.checkpoints)

    def look(self, step: int, live: Engine | None, save: Callable[[], Checkpoint]) -> list[Record]:
        """Evaluate weights as `save` saves them now; the records that are ready, of earlier steps too.

        The engine `live` samples from the live model; None where an engine samples from folders.

        Raises:
            TruingError: If the guard was asked to raise.
        """
        here = live or self.engine
        try:
            checkpoint = Checkpoint("guard", "", step, "")
            with boundary(f"saving and sampling at step {step}", EngineError):
                checkpoint = save()
                if self._elsewhere is None and here is not None:
                    self.door.open(checkpoint.weights, here)
                    self.monitor.sample(checkpoint)  # before the judge is asked for anything: it may not be there
            if not self.config.is_late:
                return self._evaluate_with_owed(checkpoint)
        except TruingError as error:
            return [self._failed(checkpoint, error)]
        finally:
            self.door.close()
        self._late.add(checkpoint, self.config.wait_from(step), lambda: self._evaluate_with_owed(checkpoint))
        return self.arrived(step)

    def arrived(self, step: float) -> list[Record]:
        """Records of evaluations that were made meanwhile, or are due by a step; see `Late.arrived`."""
        return self._late.arrived(step)

    def finish(self) -> list[Record]:
        """Wait for what is under way, and ask once more for what is owed."""
        records = self.arrived(math.inf)
        if self._owed and not self._late.stuck:
            self._late.add(self._owed[-1], -math.inf, self._settle)
            records += self.arrived(math.inf)
        return records

    def close(self) -> None:
        """End what our own engine and judges keep open; what was given is its giver's."""
        if self.engine is not None and self.measures.engine is None and not self._late.stuck:
            self.engine.close()
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

    def keep(self, live: Engine | None, restore: Callable[[Checkpoint], None], most: int) -> Checkpoint | None:
        """The checkpoint that is put back: the best one that fresh answers clear; None if there is none.

        Args:
            live: Samples from the model that `restore` puts weights into; None: the engine samples from folders.
            restore: Puts the weights of a checkpoint into the model, for a live engine.
            most: Checkpoints to consider.

        Raises:
            EngineError: Sampling or judging failed, or is stuck.
        """

        def put(checkpoint: Checkpoint) -> None:
            self.door.close()
            if not Path(checkpoint.path or "").is_dir():  # fresh answers that are stored did not clear it
                return
            if live is not None:
                restore(checkpoint)
            if (here := live or self.engine) is not None:
                self.door.open(checkpoint.weights, here)

        with boundary("confirming the best checkpoint", EngineError):
            if self._late.stuck and self.config.evaluation.confirm:
                what = "no checkpoint can be confirmed, as an evaluation is still under way"
                raise EngineError(what, todo="the checkpoints are kept: resume when the server answers")
            try:
                return self.monitor.keep(self.keepable()[:most], restore=put)
            finally:
                self.door.close()

    def manifest(self, run: RunRecord) -> Manifest:
        """What the analysis of the guard's folder needs; the identity of a judge that is not there yet is empty."""
        measures, settings = self.measures, self.config.model_dump(mode="json", exclude=set(Services.model_fields))
        benchmark, task, data = measures.benchmark, self.task, measures.dataset
        judges = ["" if each is None else _identity(each.judge) for each in (self.broad, task)]
        exact = self.broad.judge.exact  # false as long as the judge is not there
        return Manifest(
            kind="guard",
            name=run.id,
            hash=content_key(shape_of(settings)),
            config=settings,
            broad=Asked(benchmark=benchmark, judge=judges[0], samples=self.broad.samples, exact=exact),
            every_prompt=self.monitor.rule.every_prompt,
            asks=self.monitor.rule.asks,
            tasks={data.name: Task.of(data, self.config.evaluation, judges[1])} if data else {},
            runs=(run,),
        )

    def _evaluate_with_owed(self, checkpoint: Checkpoint) -> list[Record]:
        if self._elsewhere is not None:
            with suppress(TruingError):  # it is met again, and told, by the evaluation of each of them
                self.monitor.prefetch([*self._owed, *self._late.checkpoints])
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
                if not record.is_known:
                    record = replace(record, cause=self._cause(record))
        except TruingError as error:
            record = self._failed(checkpoint, error)
        owed = [c for c in self._owed if c.step != checkpoint.step]
        if record.error and self._can_be_judged(checkpoint):
            owed = sorted([*owed, checkpoint], key=lambda c: c.step)
        if self._elsewhere is not None and len(owed) > _MOST_OWED:
            del owed[1]  # the first is the base, if that is owed: without it no later step can be decided
        self._owed = owed  # at once: training may be looking which weights are still needed
        self._know_a_base()
        return record

    def _cause(self, record: Record) -> str:
        """The commonest reason why an answer has no score."""
        key = self.monitor.row(record.evaluation)["benchmark_judgments"]
        rows = self.monitor.store.read("judgments", key) if self.monitor.store.has("judgments", key) else ()
        reasons = Counter(row["error"] for row in rows if row["error"])
        return reasons.most_common(1)[0][0] if reasons else ""

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
        """True if all answers are stored, or the weights are where an engine elsewhere finds them."""
        try:
            there = self._elsewhere is not None and Path(checkpoint.path or "").is_dir()
            return bool(checkpoint.weights) and (there or self.monitor.is_sampled(checkpoint))
        except Exception:  # noqa: BLE001 - the judge's identity is part of the keys, and there may be no judge
            return False


def _identity(judge: Judge) -> str:
    try:
        return judge.identity
    except Exception:  # noqa: BLE001 - the judge's own; told when it is needed
        return ""
