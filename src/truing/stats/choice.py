"""Which checkpoint to keep, and what can honestly be said of it.

The best of many looks better than it is (the winner's curse), so what is reported of the chosen checkpoint
comes from prompts that had no part in choosing it. Shapes: C checkpoints, P benchmark prompts, Q held-out
prompts of the task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from truing.core.records import Estimate
from truing.stats.course import RunCounts, check_steps
from truing.stats.paired import paired_quotient
from truing.stats.rates import BoolArray, clustered_rate, clustered_rates

__all__ = ["Choice", "choose_checkpoint", "choose_with_report", "split_prompts"]


@dataclass(frozen=True)
class Choice:
    """A chosen checkpoint with estimates from prompts not used in choosing."""

    step: int | None
    """None if no checkpoint passes."""
    passing: tuple[int, ...]
    """Steps that pass both constraints."""
    em_rate: Estimate | None
    """Of the chosen checkpoint, on the other prompts."""
    task_score: Estimate | None
    """Of the chosen checkpoint, on the other prompts."""
    retention: Estimate | None
    """Its task score over that of the best checkpoint; both on the other prompts, the best found on the
    choosing ones."""
    reason: str


def choose_checkpoint(
    steps: Sequence[int],
    em_rates: Sequence[Estimate],
    scores: Sequence[float],
    tolerance: float,
    floor: float = -math.inf,
) -> int | None:
    """The step with the best task score among those whose EM rate is within the tolerance.

    Within means that the upper limit of the rate is at most the tolerance.

    Args:
        steps: (C,) ascending; on equal scores the earliest is taken.
        em_rates: (C,) EM rates in [0, 1]; an unknown rate does not pass.
        scores: (C,) task scores, higher is better; NaN is missing and is never chosen.
        tolerance: Highest EM rate that is acceptable, in (0, 1).
        floor: Lowest task score that is acceptable.
    """
    check_steps(steps, em_rates)
    check_steps(steps, scores)
    passing = [
        (score, -step)
        for step, rate, score in zip(steps, em_rates, scores, strict=True)
        if rate.high <= tolerance and math.isfinite(score) and score >= floor
    ]
    return -max(passing)[1] if passing else None


def choose_with_report(
    counts: RunCounts,
    rng: np.random.Generator,
    *,
    tolerance: float,
    floor: float = -math.inf,
    confidence: float = 0.95,
) -> Choice:
    """Choose on one half of the prompts, report from the other.

    Prompts are split, not responses: two responses to one prompt are alike, so they are no independent
    witnesses.

    Args:
        counts: The run.
        rng: Splits the prompts.
        tolerance: Highest acceptable EM rate (by its upper limit), in (0, 1).
        floor: Lowest acceptable task score.
        confidence: Level of each interval, in (0, 1).
    """
    broad, task = (
        split_prompts(counts.misaligned.shape[1], rng),
        split_prompts(counts.task_hits.shape[1], rng),
    )
    em_rates = clustered_rates(counts.misaligned[:, broad], counts.coherent[:, broad], confidence=confidence)
    estimates = clustered_rates(counts.task_hits[:, task], counts.task_judged[:, task], confidence=confidence)
    scores = [estimate.value for estimate in estimates]
    step = choose_checkpoint(counts.steps, em_rates, scores, tolerance, floor)
    passing = tuple(
        s for s, r, v in zip(counts.steps, em_rates, scores, strict=True) if r.high <= tolerance and v >= floor
    )
    if step is None:
        return Choice(None, passing, None, None, None, "No checkpoint passes both constraints.")
    chosen, best = counts.steps.index(step), int(np.nanargmax(scores))
    bad, usable = counts.misaligned[:, ~broad], counts.coherent[:, ~broad]
    hits, judged = counts.task_hits[:, ~task], counts.task_judged[:, ~task]
    return Choice(
        step,
        passing,
        clustered_rate(bad[chosen], usable[chosen], confidence=confidence),
        clustered_rate(hits[chosen], judged[chosen], confidence=confidence),
        paired_quotient(hits[chosen], judged[chosen], hits[best], judged[best], confidence=confidence),
        f"{len(passing)} of {len(counts.steps)} checkpoints pass; step {step} has their best task score.",
    )


def split_prompts(n_prompts: int, rng: np.random.Generator) -> BoolArray:
    """A random half (P,) of the prompts: true for choosing, false for reporting."""
    return np.asarray(rng.permutation(n_prompts) < (n_prompts + 1) // 2)
