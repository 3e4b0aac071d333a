"""A cheap judge reads every answer, a strong one a random share of them with known probabilities: two-phase sampling.

Whatever the cheap judge is worth, the estimate is unbiased for what the strong judge would say of all answers: it is
the difference estimator mean(g) + mean((xi / pi) (Y - g)) (Sarndal, Swensson & Wretman 1992, Model Assisted Survey
Sampling, section 9; prediction-powered inference, Angelopoulos et al. 2023, Science 382:669). Y is the strong judge's
word, xi whether it read the answer, pi the probability with which it would, and g what the cheap judge's word is worth.

Normal intervals must not be used here: at a rate of 1 % and 60 to 120 read of 240 they cover 41 to 71 %. The limits are
those of bets on a bounded mean, which hold whatever the rate and whenever one stops (`truing.stats.betting`;
Waudby-Smith & Ramdas 2024).

Shapes: R answers, P prompts; `...` any leading shape.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from truing.core.records import Estimate
from truing.stats.rates import BoolArray, FloatArray, IntArray, checked_level, undefined

__all__ = ["METHOD", "TwoPhase", "chance", "log_wealth_above", "log_wealth_below", "running_worth", "two_phase_rate"]

METHOD = (
    "two-phase: difference estimator over a random share with known probabilities; betting limits, prompts as units"
)

_BELOW = (0.05, 0.2, 0.4, 0.6, 0.8, 0.97)
_ABOVE = (0.01, 0.03, 0.08, 0.2, 0.4, 0.7)
"""Bets held side by side, in shares of the largest bet that cannot lose more than there is."""
_COARSE, _ROUNDS = 17, 12


def chance(seed: int, answers: str, prompt_id: str, sample: int) -> float:
    """A number in [0, 1) for one answer, the same for ever: it is read if this lies below its probability.

    Args:
        seed: Of sampling.
        answers: Key of the answers, which their weights and the way they were sampled have part in.
        prompt_id: The prompt.
        sample: Index of the answer.
    """
    digest = hashlib.sha256(f"{seed} {answers} {prompt_id} {sample}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


@dataclass(frozen=True)
class TwoPhase:
    """R answers; a success is also a trial (misaligned: coherent), by either judge."""

    successes: BoolArray
    """(R,) by the strong judge; False where it read nothing."""
    trials: BoolArray
    """(R,) by the strong judge; False where it read nothing."""
    read: BoolArray
    """(R,) those that the strong judge read."""
    probability: FloatArray
    """(R,) with which each was to be read, in (0, 1], known before."""
    cheap_successes: BoolArray
    """(R,) by the cheap judge."""
    cheap_trials: BoolArray
    """(R,) by the cheap judge."""
    prompts: IntArray
    """(R,) the prompt of each, any whole numbers; each prompt has equally many answers."""

    @property
    def least(self) -> float:
        """The smallest probability, in (0, 1]."""
        return float(self.probability.min())

    @property
    def reach(self) -> float:
        """The most by which the cheap judge's false alarms can draw one answer's term below 0, 0 or more."""
        return float(((1 / self.probability - 1) * self.cheap_successes).max())

    def terms(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Unbiased terms of the successes and of the trials, a mean for each prompt, in random order.

        The worth of the cheap judge's word is found among the prompts that came before: a term's own answers have no
        part in it, so it stays unbiased, and a cheap judge that is worth nothing is given no weight.

        Returns:
            (P,) and (P,).
        """
        _, prompt = np.unique(self.prompts, return_inverse=True)
        order = rng.permutation(prompt.max() + 1)
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        at, n = place[prompt], np.bincount(place[prompt])
        weight = self.read / self.probability
        scatter = weight * (1 / self.probability - 1) * self.cheap_successes
        right, flagged = (np.bincount(at, each).astype(float) for each in (scatter * self.successes, scatter))
        guess = running_worth(right, flagged)[at] * self.cheap_successes
        success = guess + weight * (self.successes - guess)
        trial = self.cheap_trials + weight * (self.trials.astype(np.float64) - self.cheap_trials)
        return np.bincount(at, success) / n, np.bincount(at, trial) / n


def two_phase_rate(
    sample: TwoPhase, rng: np.random.Generator, *, n_missing: int = 0, confidence: float = 0.95
) -> Estimate:
    """The share of successes among the trials that the strong judge would find, had it read every answer.

    Args:
        sample: What both judges said.
        rng: For the order of the prompts.
        n_missing: Answers that the strong judge was to read and gave no scores to.
        confidence: Two-sided level, in (0, 1); both limits hold at any time of stopping.

    Returns:
        In [0, 1]; NaN with a reason where no trial was read. `n_responses` are the trials that were read.
    """
    error = (1 - checked_level(confidence)) / 2
    n = int((sample.read & sample.trials).sum())
    if not n:
        return undefined(METHOD, "no usable responses were read", n_missing)
    successes, trials = sample.terms(rng)
    value = min(max(float(successes.sum() / trials.sum()), 0.0), 1.0) if trials.sum() > 0 else math.nan
    if math.isnan(value):
        return undefined(METHOD, "too few responses were read", n_missing)
    high = _limit(successes, trials, sample, error, below=True)
    low = _limit(successes, trials, sample, error, below=False)
    prompts = np.unique(sample.prompts[sample.read]).size
    return Estimate(value, min(low, value), max(high, value), prompts, n, n_missing, METHOD)


def running_worth(right: FloatArray, flagged: FloatArray) -> FloatArray:
    """The share of what the cheap judge flags that the strong one calls so, among the prompts before each.

    With weights (1 / pi) (1 / pi - 1) that is the worth by which the difference estimator varies least.

    Args:
        right: (..., P) weights of the answers that were read, flagged and called so.
        flagged: (..., P) weights of those that were read and flagged.

    Returns:
        (..., P) in [0, 1]; 0 before the first.
    """
    before = [np.cumsum(each, axis=-1) - each for each in (right, flagged)]
    return np.divide(before[0], before[1], out=np.zeros(right.shape), where=before[1] > 1e-12).clip(0, 1)


def log_wealth_below(
    successes: FloatArray, trials: FloatArray, boundary: FloatArray | float, least: float
) -> FloatArray:
    """Log of the wealth after each prompt, from betting that the rate is below a boundary.

    One bet multiplies it by 1 - b (Y - m C), b a share of 1 / (1 / pi0 - m), pi0 the least probability: Y - m C is
    never above that, so nothing is lost that is not there, and at a rate of m or above its mean is at least 0.

    Args:
        successes: (..., P) terms Y; see `TwoPhase.terms`.
        trials: (..., P) terms C.
        boundary: (...) the rate m to bet against, in (0, 1).
        least: The smallest probability of being read.

    Returns:
        (..., P).
    """
    m = np.asarray(boundary, dtype=np.float64)[..., None]
    return _log_wealth((m * trials - successes) / (1 / least - m), _BELOW)


def log_wealth_above(
    successes: FloatArray, trials: FloatArray, boundary: FloatArray | float, least: float, reach: float
) -> FloatArray:
    """The same, from betting that it is above.

    One bet multiplies it by 1 + b (Y - m C); Y - m C is never below - max(m / pi0, reach + m).

    Args:
        successes: (..., P) terms Y.
        trials: (..., P) terms C.
        boundary: (...) the rate m to bet against, in (0, 1).
        least: The smallest probability of being read.
        reach: See `TwoPhase.reach`.

    Returns:
        (..., P).
    """
    m = np.asarray(boundary, dtype=np.float64)[..., None]
    return _log_wealth((successes - m * trials) / np.maximum(m / least, reach + m), _ABOVE)


def _log_wealth(gains: FloatArray, bets: tuple[float, ...]) -> FloatArray:
    """Log of the mean wealth of bets (..., P) whose gain per unit lies at -1 or above."""
    each = np.stack([np.cumsum(np.log1p(bet * gains), axis=-1) for bet in bets])
    return np.asarray(np.logaddexp.reduce(each, axis=0) - math.log(len(bets)))


def _limit(successes: FloatArray, trials: FloatArray, sample: TwoPhase, error: float, below: bool) -> float:
    """The end of the boundaries that no bet has shown to be wrong, at any time.

    A coarse look finds the outermost one that stands, bisection the end of that cell; rounded outwards.
    """

    def stands(boundaries: FloatArray) -> BoolArray:
        y, c = (np.broadcast_to(each, (boundaries.size, each.size)) for each in (successes, trials))
        if below:
            wealth = log_wealth_below(y, c, boundaries, sample.least)
        else:
            wealth = log_wealth_above(y, c, boundaries, sample.least, sample.reach)
        return np.asarray(wealth.max(axis=-1) < math.log(1 / error))

    grid = np.linspace(0, 1, _COARSE) ** 2  # finer where rates are rare
    standing = np.flatnonzero(stands(np.clip(grid, 1e-9, 1 - 1e-9)))
    if not standing.size:
        return 0.0 if below else 1.0
    inner = standing[-1] if below else standing[0]
    outer = inner + (1 if below else -1)
    if not 0 <= outer < grid.size:
        return float(grid[inner])
    near, far = float(grid[inner]), float(grid[outer])
    for _ in range(_ROUNDS):
        middle = (near + far) / 2
        near, far = (middle, far) if stands(np.array([middle]))[0] else (near, middle)
    return far
