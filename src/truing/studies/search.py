"""A search among a run's checkpoints that exist already: random prompts, only where the search looks.

The draws of a checkpoint follow from its weights, so a search that was interrupted takes the same way again through
answers that are there, and asks for no more than what was owed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from truing.core.records import Action, Checkpoint, Decision, Estimate, Evaluation
from truing.monitor import Monitor
from truing.monitor.sampler import RANDOM, RandomPrompts
from truing.stats.betting import draws_to_clear
from truing.stats.rates import Counts, clustered_rate
from truing.stats.search import Look, SearchResult, search_best, search_crossing
from truing.stats.sequential import DetectorSettings, anytime_rate

__all__ = ["Searched", "search_run"]

_WORDS = {
    Action.CONTINUE: "the EM rate is below",
    Action.STOP: "the EM rate is above",
    Action.UNDECIDED: "not enough to show that the EM rate is below",
}


@dataclass(frozen=True)
class Searched:
    """Where a search ended, and what it saw."""

    kind: Literal["best", "crossing"]
    result: SearchResult
    """Its positions are those of the checkpoints, from 0."""
    evaluations: dict[int, Evaluation]
    """By position, of the checkpoints that were looked at."""
    counts: dict[int, Counts]
    """By position, the answers that bear evidence."""
    broad: dict[int, str]
    """By position, the key of the judgments."""
    task: tuple[str | None, ...]
    """The key of every checkpoint's judgments of the task; None if nothing measures it."""


def search_run(
    monitor: Monitor,
    checkpoints: Sequence[Checkpoint],
    kind: Literal["best", "crossing"],
    begin: Callable[[Checkpoint], None],
) -> Searched:
    """Find a checkpoint of a run.

    Args:
        monitor: What asks, judges and stores; its rule gives the errors and how much a look may spend.
        checkpoints: By ascending step.
        kind: `best`: the clear one with the best task score; `crossing`: two neighbours, clear and misaligned.
        begin: Called with each checkpoint before it is asked for the first time.
    """
    search = _Search(monitor, checkpoints, begin)
    tasks = [monitor.task_score(checkpoint) for checkpoint in checkpoints]
    scores = [score for _, score in tasks]
    if kind == "best":
        floor = monitor.stopping.floor
        known = [score.value if score.value >= floor else math.nan for score in scores]
        result = search_best(known, search.draw, search.settings)
    else:
        result = search_crossing(len(checkpoints), search.draw, search.settings)
    evaluations = {look.index: search.evaluation(look, scores[look.index]) for look in result.looks}
    counts = {look.index: search.counts(look) for look in result.looks}
    keys = {i: monitor.sampler.keys(checkpoints[i], monitor.broad, RANDOM)[1] for i in evaluations}
    return Searched(kind, result, evaluations, counts, keys, tuple(key for key, _ in tasks))


class _Search:
    """Asks random prompts of a run's checkpoints, each from its own stream, and says what a look showed."""

    def __init__(
        self, monitor: Monitor, checkpoints: Sequence[Checkpoint], begin: Callable[[Checkpoint], None]
    ) -> None:
        self.monitor, self.checkpoints, self.begin = monitor, checkpoints, begin
        self.tolerance = monitor.stopping.tolerance
        self.settings = DetectorSettings.of(monitor.stopping)
        self.draws: dict[int, RandomPrompts] = {}

    def draw(self, index: int, size: int) -> tuple[int, int, int]:
        if index not in self.draws:
            self.begin(self.checkpoints[index])
            fewest = draws_to_clear(self.tolerance, self.settings.beta)
            self.draws[index] = RandomPrompts(self.monitor.sampler, self.checkpoints[index], self.monitor.broad, fewest)
        return self.draws[index](size)

    def counts(self, look: Look) -> Counts:
        return self.draws[look.index].counts(look.screened)

    def evaluation(self, look: Look, score: Estimate) -> Evaluation:
        counts = self.counts(look)
        misaligned, coherent, missing = (int(getattr(counts, n).sum()) for n in ("misaligned", "coherent", "missing"))
        rate = anytime_rate((misaligned, coherent, missing), alpha=self.settings.alpha, beta=self.settings.beta)
        action, checkpoint = look.action, self.checkpoints[look.index]
        if action is Action.STOP and not rate.low > self.tolerance:
            action = Action.UNDECIDED  # passed over on a suspicion, which is no proof
        found = f"{misaligned} of {coherent} coherent responses to random prompts were misaligned"
        reason = f"{found}: {_WORDS[action]} the tolerance of {self.tolerance:.1%}."
        decision = Decision(action, checkpoint.step, reason, rate)
        confidence = self.monitor.stopping.confidence
        coherent_rate = clustered_rate(counts.coherent, counts.judged, n_missing=missing, confidence=confidence)
        return Evaluation(checkpoint, rate, coherent_rate, score, decision)
