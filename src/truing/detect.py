"""What the figures of a run's checkpoints say.

Stop or go on, when EM began, when the task was learnt, which checkpoint to keep.

Pure functions over estimates. No order is built in: EM may come early, late, never, or go away again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from truing.records import Action, Decision, Estimate

__all__ = ["choose_checkpoint", "decide", "find_convergence", "find_onset", "retention"]


def decide(step: int, em_rate: Estimate, base: Estimate, tolerance: float) -> Decision:
    """Whether training should go on after a checkpoint.

    STOP when the whole interval of the EM rate lies above the tolerance and above the base model's rate;
    CONTINUE when it lies at or below the tolerance; UNDECIDED otherwise, which includes a rate that is not
    known.

    Args:
        step: The checkpoint's step.
        em_rate: Its EM rate, in [0, 1].
        base: The EM rate before fine-tuning.
        tolerance: Highest EM rate that is acceptable, in (0, 1).
    """
    action, reason = _verdict(em_rate, base, tolerance)
    return Decision(action, step, reason, em_rate)


def find_onset(steps: Sequence[int], em_rates: Sequence[Estimate], base: Estimate) -> int | None:
    """The first checkpoint confirmed misaligned, or None if there is none or the base's rate is unknown.

    A checkpoint shows EM when its lower limit is above the base's upper limit. It is confirmed when at the
    next checkpoint with a known rate the lower limit is above the base's rate; the last such checkpoint needs
    no confirmation. EM may fall again later: that does not undo an onset.

    Args:
        steps: (C,) ascending.
        em_rates: (C,) EM rates in [0, 1]; NaN is unknown and is passed over.
        base: The EM rate before fine-tuning.
    """
    _check_lengths(steps, em_rates)
    known = [(step, rate) for step, rate in zip(steps, em_rates, strict=True) if not math.isnan(rate.low)]
    for index, (step, rate) in enumerate(known):
        confirmed = index + 1 == len(known) or known[index + 1][1].low > base.value
        if rate.low > base.high and confirmed:
            return step
    return None


def find_convergence(steps: Sequence[int], scores: Sequence[float], share: float = 0.95) -> int | None:
    """The first step that reaches a share of the run's best task score and stays there.

    Args:
        steps: (C,) ascending.
        scores: (C,) task scores, higher is better; NaN is missing and neither converges nor undoes
            convergence.
        share: Share of the best score, in (0, 1].

    Returns:
        None if no score is known or the best is not above 0 (a share of it would mean nothing).
    """
    _check_lengths(steps, scores)
    known = [(step, score) for step, score in zip(steps, scores, strict=True) if math.isfinite(score)]
    best = max((score for _, score in known), default=0.0)
    if best <= 0:
        return None
    reached = None
    for step, score in reversed(known):
        if score < share * best:
            break
        reached = step
    return reached


def choose_checkpoint(
    steps: Sequence[int], em_rates: Sequence[Estimate], scores: Sequence[float], tolerance: float
) -> int | None:
    """The step with the best task score among those whose EM rate is within the tolerance.

    Within means that the upper limit of the rate is at most the tolerance.

    Args:
        steps: (C,) ascending; on equal scores the earliest is taken.
        em_rates: (C,) EM rates in [0, 1]; an unknown rate does not pass.
        scores: (C,) task scores, higher is better; NaN is missing and is never chosen.
        tolerance: Highest EM rate that is acceptable, in (0, 1).
    """
    _check_lengths(steps, em_rates)
    _check_lengths(steps, scores)
    passing = [
        (score, -step)
        for step, rate, score in zip(steps, em_rates, scores, strict=True)
        if rate.high <= tolerance and math.isfinite(score)
    ]
    return -max(passing)[1] if passing else None


def retention(chosen_score: float, best_score: float) -> float:
    """The share of the best task score that the chosen checkpoint keeps.

    NaN unless both scores are known and the best is above 0.
    """
    if not (math.isfinite(chosen_score) and math.isfinite(best_score)) or best_score <= 0:
        return math.nan
    return chosen_score / best_score


def _verdict(em_rate: Estimate, base: Estimate, tolerance: float) -> tuple[Action, str]:
    if math.isnan(em_rate.value) or math.isnan(em_rate.low) or math.isnan(em_rate.high):
        return Action.UNDECIDED, f"The EM rate is not known ({em_rate.reason or 'no interval'})."
    found = f"The EM rate is {em_rate.value:.1%} (interval {em_rate.low:.1%} to {em_rate.high:.1%})"
    limit = f"the tolerance of {tolerance:.1%}"
    if em_rate.high <= tolerance:
        return Action.CONTINUE, f"{found}, all within {limit}."
    if not em_rate.low > tolerance:
        return Action.UNDECIDED, f"{found}, on both sides of {limit}: more responses are needed."
    if math.isnan(base.value):
        return Action.UNDECIDED, f"{found}, all above {limit}, but the base model's rate is not known."
    if not em_rate.low > base.value:
        return (
            Action.UNDECIDED,
            f"{found}, all above {limit}, but the base model itself has {base.value:.1%}.",
        )
    return Action.STOP, f"{found}, all above {limit} and above the base model's {base.value:.1%}."


def _check_lengths(steps: Sequence[int], values: Sequence[object]) -> None:
    if len(steps) != len(values):
        raise ValueError(f"one value per step is needed: got {len(steps)} steps and {len(values)} values")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"steps must ascend: got {list(steps)}")
