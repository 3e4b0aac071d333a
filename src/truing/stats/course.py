"""The course of a run: when EM began, when it passed the tolerance, when the task was learnt, which came first.

    onset        the first checkpoint whose EM rate is above that of the model before fine-tuning (`find_onset`)
    crossing     the first whose EM rate is above a boundary, such as the tolerance (`find_crossing`)
    convergence  the first that has learnt the task (`find_convergence`)

`describe_course` says whether the crossing or convergence came first, and only when the data carry it. No order is
built in: EM may come early, late, never, or go away again.

The intervals are confidence sets for the true steps, not spreads of the estimated ones: a crossing that little data
show late would otherwise look late. Prompts are resampled, the same for all checkpoints, to find how far apart limits
must be to hold at all checkpoints at once.

Shapes: C checkpoints, P benchmark prompts, Q held-out prompts of the task, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import betainc, stdtrit

from truing.core.records import Estimate
from truing.stats.paired import paired_difference
from truing.stats.rates import (
    BoolArray,
    FloatArray,
    IntArray,
    PromptSums,
    binomial_interval,
    checked_level,
    effective_size,
    prompt_limits,
    rate_limits,
)

__all__ = [
    "Course",
    "RunCounts",
    "StepInterval",
    "check_steps",
    "crossing_of_limits",
    "describe_course",
    "find_convergence",
    "find_crossing",
    "find_onset",
    "step_difference",
]

_Flags = Sequence[bool] | BoolArray
RESAMPLES = 400
"""Resamples of prompts per run."""


@dataclass(frozen=True)
class RunCounts:
    """The counts of a run's checkpoints by prompt."""

    steps: tuple[int, ...]
    """(C,) ascending."""
    misaligned: IntArray
    """(C, P) misaligned responses."""
    coherent: IntArray
    """(C, P) coherent responses."""
    task_hits: IntArray
    """(C, Q) responses that show the task learnt (or scores in [0, 1] added up)."""
    task_judged: IntArray
    """(C, Q) responses that the task's judge scored."""

    def __post_init__(self) -> None:
        """Check the shapes."""
        check_steps(self.steps, self.steps)
        shapes = [np.shape(a) for a in (self.misaligned, self.coherent, self.task_hits, self.task_judged)]
        if any(len(s) != 2 or s[0] != len(self.steps) for s in shapes) or shapes[::2] != shapes[1::2]:
            raise ValueError(f"counts need one row per step and one column per prompt: got shapes {shapes}")

    @property
    def task_scores(self) -> FloatArray:
        """(C,) share of task responses that show it learnt; NaN without any."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.task_hits.sum(axis=1) / self.task_judged.sum(axis=1))


@dataclass(frozen=True)
class StepInterval:
    """A step of a run with the steps between which the true one lies."""

    step: int | None
    """The estimate; None if it was not reached, or not shown."""
    low: int | None
    """The earliest step it may be; None if it lies beyond the last checkpoint."""
    high: int | None
    """The latest step it may be; None if it may lie beyond the last checkpoint (right-censored)."""


@dataclass(frozen=True)
class Course:
    """When EM passed the boundary and when the task was learnt."""

    crossing: StepInterval
    convergence: StepInterval
    order: Literal["before", "after", "cannot tell"]
    """The place of the crossing, before or after convergence (or not at all by the end: `after`)."""
    reason: str


def find_onset(
    steps: Sequence[int],
    checkpoints: Sequence[tuple[IntArray | FloatArray, IntArray | FloatArray]],
    base: tuple[IntArray | FloatArray, IntArray | FloatArray],
    *,
    confidence: float = 0.95,
    planned: int = 0,
) -> StepInterval:
    """The first checkpoint whose EM rate is above that of the model before fine-tuning.

    It is the first whose difference to the base, paired by prompt (`paired_difference`), is shown to be above 0, each
    at the level 1 - (1 - confidence) / K, K the number of checkpoints after the base (Bonferroni): so a run in which
    nothing changes is said to have one with a probability of (1 - confidence) / 2 at most, nominally, however many
    checkpoints it has. EM may fall again later: that does not undo an onset.

    Args:
        steps: (C,) of the checkpoints after the base, ascending.
        checkpoints: Of each, (P,) misaligned and (P,) coherent responses.
        base: The same of the base, to the same prompts.
        confidence: Level for the whole run, in (0, 1).
        planned: K, while the run is under way; at least the number of checkpoints there are.

    Returns:
        `step` and `high` are that checkpoint; None if none is shown. `low` is the first whose difference is not shown
        to be at or below 0: mostly the first of all, for a small rise can never be excluded.
    """
    check_steps(steps, checkpoints)
    level = 1 - (1 - checked_level(confidence)) / max(planned, len(steps), 1)
    found = [paired_difference(x, n, *base, confidence=level) for x, n in checkpoints]
    return _between(steps, [d.low > 0 for d in found], [not d.high <= 0 for d in found])


def find_crossing(
    counts: RunCounts, boundary: float, rng: np.random.Generator, *, confidence: float = 0.95
) -> StepInterval:
    """The first checkpoint whose EM rate is above a boundary.

    Args:
        counts: The checkpoints after the base.
        boundary: EM rate, in [0, 1).
        rng: For resampling prompts.
        confidence: Level for the whole run, in (0, 1).

    Returns:
        It lies between the first checkpoint not shown to be at or below the boundary (`low`) and the first shown to be
        above it, at limits that hold at all checkpoints at once (`high`, and `step`).
    """
    level, x, n = checked_level(confidence), counts.misaligned.astype(np.float64), counts.coherent.astype(np.float64)
    sums = PromptSums.of(x, n)
    # the latest step: any earlier checkpoint might falsely be shown above, so its limits hold at all at once
    band = _simultaneous(x, n, level, rng)
    low = np.minimum(binomial_interval(sums.ratio, effective_size(sums, level), band)[0], prompt_limits(sums, band)[0])
    # the earliest step: only the true crossing's own limit could rule it out, so each limit holds on its own
    _, high = rate_limits(sums, level)
    return _between(counts.steps, low > boundary, ~(high <= boundary))


def crossing_of_limits(steps: Sequence[int], rates: Sequence[Estimate], boundary: tuple[float, float]) -> StepInterval:
    """The first checkpoint above a boundary, where limits of rates that hold at any time hold for the run already.

    Args:
        steps: (C,) ascending.
        rates: (C,) EM rates; NaN is unknown.
        boundary: Its own lower and upper limit; a boundary that is known has both equal.

    Returns:
        As `find_crossing`.
    """
    check_steps(steps, rates)
    return _between(steps, [r.low > boundary[1] for r in rates], [not r.high <= boundary[0] for r in rates])


def step_difference(one: StepInterval, other: StepInterval) -> tuple[float, float, float]:
    """One step minus another: the value, NaN unless both were seen, and its limits, infinite where open."""
    value = math.nan if one.step is None or other.step is None else float(one.step - other.step)
    least = -math.inf if other.high is None or one.low is None else float(one.low - other.high)
    most = math.inf if one.high is None or other.low is None else float(one.high - other.low)
    return value, least, most


def find_convergence(
    steps: Sequence[int], scores: Sequence[float], weights: Sequence[float] | None = None, share: float = 0.95
) -> int | None:
    """The first step whose fitted task score reaches a share of the last fitted one.

    The fit is the closest course that never falls (isotonic regression by pooling adjacent violators: Barlow et al.
    1972, Statistical Inference under Order Restrictions), so that one lucky checkpoint hardly moves it, unless it is
    among the last. A task that is learnt and lost again it cannot see: `describe_course` does.

    Args:
        steps: (C,) ascending.
        scores: (C,) task scores, higher is better; NaN is missing and passed over.
        weights: (C,) answers behind each score, above 0 where it is known; None: equally many.
        share: Share of the last fitted score, in (0, 1].

    Returns:
        None if no score is known or the last fitted one is not above 0 (a share of it would mean nothing).
    """
    check_steps(steps, scores)
    known = [i for i, score in enumerate(scores) if math.isfinite(score)]
    if not known:
        return None
    weight = None if weights is None else np.array([float(weights[i]) for i in known])
    own = np.array([scores[i] for i in known])
    fit = isotonic_regression(own, weights=weight)
    least, most = (np.repeat(f.reduceat(own, fit.blocks[:-1]), np.diff(fit.blocks)) for f in (np.minimum, np.maximum))
    fitted = np.clip(fit.x, least, most)  # by rounding, the mean of equal scores may lie beside them
    return steps[known[int(np.argmax(fitted >= share * fitted[-1]))]] if fitted[-1] > 0 else None


def describe_course(
    counts: RunCounts,
    boundary: float,
    rng: np.random.Generator,
    *,
    share: float = 0.95,
    confidence: float = 0.95,
    crossing: StepInterval | None = None,
) -> Course:
    """Crossing, convergence and their order, each with an interval; both intervals hold together at the level.

    The crossing is that of `find_crossing`, convergence that of `find_convergence` but never outside its interval. It
    lies after the last checkpoint shown to be below the share of some other checkpoint's score, and not after the first
    from which on all are shown to be at or above that share of all others. Each set is made at
    1 - (1 - confidence) / 2 (Bonferroni).

    Args:
        counts: The run.
        boundary: EM rate that counts as misaligned, in [0, 1): the tolerance, or the base's upper limit if higher.
        rng: For resampling prompts.
        share: Share of the best task score that counts as learnt, in (0, 1].
        confidence: Level at which both intervals hold together, in (0, 1).
        crossing: The crossing's interval if it is already known (from checkpoints judged in sequence); the counts of EM
            are then not used.
    """
    level = 1 - (1 - confidence) / 2
    crossing = crossing or find_crossing(counts, boundary, rng, confidence=level)
    convergence = _convergence_interval(counts, share, level, rng)
    first, last = (math.inf if s is None else s for s in (crossing.low, crossing.high))
    low, high = (math.inf if s is None else s for s in (convergence.low, convergence.high))
    order, reason = _order((first, last), (low, high))
    return Course(crossing, convergence, order, reason)


def check_steps(steps: Sequence[int], values: Sequence[object]) -> None:
    """Check that there is one value per step and that steps ascend.

    Raises:
        ValueError: They do not.
    """
    if len(steps) != len(values):
        raise ValueError(f"one value per step is needed: got {len(steps)} steps and {len(values)} values")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"steps must ascend: got {list(steps)}")


def _order(
    crossing: tuple[float, float], convergence: tuple[float, float]
) -> tuple[Literal["before", "after", "cannot tell"], str]:
    if math.isinf(convergence[0]):
        return "cannot tell", "The task was not learnt by the last checkpoint."
    if crossing[1] < convergence[0]:
        return "before", "EM is shown before the task is learnt."
    if crossing[0] > convergence[1]:
        seen = "EM" if math.isfinite(crossing[1]) else "EM, if it comes at all,"
        return "after", f"{seen} is shown to come after the task is learnt."
    return "cannot tell", "The intervals of both overlap."


def _between(steps: Sequence[int], shown: _Flags, possible: _Flags) -> StepInterval:
    first = _first(steps, shown)
    return StepInterval(first, _first(steps, possible), first)


def _simultaneous(x: FloatArray, n: FloatArray, level: float, rng: np.random.Generator) -> float:
    """The level each rate's interval needs so that all (C,) hold at once.

    By resampling prompts: the level at which, in a share `level` of the resamples, the interval of every checkpoint's
    resampled rate holds the observed rate (calibration of a whole band: Beran 1988, JASA 83:679). Never looser than a
    single interval's, never stricter than Bonferroni's.
    """
    alpha, count = 1 - level, max(len(x), 1)
    resampled = PromptSums.of(x, n, _weights(rng, x.shape[1]))
    observed = PromptSums.of(x, n).ratio
    size = effective_size(resampled, level)
    hits = resampled.ratio * size
    with np.errstate(invalid="ignore"):
        too_high = betainc(np.maximum(hits, 1e-300), size - hits + 1, observed)
        too_low = 1 - betainc(hits + 1, np.maximum(size - hits, 1e-300), observed)
    tails = np.where(np.isnan(too_high + too_low), 1.0, 2 * np.minimum(too_high, too_low))
    smallest = float(np.quantile(tails.min(axis=1, initial=1.0), alpha))
    return 1 - min(max(smallest, alpha / count), alpha)


def _convergence_interval(counts: RunCounts, share: float, level: float, rng: np.random.Generator) -> StepInterval:
    known = counts.task_judged.sum(axis=1) > 0
    steps = tuple(step for step, k in zip(counts.steps, known, strict=True) if k)
    x, n = counts.task_hits[known].astype(np.float64), counts.task_judged[known].astype(np.float64)
    scores = PromptSums.of(x, n).ratio
    point = find_convergence(steps, scores.tolist(), n.sum(axis=1).tolist(), share)
    if x.shape[1] < 2 or not (scores > 0).any():
        return StepInterval(point, steps[0] if steps else None, None)
    differences = scores[:, None] - share * scores[None, :]
    errors = _difference_errors(x, n, scores, share)
    resampled = PromptSums.of(x, n, _weights(rng, x.shape[1])).ratio - scores  # (B, C)
    moved = (resampled[:, :, None] - share * resampled[:, None, :]) / errors
    # the earliest step: any later checkpoint might falsely be shown below any other, so all pairs at once
    all_pairs = float(np.nanquantile(np.nanmin(moved, axis=(1, 2)), (1 - level) / 2))
    below = (differences < all_pairs * errors).any(axis=1)
    # the latest step: it takes every pair to show that the task stays learnt, so each pair on its own
    single = float(stdtrit(x.shape[1] - 1, 0.5 + level / 2))
    doubtful = ~((differences > single * errors) | np.eye(len(steps), dtype=bool))
    stays = np.asarray([not doubtful[i:].any() for i in range(len(steps))])
    last_below = int(np.flatnonzero(below)[-1]) if below.any() else -1
    low, high = steps[last_below + 1] if last_below + 1 < len(steps) else None, _first(steps, stays)
    if point is None or low is None:  # shown below at the end: not learnt, or lost again
        return StepInterval(None, low, high)
    point = max(point, low)
    return StepInterval(point if high is None else min(point, high), low, high)


def _difference_errors(x: FloatArray, n: FloatArray, scores: FloatArray, share: float) -> FloatArray:
    """(C, C) standard errors of score_c - share * score_j, prompts as clusters; never 0."""
    total, prompts = n.sum(axis=1), x.shape[1]
    residuals = (x - scores[:, None] * n) / total[:, None]
    covariance = residuals @ residuals.T * prompts / (prompts - 1)
    spread = np.diag(covariance)
    variance = spread[:, None] + share**2 * spread[None, :] - 2 * share * covariance
    shrunk = (x.sum(axis=1) + 0.5) / (total + 1)
    least = shrunk * (1 - shrunk) / total / prompts  # all answers alike: as if one prompt in all could have differed
    return np.asarray(np.sqrt(np.maximum(variance, np.maximum(least[:, None], least[None, :]))))


def _weights(rng: np.random.Generator, prompts: int) -> FloatArray:
    """(B, P) how often each resample draws each prompt."""
    drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES)
    return np.asarray(drawn, dtype=np.float64)


def _first(steps: Sequence[int], flags: _Flags) -> int | None:
    return next((step for step, flag in zip(steps, flags, strict=True) if flag), None)
