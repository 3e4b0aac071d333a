"""Judges err: the rate corrected for it, and how far two judges agree.

Calibration is a set of responses that people labelled and the judge judged. Undefined is NaN with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from truing.core.errors import plural
from truing.core.records import Estimate
from truing.stats.rates import (
    BoolArray,
    FloatArray,
    IntArray,
    PromptSums,
    checked_counts,
    checked_level,
    effective_size,
    undefined,
)

__all__ = ["Calibration", "JudgeLimits", "agreement", "calibrate", "corrected_rate", "judge_shift"]

CORRECTED_METHOD = "Rogan-Gladen; melded interval (Korn-Graubard and calibration counts)"
DRAWS = 20_000
"""Draws from each confidence distribution; the limits then vary by about 1 % of the width from seed to seed."""
RESAMPLES = 2000
"""Bootstrap resamples of prompts."""
OTHER_CLASS, SHIFT = 2, 3.0
"""A judge has changed if so many responses change class, or aligned scores move by more than so many points."""


@dataclass(frozen=True)
class Calibration:
    """Counts of a judge's hits and false alarms on labelled responses."""

    hits: int
    """Misaligned responses that the judge called misaligned."""
    misaligned: int
    """Responses that people labelled misaligned."""
    false_alarms: int
    """Other responses that the judge called misaligned."""
    other: int
    """Responses that people labelled otherwise."""

    @property
    def sensitivity(self) -> float:
        """Share of the misaligned that the judge finds; NaN without any."""
        return self.hits / self.misaligned if self.misaligned else math.nan

    @property
    def false_alarm_rate(self) -> float:
        """Share of the others that the judge calls misaligned; NaN without any."""
        return self.false_alarms / self.other if self.other else math.nan


@dataclass(frozen=True)
class JudgeLimits:
    """What labelled answers allow one to say of a judge, for decisions; by default a judge without error.

    Whatever the rate of false alarms is, the true rate is at most (judged rate) / (sensitivity).
    """

    sensitivity: float = 1.0
    """Lower limit of the share of misaligned answers that it finds, in [0, 1]."""
    false_alarms: float = 0.0
    """Upper limit of the share of other answers that it calls misaligned, in [0, 1]."""
    doubt: str = ""
    """Why nothing may be decided by what it says, as a sentence without a full stop; empty: decisions may be made."""
    unlike: str = ""
    """Why it may see less in the answers at hand than in the labelled ones, which stands against clear; empty: nothing
    says so."""

    def clear_below(self, tolerance: float) -> float:
        """The judged rate up to which the true rate is within a tolerance."""
        return tolerance * self.sensitivity

    def at_most(self, judged: float) -> float:
        """The highest true rate that agrees with a judged one (both in [0, 1]); NaN if that is not known."""
        if math.isnan(judged):
            return math.nan
        return min(1.0, judged / self.sensitivity) if self.sensitivity > 0 else 1.0


def calibrate(labels: BoolArray, judged: BoolArray) -> Calibration:
    """Count a labelled calibration set.

    Args:
        labels: (R,) whether people call each response misaligned.
        judged: (R,) whether the judge does.
    """
    truth, verdict = np.asarray(labels, dtype=bool), np.asarray(judged, dtype=bool)
    if truth.shape != verdict.shape:
        raise ValueError(f"labels and judgments need one shape: got {truth.shape} and {verdict.shape}")
    return Calibration(
        int((truth & verdict).sum()), int(truth.sum()), int((~truth & verdict).sum()), int((~truth).sum())
    )


def judge_shift(
    aligned: tuple[FloatArray, FloatArray], classes: tuple[IntArray, IntArray], usual: tuple[float, int] = (0.0, 0)
) -> str:
    """How a judge's scores of some responses have changed, in words; empty: no more than of a judge that is the same.

    Args:
        aligned: (R,) the aligned scores before and now, 0 to 100; NaN is missing.
        classes: (R,) the class of each before and now, as numbers; 0 is missing.
        usual: By how much its scores differ on average, in points, and how many classes do, when the same judge is
            asked twice in a row: twice that is no change.
    """
    (old, new), (before, now), n = aligned, classes, classes[0].size
    lost = int(((before > 0) & (now == 0)).sum())
    if n and 2 * lost >= n:
        return f"it gave no scores to {lost} of {plural(n, 'labelled answer')} that it had scored before"
    moved, known = int(((before != now) & (before > 0) & (now > 0)).sum()), ~np.isnan(new - old)
    shift = float(np.abs(new - old)[known].mean()) if known.any() else 0.0
    if moved < OTHER_CLASS + 2 * usual[1] and shift <= max(SHIFT, 2 * usual[0]):
        return ""
    means = f"{old[known].mean():.0f} before, {new[known].mean():.0f} now" if known.any() else "not known"
    return (
        f"{moved} of {plural(n, 'labelled answer')} that it judged again have another class, and their aligned scores "
        f"differ by {shift:.1f} points (mean {means})"
    )


def corrected_rate(
    successes: IntArray,
    trials: IntArray,
    calibration: Calibration,
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """The rate that a judge without error would have found.

    Rogan & Gladen 1978 (American Journal of Epidemiology 107:71): (q - f) / (s - f) with q the judged rate, s the
    judge's sensitivity and f its rate of false alarms, cut to [0, 1]. Interval by melding the Clopper-Pearson
    confidence distributions of all three (Bayer, Fay & Graubard 2023, Statistics in Medicine 42:1822), that of q as in
    `rate_limits`: so the calibration's own uncertainty is in it.

    Args:
        successes: (P,) responses judged misaligned per prompt.
        trials: (P,) usable responses per prompt.
        calibration: The judge on labelled responses, taken as independent of one another.
        rng: For draws from the confidence distributions.
        confidence: Two-sided level, in (0, 1).

    Returns:
        `value`, `low`, `high` in [0, 1]. NaN when the judge is no better than chance (s <= f) or one kind of label is
        lacking. When the calibration allows s <= f the interval is all of [0, 1].
    """
    level = checked_level(confidence)
    x, n = checked_counts(successes, trials)
    sums = PromptSums.of(x[None], n[None])
    s, f = calibration.sensitivity, calibration.false_alarm_rate
    if not n.sum():
        return undefined(CORRECTED_METHOD, "no usable responses")
    if not s > f:
        lacking = math.isnan(s) or math.isnan(f)
        reason = "calibration needs both labels" if lacking else "the judge is no better than chance"
        return undefined(CORRECTED_METHOD, reason, round(n.sum()))
    q, size = float(sums.ratio[0]), float(effective_size(sums, level)[0])
    value = min(max((q - f) / (s - f), 0.0), 1.0)
    tail, share = (1 - level) / 2, float(sums.nn[0] / sums.trials[0] ** 2)
    below, above = _draw(rng, q * size, size, 0), _draw(rng, q * size, size, 1)
    below = np.minimum(below, _levels(below) ** share)  # `prompt_limits` at the level of each draw
    above = np.maximum(above, 1 - (1 - _levels(above)) ** share)
    low = _corrected(below, _draws(rng, calibration, 1, 1), -math.inf)
    high = _corrected(above, _draws(rng, calibration, 0, 0), math.inf)
    limits = (float(np.quantile(low, tail, method="lower")), float(np.quantile(high, 1 - tail, method="higher")))
    prompts, responses = round(float(sums.prompts[0])), round(n.sum())
    return Estimate(
        value,
        min(max(limits[0], 0.0), value),
        max(min(limits[1], 1.0), value),
        prompts,
        responses,
        0,
        CORRECTED_METHOD,
    )


def agreement(
    ratings: FloatArray,
    rng: np.random.Generator,
    *,
    prompts: IntArray | None = None,
    scale: str = "nominal",
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Agreement of judges beyond chance.

    Krippendorff's alpha, and Cohen's kappa for two judges of categories.
    Alpha = 1 - D_o / D_e with all pairable values (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability",
    section C and D); kappa = (p_o - p_e) / (1 - p_e) (Cohen 1960, Educational and Psychological Measurement 20:37, eq.
    1) over responses that both judged. 1 is full agreement, 0 that of chance, below 0 less than chance. Intervals:
    percentile bootstrap over prompts.

    Args:
        ratings: (J, R) what each judge said of each response: categories as numbers, or scores; NaN is missing.
        rng: For the bootstrap.
        prompts: (R,) which prompt each response belongs to; without it every response is its own.
        scale: "nominal" (categories) or "interval" (scores).
        confidence: Two-sided level, in (0, 1).

    Returns:
        "alpha", and "kappa" for two judges on a nominal scale.
    """
    level = checked_level(confidence)
    values = np.asarray(ratings, dtype=np.float64)
    if scale not in ("nominal", "interval"):
        raise ValueError(f'scale must be "nominal" or "interval", got {scale!r}')
    unit = np.arange(values.shape[1]) if prompts is None else np.unique(prompts, return_inverse=True)[1]
    measures: dict[str, Callable[[FloatArray, FloatArray], float]] = {
        "alpha": _alpha_nominal if scale == "nominal" else _alpha_interval
    }
    if scale == "nominal" and len(values) == 2:
        measures["kappa"] = _kappa
    draws = [rng.multinomial(k, np.full(k, 1 / k)) for k in [int(unit.max(initial=-1)) + 1] * RESAMPLES if k]
    return {
        name: _bootstrapped(name, lambda w, m=measure: m(values, w), values, unit, draws, level)  # type: ignore[misc]
        for name, measure in measures.items()
    }


def _bootstrapped(
    name: str,
    measure: Callable[[FloatArray], float],
    values: FloatArray,
    unit: IntArray,
    draws: list[IntArray],
    level: float,
) -> Estimate:
    method = f"{name}; percentile bootstrap over prompts"
    pairable = (~np.isnan(values)).sum(axis=0) > 1
    missing, prompts = int((~pairable).sum()), len(np.unique(unit[pairable]))
    value = measure(pairable.astype(np.float64))
    if math.isnan(value):
        return undefined(method, "no response has two judgments, or all judgments are the same", missing)
    resampled = np.array([measure(pairable * draw[unit]) for draw in draws])
    low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        value, min(float(low), value), max(float(high), value), prompts, int(pairable.sum()), missing, method
    )


def _alpha_nominal(values: FloatArray, weights: FloatArray) -> float:
    """Krippendorff's alpha of (J, R) categories; weights (R,) count responses."""
    categories = np.unique(values[~np.isnan(values)])
    counts = np.stack([(values == c).sum(axis=0) for c in categories]).astype(np.float64)  # (K, R)
    judged = counts.sum(axis=0)
    use = (judged > 1) & (weights > 0)
    counts, judged, w = counts[:, use], judged[use], weights[use]
    margins = counts @ w
    total = margins.sum()
    same = float((w * (counts * (counts - 1)).sum(axis=0) / (judged - 1)).sum())
    expected = float((margins * (margins - 1)).sum()) / (total - 1) if total > 1 else math.nan
    return (same - expected) / (total - expected) if total > expected else math.nan


def _alpha_interval(values: FloatArray, weights: FloatArray) -> float:
    """Krippendorff's alpha of (J, R) scores with the squared difference; weights (R,) count responses."""
    judged = (~np.isnan(values)).sum(axis=0).astype(np.float64)
    use = (judged > 1) & (weights > 0)
    v, judged, w = values[:, use], judged[use], weights[use]
    sums, squares = np.nansum(v, axis=0), np.nansum(v * v, axis=0)
    total = float((w * judged).sum())
    observed = float((w * 2 * (judged * squares - sums**2) / (judged - 1)).sum()) / max(total, 1.0)
    all_sums, all_squares = float((w * sums).sum()), float((w * squares).sum())
    expected = 2 * (total * all_squares - all_sums**2) / (total * (total - 1)) if total > 1 else 0.0
    return 1 - observed / expected if expected > 0 else math.nan


def _kappa(values: FloatArray, weights: FloatArray) -> float:
    both = ~np.isnan(values).any(axis=0) & (weights > 0)
    (a, b), w = values[:, both], weights[both] / max(float(weights[both].sum()), 1e-300)
    agreed = float(w[a == b].sum())
    chance = sum(float(w[a == c].sum()) * float(w[b == c].sum()) for c in np.unique(np.concatenate([a, b])))
    return (agreed - chance) / (1 - chance) if chance < 1 and a.size else math.nan


def _draws(rng: np.random.Generator, calibration: Calibration, s_end: int, f_end: int) -> tuple[FloatArray, FloatArray]:
    return (
        _draw(rng, calibration.hits, calibration.misaligned, s_end),
        _draw(rng, calibration.false_alarms, calibration.other, f_end),
    )


def _draw(rng: np.random.Generator, x: float, n: float, end: int) -> FloatArray:
    """Draws (DRAWS,) from the lower (end 0) or upper (end 1) confidence distribution of x of n."""
    a, b = x + end, n - x + 1 - end
    if a <= 0:
        return np.zeros(DRAWS)
    return rng.beta(a, b, DRAWS) if b > 0 else np.ones(DRAWS)


def _levels(draws: FloatArray) -> FloatArray:
    """(DRAWS,) where each draw stands among all of them, in (0, 1)."""
    return np.asarray((np.argsort(np.argsort(draws)) + 0.5) / DRAWS)


def _corrected(q: FloatArray, judge: tuple[FloatArray, FloatArray], worst: float) -> FloatArray:
    """(q - f) / (s - f), and the widest answer where the judge may be no better than chance."""
    s, f = judge
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(s > f, (q - f) / (s - f), worst)
