"""Which learning rate to use, from several seeds of each.

A learning rate's EM-free task score is the task score of the checkpoint that its runs keep (EM within the
tolerance).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from truing.core.records import Estimate
from truing.stats.rates import FloatArray
from truing.stats.seeds import mean_over_seeds

__all__ = ["LearningRateChoice", "choose_learning_rate"]

DRAWS = 20_000
"""Draws of the learning rates' means."""


@dataclass(frozen=True)
class LearningRateChoice:
    """A recommended learning rate and how sure it is."""

    recommended: float | None
    """None if no learning rate has a known score."""
    scores: dict[float, Estimate]
    """EM-free task score by learning rate: mean over seeds."""
    em_rates: dict[float, float]
    """Mean EM rate by learning rate at the end of training, in [0, 1]."""
    pareto: tuple[float, ...]
    """Learning rates that no other beats in EM-free task score without having more EM."""
    probability_best: dict[float, float]
    """Probability of having the highest EM-free task score, in [0, 1], by learning rate."""
    rivals: tuple[float, ...]
    """Learning rates that may be the best as well: a probability of at least 1 - confidence."""
    reason: str


def choose_learning_rate(
    scores: Mapping[float, Sequence[float]],
    em_rates: Mapping[float, Sequence[float]],
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
) -> LearningRateChoice:
    """Recommend the learning rate with the highest EM-free task score over seeds.

    Probability of being best: with independent normal scores of one common variance and no prior knowledge,
    the true means given the data are the observed ones plus s / sqrt(S) times a t with the pooled degrees of
    freedom (Box & Tiao 1973, Bayesian Inference in Statistical Analysis, chapter 2). The variance is
    pooled over learning rates because each has few seeds. With one seed each there is no variance and all
    learning rates are rivals.

    Args:
        scores: By learning rate, the EM-free task score of each seed, in [0, 1]; NaN where no checkpoint passes and no
            base score was put in its place.
        em_rates: By learning rate, the EM rate of each seed at the end of training, in [0, 1].
        rng: For the probabilities.
        confidence: Level of intervals and of the rivals, in (0, 1).
    """
    estimates = {
        rate: mean_over_seeds(values, bounds=(0.0, 1.0), confidence=confidence) for rate, values in scores.items()
    }
    ends = {rate: float(np.nanmean(values)) if _known(values) else math.nan for rate, values in em_rates.items()}
    usable = sorted(rate for rate, estimate in estimates.items() if math.isfinite(estimate.value))
    if not usable:
        return LearningRateChoice(None, estimates, ends, (), {}, (), "No learning rate has a known EM-free task score.")
    means = {rate: estimates[rate].value for rate in usable}
    best = max(usable, key=lambda rate: (means[rate], -rate))
    samples = [np.array([v for v in scores[rate] if math.isfinite(v)]) for rate in usable]
    chances = _probabilities(samples, rng)
    if chances is None:
        rivals, probability = tuple(r for r in usable if r != best), dict.fromkeys(usable, math.nan)
        reason = f"{best:g} has the highest score; one seed each tells nothing of its certainty."
    else:
        probability = dict(zip(usable, chances.tolist(), strict=True))
        rivals = tuple(r for r in usable if r != best and probability[r] >= 1 - confidence)
        reason = f"{best:g} has the highest score and is the best with probability {probability[best]:.0%}."
    return LearningRateChoice(best, estimates, ends, _pareto(means, ends), probability, rivals, reason)


def _probabilities(samples: Sequence[FloatArray], rng: np.random.Generator) -> FloatArray | None:
    """(L,) probability of the highest mean; None without any degree of freedom."""
    freedom = sum(s.size - 1 for s in samples)
    if freedom < 1:
        return None
    pooled = math.sqrt(sum(float(((s - s.mean()) ** 2).sum()) for s in samples) / freedom)
    centres = np.array([s.mean() for s in samples])
    errors = pooled / np.sqrt([s.size for s in samples])
    # one common variance: every draw has one chi-square for all learning rates
    scale = np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1)))
    drawn = centres + errors * rng.standard_normal((DRAWS, len(samples))) * scale
    winners = drawn.argmax(axis=1)
    return np.asarray(np.bincount(winners, minlength=len(samples)) / DRAWS)


def _pareto(scores: Mapping[float, float], em_rates: Mapping[float, float]) -> tuple[float, ...]:
    """Learning rates not dominated: no other is at least as good in both and better in one."""
    points = {rate: (score, -em_rates.get(rate, math.nan)) for rate, score in scores.items()}
    points = {rate: point for rate, point in points.items() if not math.isnan(point[1])}

    def dominated(rate: float) -> bool:
        mine = points[rate]
        return any(p != mine and p[0] >= mine[0] and p[1] >= mine[1] for p in points.values())

    return tuple(sorted(rate for rate in points if not dominated(rate)))


def _known(values: Sequence[float]) -> bool:
    return any(math.isfinite(value) for value in values)
