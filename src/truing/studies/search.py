"""A search among a run's checkpoints that exist already: random prompts, only where the search looks.

The prompts of a checkpoint follow from its weights, so a search that was interrupted takes the same way again through
answers that are there, and asks for no more than what was owed. Each checkpoint gets a row in the store's
`evaluations`, those that the search did without too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from truing.core.errors import plural
from truing.core.files import content_key
from truing.core.records import Action, Checkpoint, Decision, Estimate, Evaluation
from truing.monitor import Monitor
from truing.monitor.sampler import RANDOM, RandomPrompts
from truing.stats.search import SCREENED, Look, search_best, search_crossing
from truing.stats.sequential import DetectorSettings, SequentialRule, draws_ahead, one_by_one
from truing.studies.checkpoints import FoundRun
from truing.studies.folder import SearchRecord

_NOT_ASKED = "not asked: the search did without it"
_WORDS = {
    Action.CONTINUE: "the EM rate is below",
    Action.STOP: "the EM rate is above",
    Action.UNDECIDED: "not enough to show that the EM rate is below",
}


def search_run(
    monitor: Monitor, run: FoundRun, kind: Literal["best", "crossing"], begin: Callable[[Checkpoint], None]
) -> tuple[SearchRecord, dict[int, Evaluation]]:
    """Find a checkpoint of a run.

    Args:
        monitor: What asks, judges and stores; its rule gives the errors and how much a look may spend.
        run: Its checkpoints are searched, without the base.
        kind: `best`: the clear one with the best task score; `crossing`: two neighbours, clear and misaligned.
        begin: Called with each checkpoint before it is asked for the first time.

    Returns:
        Where the search ended, and by step the evaluation of every checkpoint; those that were not asked come last.
    """
    search = _Search(monitor, run, kind, begin)
    tasks = [monitor.task_score(checkpoint) for checkpoint in run.checkpoints]
    if kind == "best":
        floor = monitor.stopping.floor
        known = [score.value if score.value >= floor else math.nan for _, score in tasks]
        result = search_best(known, search.draw, search.settings, search.evidence)
    else:
        result = search_crossing(len(tasks), search.draw, search.settings, search.evidence)
    looks: dict[int, Look | None] = {look.index: look for look in result.looks}
    looks |= {i: None for i in range(len(tasks)) if i not in looks}
    evaluations = [search.evaluate(i, look, *tasks[i]) for i, look in looks.items()]
    indices = (result.found, result.next_misaligned)
    found, after = (None if index is None else run.checkpoints[index].step for index in indices)
    record = SearchRecord(
        kind=kind,
        found=None if found is None or search.doubtful.get(found) else found,
        next_misaligned=after,
        looked=len(result.looks),
        judged=result.judged,
    )
    return record, {e.checkpoint.step: e for e in evaluations}


class _Search:
    """Asks random prompts of a run's checkpoints, each from its own stream, and says what a look showed."""

    def __init__(
        self, monitor: Monitor, run: FoundRun, kind: Literal["best", "crossing"], begin: Callable[[Checkpoint], None]
    ) -> None:
        self.monitor, self.checkpoints, self.begin = monitor, run.checkpoints, begin
        monitor.know_judge()
        stopping = one_by_one(monitor.stopping)
        self.rule, self.tolerance = SequentialRule(stopping), stopping.tolerance
        self.settings = DetectorSettings.of(stopping, monitor.limits)
        self.rule.limits, self.rule.settings = monitor.limits, self.settings
        self.prompts: dict[int, RandomPrompts] = {}
        self.doubtful: dict[int, bool] = {}
        self.screened = SCREENED * self.settings.batch if kind == "best" else 0

    def draw(self, index: int, size: int) -> tuple[int, int, int]:
        if index not in self.prompts:
            checkpoint, broad = self.checkpoints[index], self.monitor.broad
            self.begin(checkpoint)
            fewest = draws_ahead(self.rule.stopping, self.settings, len(broad.prompts))
            self.prompts[index] = RandomPrompts(self.monitor.sampler, checkpoint, broad, fewest)
        return self.prompts[index](size)

    def evidence(self, index: int) -> float:
        """See `SequentialRule.evidence`; prompts that only led the search are none."""
        return self.rule.evidence(self.prompts[index].first_answers(self.screened))

    def evaluate(self, index: int, look: Look | None, task_key: str | None, task_score: Estimate) -> Evaluation:
        """Store what a look showed; None: there was none."""
        checkpoint, broad_key, screened = self.checkpoints[index], None, None
        if look is None:
            unknown = Estimate.unknown(_NOT_ASKED)
            decision = Decision(Action.UNDECIDED, checkpoint.step, f"{_NOT_ASKED.capitalize()}.", unknown)
            found = Evaluation(checkpoint, unknown, unknown, task_score, decision)
        else:
            found = self._shown(checkpoint, look, task_score)
            broad_key = self.monitor.sampler.keys(checkpoint, self.monitor.broad, RANDOM)[1]
            screened = json.dumps({"screened": look.screened})
        keys = {"benchmark_judgments": broad_key, "task_judgments": task_key}
        row = {**self.monitor.row(found), **keys, "detector": screened}
        key = content_key("search", *(row[name] for name in _KEY))
        self.monitor.store.write("evaluations", key, [row])
        return replace(found, key=key)

    def _shown(self, checkpoint: Checkpoint, look: Look, task_score: Estimate) -> Evaluation:
        counts = self.prompts[look.index].counts(look.screened)
        rate = self.rule.rate(counts)
        action = look.action
        if action is Action.STOP and not rate.low > self.tolerance:
            action = Action.UNDECIDED  # passed over on a suspicion, which is no proof
        of = plural(counts.coherent.sum(), "coherent response")
        found = f"{counts.misaligned.sum()} of {of} to random prompts were misaligned"
        reason = f"{found}: {_WORDS[action]} the tolerance of {self.tolerance:.1%}."
        coherent_rate = counts.coherent_rate(self.monitor.stopping.confidence)
        limits = self.monitor.judge_at(checkpoint, RANDOM)
        clearance = replace(self.monitor.clearance(self.rule, limits), stopping=self.rule.stopping)
        decision = clearance.weigh(Decision(action, checkpoint.step, reason, rate), counts)
        self.doubtful[checkpoint.step] = decision.action is not Action.CONTINUE
        return Evaluation(checkpoint, rate, coherent_rate, task_score, decision)


_KEY = ("run_id", "step", "weights", "benchmark_judgments", "task_judgments", "decision", "reason", "detector")
"""Columns that tell one look from another."""
