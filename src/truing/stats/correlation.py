"""Correlation of two figures over models, size against EM, and of two scores over answers.

Few models make every correlation fragile, so each comes with a permutation p, a bootstrap interval and the influence of
single models and pairs. Answers are many, and alike by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from truing.core.records import Estimate
from truing.stats.rates import FloatArray, IntArray, checked_level, undefined

__all__ = ["Correlation", "correlate", "correlate_sizes", "score_correlation"]

SCORE_METHOD = "Pearson; interval by the jackknife over prompts, on Fisher's scale"

RESAMPLES = 4000
"""Permutations and bootstrap resamples; the smallest p that can be told is 1 / (RESAMPLES + 1)."""


@dataclass(frozen=True)
class Correlation:
    """One correlation over models; NaN with a reason when undefined."""

    value: float
    """In [-1, 1]."""
    low: float
    high: float
    p: float
    """Two-sided permutation p: how often as strong a correlation arises when the pairing is random."""
    n: int
    """Models."""
    method: str
    without: tuple[float, ...]
    """(n,) the correlation without each model."""
    carried_by: tuple[int, ...]
    """One or two models (by position) without which the correlation is no longer half as strong or changes its sign;
    empty if there are none."""
    reason: str = ""


def correlate_sizes(
    parameters: Sequence[float], rates: Sequence[float], rng: np.random.Generator, *, confidence: float = 0.95
) -> tuple[Correlation, Correlation]:
    """Pearson on log10 of the parameter count, and Spearman, of size against a rate over models.

    Args:
        parameters: (n,) parameter counts, above 0.
        rates: (n,) EM rates (or another figure); NaN is left out.
        rng: For permutations and resamples.
        confidence: Two-sided level, in (0, 1).
    """
    logs = [math.log10(size) for size in parameters]
    return (
        correlate(logs, rates, rng, confidence=confidence),
        correlate(logs, rates, rng, ranks=True, confidence=confidence),
    )


def correlate(
    one: Sequence[float],
    other: Sequence[float],
    rng: np.random.Generator,
    *,
    ranks: bool = False,
    confidence: float = 0.95,
) -> Correlation:
    """The correlation of two figures over models.

    Interval: bias-corrected and accelerated bootstrap over models (Efron & Tibshirani 1993, An Introduction to the
        Bootstrap, eq. 14.9, 14.10, 14.14 and 14.15).
    p: share of random pairings at least as strong, the observed one counted (Phipson & Smyth 2010, Statistical
    Applications in Genetics and Molecular Biology 9:39).

    Args:
        one: (n,) a figure of each model.
        other: (n,) another; pairs with a NaN are left out.
        rng: For permutations and resamples.
        ranks: Spearman's correlation instead of Pearson's.
        confidence: Two-sided level, in (0, 1).
    """
    level, method = checked_level(confidence), "Spearman" if ranks else "Pearson"
    pairs = np.array(list(zip(one, other, strict=True)), dtype=np.float64).reshape(-1, 2)
    x, y = pairs[np.isfinite(pairs).all(axis=1)].T
    measure = _spearman if ranks else _pearson
    value = float(measure(x[None], y[None])[0]) if x.size > 2 else math.nan
    if math.isnan(value):
        reason = "fewer than three models" if x.size < 3 else "one of the figures is the same for all models"
        return Correlation(value, math.nan, math.nan, math.nan, x.size, method, (), (), reason)
    shuffled = rng.permuted(np.tile(y, (RESAMPLES, 1)), axis=1)
    as_strong = np.abs(measure(np.tile(x, (RESAMPLES, 1)), shuffled)) >= abs(value) - 1e-12
    p = float(as_strong.sum() + 1) / (RESAMPLES + 1)
    without = tuple(_without(measure, x, y, (i,)) for i in range(x.size))
    low, high = _accelerated(measure, (x, y), value, np.array(without), (rng, level))
    return Correlation(value, low, high, p, x.size, method, without, _carriers(measure, x, y, value))


def _accelerated(
    measure: Callable[[FloatArray, FloatArray], FloatArray],
    data: tuple[FloatArray, FloatArray],
    value: float,
    jackknife: FloatArray,
    how: tuple[np.random.Generator, float],
) -> tuple[float, float]:
    (x, y), (rng, level) = data, how
    draws = rng.integers(0, x.size, (RESAMPLES, x.size))
    resampled = measure(x[draws], y[draws])
    resampled = np.sort(resampled[np.isfinite(resampled)])
    leave = jackknife[np.isfinite(jackknife)]
    if resampled.size < RESAMPLES / 2 or not leave.size:
        return math.nan, math.nan
    below = (np.sum(resampled < value) + np.sum(resampled <= value)) / (2 * resampled.size)
    bias = float(ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES)))
    spread = leave.mean() - leave
    scale = 6 * float((spread**2).sum()) ** 1.5
    acceleration = float((spread**3).sum()) / scale if scale > 0 else 0.0
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    shares = ndtr(bias + z / (1 - acceleration * z))
    low, high = np.quantile(resampled, shares)
    return float(min(low, value)), float(max(high, value))


def _carriers(
    measure: Callable[[FloatArray, FloatArray], FloatArray], x: FloatArray, y: FloatArray, value: float
) -> tuple[int, ...]:
    """The smallest set of one or two models that carries the correlation, the worst of its size."""
    for size in (1, 2):
        if x.size - size < 3:
            break
        left = {models: _without(measure, x, y, models) for models in combinations(range(x.size), size)}
        kept = {models: (0.0 if math.isnan(r) else r) * math.copysign(1, value) for models, r in left.items()}
        worst = min(kept, key=lambda models: kept[models])
        if kept[worst] < abs(value) / 2:
            return worst
    return ()


def _without(
    measure: Callable[[FloatArray, FloatArray], FloatArray],
    x: FloatArray,
    y: FloatArray,
    models: tuple[int, ...],
) -> float:
    rest_x, rest_y = np.delete(x, models), np.delete(y, models)
    return float(measure(rest_x[None], rest_y[None])[0]) if rest_x.size > 2 else math.nan


def _pearson(x: FloatArray, y: FloatArray) -> FloatArray:
    """Rows (B, n) to correlations (B,); NaN for a constant row."""
    a, b = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip((a * b).sum(axis=1) / norms, -1, 1)  # rounding leads beyond
        return np.where(norms > 1e-12 * (1 + np.abs(x).max() * np.abs(y).max()), found, np.nan)


def _spearman(x: FloatArray, y: FloatArray) -> FloatArray:
    return _pearson(_ranks(x), _ranks(y))


def _ranks(values: FloatArray) -> FloatArray:
    """Rows (B, n) to ranks from 1; equal values share their mean rank."""
    left, right = values[:, :, None], values[:, None, :]
    return np.asarray(((left > right).sum(axis=2) + (left >= right).sum(axis=2) + 1) / 2)


def score_correlation(x: FloatArray, y: FloatArray, prompts: IntArray, *, confidence: float = 0.95) -> Estimate:
    """Pearson's correlation of two scores over the answers that have both, with prompts as clusters.

    Interval: Fisher's z = atanh(r), its variance by leaving out each prompt in turn (jackknife of Tukey 1958, Annals of
    Mathematical Statistics 29:614), t with P - 1 degrees of freedom.

    Args:
        x: (R,) scores; NaN is missing.
        y: (R,) scores of the same answers.
        prompts: (R,) the prompt of each, any whole numbers.
        confidence: Two-sided level, in (0, 1).

    Returns:
        In [-1, 1]; NaN with a reason where all of one score are equal. No limits with fewer than three prompts, or
        where the correlation is perfect or one prompt alone makes it.
    """
    level, both = checked_level(confidence), ~(np.isnan(x) | np.isnan(y))
    missing, used, n = int((~both).sum()), np.unique(prompts[both], return_inverse=True)[1], int(both.sum())
    if not n:
        return undefined(SCORE_METHOD, "no answer has both scores", missing)
    a, b = (values[both] - values[both].mean() for values in (x, y))
    if min(a @ a, b @ b) <= 1e-18 * n:
        reason = "all scores of one kind are equal"
        return Estimate(math.nan, math.nan, math.nan, int(used.max()) + 1, n, missing, SCORE_METHOD, reason)
    sums = np.stack([np.bincount(used, weights) for weights in (np.ones(n), a, b, a * a, b * b, a * b)])
    size, value = sums.shape[1], float(_of_sums(sums.sum(axis=1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.arctanh(_of_sums(sums.sum(axis=1, keepdims=True) - sums))
        error = np.sqrt((size - 1) * without.var()) * stdtrit(max(size - 1, 1), 0.5 + level / 2)
        low, high = np.tanh(np.arctanh(value) + np.array([-error, error]))
    low, high = (low, high) if size > 2 and math.isfinite(error) else (math.nan, math.nan)
    return Estimate(value, float(low), float(high), size, n, missing, SCORE_METHOD)


def _of_sums(sums: FloatArray) -> FloatArray:
    """The correlation by the sums (6, ...) of 1, x, y, x^2, y^2 and x y; NaN or infinite without variance."""
    n, x, y, xx, yy, xy = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip((xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n)), -1, 1))
