"""What a guard asks and who judges it; and what it has of an evaluated step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from truing.backends import Engine, check_completer, faster_engine, load_engine, parse_judge
from truing.catalog.datasets import Dataset, load_dataset
from truing.config import DatasetConfig, EndpointConfig, JudgeConfig
from truing.config.files import validate
from truing.core.errors import ConfigError, plural
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
)
from truing.integrations.guard.settings import GuardConfig
from truing.judges import Judge, check_judge
from truing.judges.preflight import CHANGED
from truing.monitor import PromptSet, reach_judge

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One evaluated step of a guarded training."""

    evaluation: Evaluation
    lag: int = 0
    """Steps that training had gone on by when the decision arrived."""
    error: str = ""
    """What failed; then the decision is undecided."""
    cause: str = ""
    """Why most answers have no score, where none has."""

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self.evaluation.checkpoint.step

    @property
    def lacks(self) -> str:
        """Why nothing is decided, in words, where a failure is the cause; empty: none is."""
        missing, decision = self.evaluation.em_rate.n_missing, self.evaluation.decision
        changed = decision.reason.startswith(CHANGED)
        if self.error or decision.action is not Action.UNDECIDED or not (missing or changed):
            return self.error
        lost = f"step {self.step} lacks {plural(missing, 'score')}" if missing else f"step {self.step} is undecided"
        return f"{lost}: {decision.reason}" + (f" Most often: {self.cause}." if self.cause else "")

    @property
    def is_known(self) -> bool:
        """True if some answer has a score."""
        return self.evaluation.coherent_rate.n_responses > 0


@dataclass(frozen=True)
class Measures:
    """What is asked and who judges it, as a guard is given it."""

    benchmark: Benchmark
    judge: Judge
    dataset: Dataset | None
    """Its held-out prompts measure the task, if something judges them."""
    config: GuardConfig
    engine: Engine | None = None
    """The user's own; None: it is made from its name, or the live model answers."""

    def engine_for(self, model: str, folder: Path) -> Engine | None:
        """Who samples from the checkpoints of a base model; None: the live model does."""
        name = "transformers" if self.config.is_live else self.config.evaluation.engine
        answers = 2 * self.config.evaluation.samples * len(self.benchmark.prompts)  # at least: the first step, the last
        if faster := faster_engine(self.config, [(name, model, answers)]):
            logger.info("%s", faster)
        if self.config.is_live or self.engine is not None:
            return self.engine
        return load_engine(self.config.evaluation.engine, model, self.config, folder)

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
        try:
            _ = self._made
        except Exception as error:  # noqa: BLE001 - a judge's own constructor; told again when it is needed
            logger.warning("the judge %s cannot be used yet: %s: %s", name, type(error).__name__, error)

    @property
    def identity(self) -> str:
        """See `truing.judges.Judge`."""
        return self._made.identity

    @property
    def rubric_hash(self) -> str:
        """See `truing.judges.Judge`."""
        return self._made.rubric_hash

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """See `truing.judges.Judge`."""
        return self._made.judge(prompts, responses)

    def close(self) -> None:
        """See `truing.judges.Judge`."""
        if "_made" in vars(self):
            self._made.close()

    @cached_property
    def _made(self) -> Judge:
        judge = reach_judge(self.name, self.endpoint)
        self.exact = judge.exact
        return judge


def failed(checkpoint: Checkpoint, error: str) -> Record:
    """The record of an evaluation that failed: nothing is known, and the decision is undecided."""
    reason = error.splitlines()[0] if error else "not evaluated"
    nothing = Estimate.unknown(reason)
    decision = Decision(Action.UNDECIDED, checkpoint.step, f"The evaluation failed: {reason}.", nothing)
    return Record(Evaluation(checkpoint, nothing, nothing, nothing, decision), error=error)


def find_judge(judge: str | JudgeConfig | Judge) -> str | JudgeConfig | Judge:
    """A judge as it is given, or its settings where it is written as `openai:MODEL` and the like.

    Raises:
        ConfigError: It is none.
    """
    given: object = judge  # callers without a type checker give anything
    if not isinstance(given, str | JudgeConfig | Judge):
        todo = "derive its class from truing.judges.Judge"
        raise ConfigError("the guard's judge is no judge", type(given).__name__, "a truing.judges.Judge", todo)
    if isinstance(judge, str) and isinstance(parsed := parse_judge(judge), dict):
        return validate(JudgeConfig, parsed, "the guard's judge is not valid")
    return judge


def find_dataset(dataset: str | DatasetConfig | Dataset | None) -> Dataset | None:
    """A dataset by its name or file."""
    if isinstance(dataset, Dataset | None):
        return dataset
    if isinstance(dataset, str) and Path(dataset).exists():
        dataset = DatasetConfig(name=Path(dataset).name.partition(".")[0], path=Path(dataset))
    if isinstance(dataset, DatasetConfig):
        return load_dataset(dataset.name, [dataset])
    return load_dataset(dataset)
