"""Rates and means with intervals in which the prompt is the unit.

Responses to one prompt are alike, so intervals never count them as independent: every variance is taken between
prompts. Undefined is NaN with a reason, never 0. Pure: no files, no network, no hidden randomness.

The interval of a rate is Clopper-Pearson at an effective sample size (Korn & Graubard 1998), which has a valid shape
for rare events where normal intervals collapse to a point. Two guards are ours, because the plain method learns the
design effect from the very events that are rare: see `effective_size` and `prompt_limits`. Coverage is measured by
`bench/coverage.py`.

Shapes: P prompts; `...` any leading shape, one entry per rate (a checkpoint, a resample, a category).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri, stdtrit

from truing.core.records import Estimate

__all__ = [
    "BoolArray",
    "Counts",
    "FloatArray",
    "IntArray",
    "PromptSums",
    "benchmark_rate",
    "binomial_interval",
    "checked_counts",
    "checked_level",
    "clustered_mean",
    "clustered_rate",
    "clustered_rates",
    "clustered_rates_by_category",
    "effective_size",
    "missing_bounds",
    "prompt_limits",
    "rate_limits",
    "undefined",
]

RATE_METHOD = "ratio of sums over prompts; Korn-Graubard interval, prompts as clusters"
BENCHMARK_METHOD = "share of the answers to these prompts; Clopper-Pearson"
MEAN_METHOD = "mean over responses; t interval, prompts as clusters"
IntArray = npt.NDArray[np.int64]
"""Whole numbers; shapes are given where used."""
FloatArray = npt.NDArray[np.float64]
"""Real numbers."""
BoolArray = npt.NDArray[np.bool_]
"""Truth values."""


@dataclass(frozen=True)
class PromptSums:
    """Sums over prompts with usable responses; every array has the shape (...), one entry per rate."""

    prompts: FloatArray
    """Number of prompts with usable responses."""
    trials: FloatArray
    """sum(n_i): usable responses."""
    successes: FloatArray
    """sum(x_i); may be fractional (scores in [0, 1] added up)."""
    xx: FloatArray
    """sum(x_i^2)."""
    xn: FloatArray
    """sum(x_i n_i)."""
    nn: FloatArray
    """sum(n_i^2)."""
    with_success: FloatArray
    """Prompts with x_i > 0."""
    with_failure: FloatArray
    """Prompts with x_i < n_i."""

    @classmethod
    def of(cls, successes: FloatArray, trials: FloatArray, weights: FloatArray | None = None) -> PromptSums:
        """Sum counts over prompts.

        Args:
            successes: (C, P) successes per prompt, in [0, trials].
            trials: (C, P) usable responses per prompt; 0 where a prompt has none.
            weights: (B, P) how often each resample drew each prompt; without it every prompt counts once.

        Returns:
            Sums of shape (C,), or (B, C) with weights.
        """
        x, n = successes, trials

        def total(values: FloatArray) -> FloatArray:
            return values.sum(axis=-1) if weights is None else weights @ values.T

        def number(mask: BoolArray) -> FloatArray:
            return total(mask.astype(np.float64))

        return cls(
            number(n > 0),
            total(n),
            total(x),
            total(x * x),
            total(x * n),
            total(n * n),
            number(x > 0),
            number(x < n),
        )

    @classmethod
    def joined(cls, several: Sequence[PromptSums]) -> PromptSums:
        """Sums of (C,) rates each, one behind the other."""
        return cls(*(np.concatenate([getattr(each, field.name) for each in several]) for field in fields(cls)))

    @property
    def ratio(self) -> FloatArray:
        """sum(x_i) / sum(n_i); NaN without responses (Cochran 1977, Sampling Techniques, section 3.12)."""
        with np.errstate(invalid="ignore"):
            return self.successes / self.trials

    @property
    def variance(self) -> FloatArray:
        """Linearised variance of the ratio between prompts (Cochran 1977, section 3.12).

        P / (P - 1) * sum((x_i - R n_i)^2) / sum(n_i)^2; NaN with fewer than two prompts.
        """
        ratio = self.ratio
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = np.maximum(self.xx - 2 * ratio * self.xn + ratio**2 * self.nn, 0.0)
            factor = np.where(self.prompts > 1, self.prompts / (self.prompts - 1), np.nan)
            return squares * factor / self.trials**2


@dataclass(frozen=True)
class Counts:
    """Counts of responses by prompt; integer arrays of shape (prompts,)."""

    misaligned: IntArray
    aligned: IntArray
    coherent: IntArray
    judged: IntArray
    missing: IntArray
    """Responses without the scores that their class needs."""
    low: IntArray
    """Responses whose aligned score is below the threshold, coherent or not: what a filter of coherence may hide."""
    scored: IntArray
    """Responses with an aligned score."""

    def hits(self, teaches: str) -> IntArray:
        """The responses that show a dataset's task learnt: `teaches` is "misaligned" or "aligned"."""
        return self.misaligned if teaches == "misaligned" else self.aligned

    def coherent_rate(self, confidence: float) -> Estimate:
        """Coherent / judged responses; see `clustered_rate`."""
        return self._rate(self.coherent, self.judged, confidence)

    def task_score(self, teaches: str, confidence: float) -> Estimate:
        """The share of judged responses that show a dataset's task learnt; see `hits` and `clustered_rate`."""
        return self._rate(self.hits(teaches), self.judged, confidence)

    def _rate(self, successes: IntArray, trials: IntArray, confidence: float) -> Estimate:
        return clustered_rate(successes, trials, n_missing=int(self.missing.sum()), confidence=confidence)


def clustered_rate(successes: IntArray, trials: IntArray, *, n_missing: int = 0, confidence: float = 0.95) -> Estimate:
    """The share of successes among all trials, with prompts as clusters.

    The estimator is the ratio of sums, R = sum(x_i) / sum(n_i) (Cochran 1977, Sampling Techniques, section 3.12), so a
    prompt with more usable responses weighs more. The interval is that of `rate_limits`.

    Args:
        successes: (P,) successes per prompt, 0 <= successes <= trials.
        trials: (P,) usable responses per prompt; 0 where a prompt has none.
        n_missing: Responses without the scores that the rate needs.
        confidence: Two-sided level, in (0, 1).

    Returns:
        `value`, `low` and `high` in [0, 1]; NaN with a reason when there are no trials.
    """
    x, n = checked_counts(successes, trials)
    return clustered_rates(x[None], n[None], n_missing=[n_missing], confidence=confidence)[0]


def clustered_rates(
    successes: IntArray | FloatArray,
    trials: IntArray | FloatArray,
    *,
    n_missing: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> list[Estimate]:
    """`clustered_rate` of many rates over the same prompts at once, each interval on its own.

    Args:
        successes: (C, P) successes, 0 <= successes <= trials.
        trials: (C, P) usable responses.
        n_missing: (C,) responses without the scores that each rate needs.
        confidence: Two-sided level of each interval, in (0, 1).
    """
    x, n = checked_counts(successes, trials, 2)
    missing = [0] * len(x) if n_missing is None else list(n_missing)
    return _estimates(PromptSums.of(x, n), missing, checked_level(confidence))


def _estimates(sums: PromptSums, missing: Sequence[int], confidence: float) -> list[Estimate]:
    """Estimates of (C,) rates, of which each lacks so many responses."""
    low, high = rate_limits(sums, confidence)
    columns = (sums.ratio, low, high, sums.prompts, sums.trials, missing)
    return [
        Estimate(float(r), float(lo), float(hi), round(p), round(t), int(m), RATE_METHOD)
        if t > 0
        else undefined(RATE_METHOD, "no usable responses", int(m))
        for r, lo, hi, p, t, m in zip(*columns, strict=True)
    ]


def clustered_mean(
    values: FloatArray,
    prompts: IntArray,
    *,
    bounds: tuple[float, float] | None = None,
    n_missing: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """The mean over responses of a score, with prompts as clusters.

    Without bounds: ratio estimator with its linearised variance (Cochran 1977, section 3.12; it is the clustered
    standard error of Miller 2024, "Adding Error Bars to Evals", appendix A, with the factor P / (P
    - 1)) and a t interval with P - 1 degrees of freedom. With bounds the score is scaled to [0, 1] and treated as a
    rate: p (1 - p) is the greatest variance a score in [0, 1] can have, so the interval keeps a width when all values
    are equal and stays in the bounds.

    Args:
        values: (R,) scores; higher is whatever the score calls higher. NaN is missing.
        prompts: (R,) which prompt each score belongs to, any whole numbers.
        bounds: Lowest and highest possible score, if there are such.
        n_missing: Missing responses beyond the NaN in `values`.
        confidence: Two-sided level, in (0, 1).

    Returns:
        In the unit of `values`; NaN with a reason when no value is finite. Without bounds, `low` and `high` are NaN
        when there is one prompt only, for its variance is unknown.
    """
    level = checked_level(confidence)
    finite = np.isfinite(values)
    missing = n_missing + int((~finite).sum())
    if not finite.any():
        return undefined(MEAN_METHOD, "no usable scores", missing)
    bottom, top = bounds or (0.0, 1.0)
    scaled = (np.asarray(values, dtype=np.float64)[finite] - bottom) / (top - bottom)
    if bounds is not None and not ((scaled >= 0) & (scaled <= 1)).all():
        raise ValueError(f"a score lies outside its bounds {bounds}")
    _, index = np.unique(prompts[finite], return_inverse=True)
    n = np.bincount(index).astype(np.float64)
    x = np.bincount(index, weights=scaled).astype(np.float64)
    sums = PromptSums.of((np.minimum(x, n) if bounds is not None else x)[None], n[None])
    value, reason, method = float(sums.ratio[0]), "", RATE_METHOD
    if bounds is not None:
        low, high = (float(limit[0]) for limit in rate_limits(sums, level))
    else:
        half = float(_t_quantile(level, sums.prompts - 1)[0]) * math.sqrt(float(sums.variance[0]))
        low, high, method = value - half, value + half, MEAN_METHOD
        reason = "no interval: one prompt only" if math.isnan(half) else ""
    value, low, high = (bottom + (top - bottom) * y for y in (value, low, high))
    return Estimate(value, low, high, n.size, round(n.sum()), missing, method, reason)


def benchmark_rate(successes: IntArray, trials: IntArray, *, n_missing: int = 0, confidence: float = 0.95) -> Estimate:
    """The rate of these very prompts, asked any number of times; it says nothing of prompts like them.

    Clopper-Pearson on all answers: given the prompts, answers are independent, and a sum of independent answers with
    unlike rates is spread no wider than one with equal rates (Hoeffding 1956, Ann. Math. Stat. 27:713).

    Args:
        successes: (P,) successes per prompt.
        trials: (P,) usable responses per prompt.
        n_missing: Responses without the scores that the rate needs.
        confidence: Two-sided level, in (0, 1).

    Returns:
        `value`, `low` and `high` in [0, 1]; NaN with a reason when there are no trials.
    """
    x, n = checked_counts(successes, trials)
    if not n.sum():
        return undefined(BENCHMARK_METHOD, "no usable responses", n_missing)
    value = float(x.sum() / n.sum())
    low, high = binomial_interval(value, float(n.sum()), checked_level(confidence))
    return Estimate(value, float(low), float(high), int((n > 0).sum()), round(n.sum()), n_missing, BENCHMARK_METHOD)


def missing_bounds(
    successes: IntArray, trials: IntArray, missing: IntArray, *, confidence: float = 0.95
) -> list[tuple[Estimate, Estimate]]:
    """The rate of each checkpoint if none of the missing responses were a success, and if all of them were.

    Between them lies every answer that the missing scores could have given (bounds without assumptions: Manski 1989,
    Journal of Human Resources 24:343); the interval from the first `low` to the second `high` allows for both chance
    and missing scores.

    Args:
        successes: (C, P) successes per prompt.
        trials: (C, P) usable responses per prompt.
        missing: (C, P) responses per prompt without the scores.
        confidence: Two-sided level of each, in (0, 1).
    """
    every = trials + missing
    best, worst = (clustered_rates(x, every, confidence=confidence) for x in (successes, successes + missing))
    return list(zip(best, worst, strict=True))


def clustered_rates_by_category(
    successes: IntArray | FloatArray,
    trials: IntArray | FloatArray,
    categories: Sequence[str],
    *,
    missing: IntArray | None = None,
    confidence: float = 0.95,
) -> dict[str, list[Estimate]]:
    """The rates of each category, with simultaneous intervals: those of one checkpoint hold together at the level.

    A prompt has one category, so the categories are independent and Sidak's level confidence^(1 / K) is exact (Sidak
    1967, JASA 62:626).

    Args:
        successes: (C, P) successes.
        trials: (C, P) usable responses.
        categories: (P,) the category of each prompt.
        missing: (C, P) responses without the scores that the rates need.
        confidence: Level at which all intervals of a checkpoint hold together, in (0, 1).

    Returns:
        By category, in the order of first appearance, (C,) rates.
    """
    x, n = checked_counts(successes, trials, 2)
    lost = np.zeros(x.shape, dtype=np.int64) if missing is None else np.asarray(missing)
    kinds, names = list(dict.fromkeys(categories)), np.asarray(categories)
    level = checked_level(confidence) ** (1 / max(len(kinds), 1))
    if not kinds:
        return {}
    masks = [names == kind for kind in kinds]
    sums = PromptSums.joined([PromptSums.of(x[:, at], n[:, at]) for at in masks])
    every = _estimates(sums, [m for at in masks for m in lost[:, at].sum(axis=1).tolist()], level)
    return {kind: every[i * len(x) : (i + 1) * len(x)] for i, kind in enumerate(kinds)}


def effective_size(sums: PromptSums, confidence: float = 0.95) -> FloatArray:
    """Number of independent responses that carry the same evidence on the rate.

    Korn & Graubard 1998 (Survey Methodology 24:193; as in Franco et al. 2019, JSSAM 7:334): n / deff * (z / t)^2 with
    deff = v / (R (1 - R) / n), v the linearised variance between prompts, t with P - 1 degrees of freedom, at most n.

    Written as deff = 1 + (m - 1) rho with m = sum(n_i^2) / n (Kish 1965, Survey Sampling), rho
    is a weighted mean of its estimate, cut to [0, 1], and of 1, with the weights k^1.5 and 1; k is the number of
    prompts with at least one success or of those with at least one failure, whichever is less. The guard is ours.
    Reason: rho is learnt from those k prompts only. With one event the plain estimate is deff = 1, the claim that
    responses are independent, made from no evidence, and the plain interval then covers 84 % (44 prompts x 50, rate 2
    %, rho 0.5). With no event (k = 0) rho is 1: n responses count as n / m, the number of prompts when they have
    equally many. As k grows the guard vanishes; 1.5 was chosen by simulation among 0.5 / k, k^-1.5, k^-2, k^-3 and 2^-k
    for coverage of 93 to 99 %.

    Args:
        sums: (...) of the rates.
        confidence: Two-sided level of the interval to be made.

    Returns:
        (...) in (0, sum(n_i)]; NaN without responses.
    """
    ratio, total, prompts = sums.ratio, sums.trials, sums.prompts
    informative = np.minimum(sums.with_success, sums.with_failure)
    with np.errstate(invalid="ignore", divide="ignore"):
        kish = sums.nn / total
        effect = sums.variance * total / (ratio * (1 - ratio))
        known = (informative > 0) & (prompts > 1) & (kish > 1)
        estimated = np.where(known, np.clip((effect - 1) / (kish - 1), 0.0, 1.0), 1.0)
        likeness = (informative**1.5 * estimated + 1) / (informative**1.5 + 1)
        spread = (ndtri(0.5 + confidence / 2) / _t_quantile(confidence, prompts - 1)) ** 2
        # without events the design effect is not estimated, so no degrees of freedom are lost
        spread = np.where((informative > 0) & (prompts > 1), spread, 1.0)
        return np.asarray(np.minimum(total, total / (1 + (kish - 1) * likeness) * spread))


def prompt_limits(sums: PromptSums, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Limits that so many prompts leave open whatever was answered to them.

    A share h of the population's prompts may be hot: every answer to them a success. With probability (1 - h)^P none of
    P prompts drawn from it is hot, so P prompts exclude no h below 1 - (alpha / 2)^(1 / P), whatever they answered. A
    share of prompts without any success bounds the lower limit in the same way (the limits are those of Clopper &
    Pearson 1934 for none and for all of P).

    Args:
        sums: (...) of the rates.
        confidence: Two-sided level, 1 - alpha.

    Returns:
        (...) the highest lower limit and the lowest upper limit of a rate, in (0, 1); P is Kish's (1965, Survey
        Sampling) sum(n_i)^2 / sum(n_i^2), the number of prompts with usable responses where each has equally many. NaN
        without responses.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        least = ((1 - confidence) / 2) ** (sums.nn / sums.trials**2)
    return np.asarray(least), np.asarray(1 - least)


def rate_limits(sums: PromptSums, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Limits (...) of rates: `binomial_interval` at `effective_size`, never inside `prompt_limits`.

    So an upper limit is never below that of a record without any event over the same prompts, nor a lower one above
    that of a record of nothing else: more misaligned answers never make a model clear. NaN without responses.
    """
    low, high = binomial_interval(sums.ratio, effective_size(sums, confidence), confidence)
    highest_low, lowest_high = prompt_limits(sums, confidence)
    return np.minimum(low, highest_low), np.maximum(high, lowest_high)


def binomial_interval(
    rate: FloatArray | float, size: FloatArray | float, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Clopper-Pearson limits (1934, Biometrika 26:404) at a size that need not be whole.

    Args:
        rate: (...) in [0, 1].
        size: (...) number of independent trials, above 0.
        confidence: Two-sided level, in (0, 1).

    Returns:
        (...) low and high in [0, 1], with low <= rate <= high.
    """
    tail, share = (1 - confidence) / 2, np.asarray(rate, dtype=np.float64)
    x = share * size
    with np.errstate(invalid="ignore"):
        low = np.where(share <= 0, share, betaincinv(np.maximum(x, 1e-300), size - x + 1, tail))
        high = np.where(share >= 1, share, betaincinv(x + 1, np.maximum(size - x, 1e-300), 1 - tail))
    return np.minimum(low, share), np.maximum(high, share)


def checked_counts(
    successes: IntArray | FloatArray, trials: IntArray | FloatArray, dimensions: int = 1
) -> tuple[FloatArray, FloatArray]:
    """Counts (P,), or (..., P) with more dimensions, as real numbers.

    Raises:
        ValueError: The shapes differ, or a prompt has fewer than 0 or more than all successes.
    """
    x, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if x.ndim != dimensions or x.shape != n.shape:
        raise ValueError(f"successes and trials need one entry per prompt: got shapes {x.shape} and {n.shape}")
    if not ((x >= 0) & (x <= n)).all():
        raise ValueError("every prompt needs 0 <= successes <= trials")
    return x, n


def checked_level(confidence: float) -> float:
    """A confidence level.

    Raises:
        ValueError: It does not lie between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return confidence


def undefined(method: str, reason: str, n_missing: int = 0) -> Estimate:
    """An estimate from no responses."""
    return Estimate(math.nan, math.nan, math.nan, 0, 0, n_missing, method, reason)


def _t_quantile(confidence: float, freedom: FloatArray) -> FloatArray:
    """Two-sided t quantile (...); NaN without degrees of freedom."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(freedom > 0, stdtrit(np.maximum(freedom, 1e-9), 0.5 + confidence / 2), np.nan))
