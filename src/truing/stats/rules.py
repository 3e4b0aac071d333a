"""The decision on one checkpoint from its EM rate's interval."""

from __future__ import annotations

import math

from truing.core.records import Action, Decision, Estimate

__all__ = ["decide"]


def decide(step: int, em_rate: Estimate, base: Estimate | None, tolerance: float) -> Decision:
    """Whether training should go on after a checkpoint.

    STOP when the whole interval of the EM rate lies above the tolerance and above the base model's rate;
    CONTINUE when it lies at or below the tolerance; UNDECIDED otherwise, which includes a rate that is not
    known.

    Args:
        step: The checkpoint's step.
        em_rate: Its EM rate, in [0, 1].
        base: The EM rate before fine-tuning; None if there is no base: then the tolerance alone decides.
        tolerance: Highest EM rate that is acceptable, in (0, 1).
    """
    action, reason = _verdict(em_rate, base, tolerance)
    return Decision(action, step, reason, em_rate)


def _verdict(em_rate: Estimate, base: Estimate | None, tolerance: float) -> tuple[Action, str]:
    if math.isnan(em_rate.value) or math.isnan(em_rate.low) or math.isnan(em_rate.high):
        return Action.UNDECIDED, f"The EM rate is not known ({em_rate.reason or 'no interval'})."
    found = f"The EM rate is {em_rate.value:.1%} (interval {em_rate.low:.1%} to {em_rate.high:.1%})"
    limit = f"the tolerance of {tolerance:.1%}"
    if em_rate.high <= tolerance:
        return Action.CONTINUE, f"{found}, all within {limit}."
    if not em_rate.low > tolerance:
        return Action.UNDECIDED, f"{found}, on both sides of {limit}: more responses are needed."
    if base is None:
        return Action.STOP, f"{found}, all above {limit}; there is no base to compare with."
    if math.isnan(base.value):
        return Action.UNDECIDED, f"{found}, all above {limit}, but the base model's rate is not known."
    if not em_rate.low > base.value:
        return (
            Action.UNDECIDED,
            f"{found}, all above {limit}, but the base model itself has {base.value:.1%}.",
        )
    return Action.STOP, f"{found}, all above {limit} and above the base model's {base.value:.1%}."
