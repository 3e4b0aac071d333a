"""Correlation of two figures over models: size against EM.

Few models make every correlation fragile, so each comes with a permutation p, a bootstrap interval and the influence of
single models and pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr, ndtri

from truing.stats.rates import FloatArray, checked_level

__all__ = ["Correlation", "correlate", "correlate_sizes"]

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
