"""Two sides on the same prompts: the difference and the quotient of their rates, paired by prompt.

Both come from the clustered limits of each side and the correlation between the sides' prompts (MOVER, "method of
variance estimates recovery"), so the gain of pairing is kept and 0 against 0 still has a width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from truing.core.records import Estimate
from truing.stats.rates import FloatArray, IntArray, PromptSums, checked_counts, checked_level, rate_limits, undefined

__all__ = ["paired_difference", "paired_quotient"]

DIFFERENCE_METHOD = "paired by prompt; square-and-add of Korn-Graubard limits"
_Side = tuple[IntArray | FloatArray, IntArray | FloatArray]
QUOTIENT_METHOD = "paired by prompt; quotient of Korn-Graubard limits"


@dataclass(frozen=True)
class _Pair:
    """Both sides over the prompts that have usable responses on both."""

    a: tuple[float, float, float]
    """Rate, low, high."""
    b: tuple[float, float, float]
    correlation: float
    n_prompts: int
    n_responses: int
    n_left_out: int


def paired_difference(
    successes_a: IntArray | FloatArray,
    trials_a: IntArray | FloatArray,
    successes_b: IntArray | FloatArray,
    trials_b: IntArray | FloatArray,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """The rate of a minus the rate of b on the same prompts, paired by prompt.

    Square-and-add (Newcombe 1998, Statistics in Medicine 17:2635, method 10; in general form Zou 2007, Psychological
    Methods 12:399): low = d - sqrt((a - l_a)^2 - 2 r (a - l_a)(u_b - b) + (u_b - b)^2), high likewise with u_a and l_b;
    l and u are the clustered limits of each rate, r the correlation between the prompts' residuals x_i - R n_i.

    Args:
        successes_a: (P,) successes of a per prompt.
        trials_a: (P,) usable responses of a per prompt.
        successes_b: (P,) successes of b per prompt, in the order of a.
        trials_b: (P,) usable responses of b per prompt.
        confidence: Two-sided level, in (0, 1).

    Returns:
        `value`, `low`, `high` in [-1, 1]; positive when a is higher. Only prompts with usable responses on both sides
        count: `n_responses` is theirs, of both sides; responses to the other prompts are in `n_missing`.
    """
    pair = _pair((successes_a, trials_a), (successes_b, trials_b), confidence)
    if not pair.n_prompts:
        return undefined(DIFFERENCE_METHOD, "no prompt has usable responses on both sides", pair.n_left_out)
    (a, low_a, high_a), (b, low_b, high_b), r = pair.a, pair.b, pair.correlation
    low = max(a - b - _square_and_add(a - low_a, high_b - b, r), -1.0)
    high = min(a - b + _square_and_add(high_a - a, b - low_b, r), 1.0)
    return _estimate(pair, a - b, low, high, DIFFERENCE_METHOD)


def paired_quotient(
    successes_a: IntArray | FloatArray,
    trials_a: IntArray | FloatArray,
    successes_b: IntArray | FloatArray,
    trials_b: IntArray | FloatArray,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """The rate of a divided by the rate of b on the same prompts, paired by prompt.

    Retention of a task score is such a quotient.

    The limits solve for the quotient q at which the square-and-add limit of a - q b is 0 (Donner & Zou 2012,
    Statistical Methods in Medical Research 21:347, section 2). Successes may be fractional: scores in [0, 1] added up
    per prompt.

    Args:
        successes_a: (P,) successes of a per prompt.
        trials_a: (P,) usable responses of a per prompt.
        successes_b: (P,) successes of b per prompt, in the order of a.
        trials_b: (P,) usable responses of b per prompt.
        confidence: Two-sided level, in (0, 1).

    Returns:
        0 or above; `high` is infinite when the rate of b may be 0; NaN with a reason when that rate is 0.
    """
    pair = _pair((successes_a, trials_a), (successes_b, trials_b), confidence)
    if not pair.n_prompts:
        return undefined(QUOTIENT_METHOD, "no prompt has usable responses on both sides", pair.n_left_out)
    (a, low_a, high_a), (b, low_b, high_b), r = pair.a, pair.b, pair.correlation
    if b <= 0:
        return undefined(QUOTIENT_METHOD, "the rate to compare with is 0", pair.n_left_out + pair.n_responses)
    low = _quotient_limit((a, low_a), (b, high_b), r, -1.0)
    high = _quotient_limit((a, high_a), (b, low_b), r, 1.0)
    return _estimate(pair, a / b, min(low, a / b), max(high, a / b), QUOTIENT_METHOD)


def _quotient_limit(top: tuple[float, float], bottom: tuple[float, float], r: float, sign: float) -> float:
    """The root q of (a - q b)^2 = (a - x)^2 - 2 r q (a - x)(y - b) + q^2 (y - b)^2, limits x, y."""
    (a, x), (b, y) = top, bottom
    lead = y * (2 * b - y)  # b^2 - (y - b)^2
    if lead <= 0:
        return math.inf if sign > 0 else 0.0
    middle = a * b - r * (a - x) * (y - b)
    inside = middle**2 - lead * x * (2 * a - x)
    return max((middle + sign * math.sqrt(max(inside, 0.0))) / lead, 0.0)


def _pair(side_a: _Side, side_b: _Side, confidence: float) -> _Pair:
    level = checked_level(confidence)
    (xa, na), (xb, nb) = checked_counts(*side_a), checked_counts(*side_b)
    if na.shape != nb.shape:
        raise ValueError(f"a and b need the same prompts: got shapes {na.shape} and {nb.shape}")
    both = (na > 0) & (nb > 0)
    total, used = round(na.sum() + nb.sum()), round(na[both].sum() + nb[both].sum())
    if not used:
        nothing = (math.nan, math.nan, math.nan)
        return _Pair(nothing, nothing, 0.0, 0, 0, total)
    x, n = np.stack([xa[both], xb[both]]), np.stack([na[both], nb[both]])
    sums = PromptSums.of(x, n)
    low, high = rate_limits(sums, level)
    rate = sums.ratio
    a, b = ((float(rate[i]), float(low[i]), float(high[i])) for i in (0, 1))
    residuals = x - rate[:, None] * n
    return _Pair(a, b, _correlation(residuals[0], residuals[1]), int(both.sum()), used, total - used)


def _estimate(pair: _Pair, value: float, low: float, high: float, method: str) -> Estimate:
    return Estimate(value, low, high, pair.n_prompts, pair.n_responses, pair.n_left_out, method)


def _square_and_add(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))


def _correlation(one: FloatArray, other: FloatArray) -> float:
    """Correlation of two (P,) vectors of residuals with mean 0; 0 when either is constant."""
    norms = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return min(max(float((one * other).sum()) / norms, -1.0), 1.0) if norms > 0 else 0.0
