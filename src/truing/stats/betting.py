"""Evidence that may be looked at as often as one likes: betting on a bounded mean.

A bettor who pays a fair price can hardly grow rich. If the mean of draws in [0, 1] is at most m, then a bet on "above
m" multiplies the bettor's wealth by a factor whose expectation is at most 1, so by Ville's inequality the wealth ever
reaches 1 / alpha with a probability of at most alpha, however often one looks and whenever one stops (Waudby-Smith &
Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86:1, section 4: the capital process;
Ville 1939).

One bet with odds ratio t multiplies the wealth by (1 + x (t - 1)) / (1 + m (t - 1)): their 1 + lambda (x - m) with
lambda = (t - 1) / (1 + m (t - 1)). For draws that are 0 or 1 that is t^x / (1 + m (t - 1)), the likelihood ratio of a
rate whose odds are t times those of m. For draws in between t^x is smaller than 1 + x (t - 1) (Bernoulli's inequality),
so the wealth computed from counts alone never overstates the evidence. t > 1 bets on above, t < 1 on below. Several
bets are held side by side, each with its share of the first coin; their average is fair too (their "diversified Kelly"
bettor).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from truing.stats.rates import BoolArray, FloatArray, IntArray

__all__ = [
    "ABOVE",
    "BELOW",
    "Bets",
    "anytime_interval",
    "draw_prompts",
    "draws_to_clear",
    "is_hopeless",
    "log_wealth",
]


@dataclass(frozen=True)
class Bets:
    """Bets held side by side."""

    odds_ratios: tuple[float, ...]
    """All above 1 (betting that the mean is above m) or all between 0 and 1 (below)."""
    shares: tuple[float, ...]
    """Share of the first coin in each; they add up to 1."""


ABOVE = Bets((1.6, 2.5, 5.0, 12.0, 40.0), (0.2, 0.25, 0.25, 0.2, 0.1))
"""At a tolerance of 5 % these bets are best for rates of 8, 12, 21, 39 and 68 %."""
BELOW = Bets((0.05, 0.2, 0.45, 0.7), (0.4, 0.3, 0.2, 0.1))
"""At a tolerance of 5 % these bets are best for rates of 0.3, 1.0, 2.3 and 3.6 %."""


def log_wealth(
    successes: IntArray | FloatArray | float,
    draws: IntArray | FloatArray | float,
    boundary: FloatArray | float,
    bets: Bets,
) -> FloatArray:
    """Natural logarithm of the wealth after betting against a boundary, from 0 before the first draw.

    With `ABOVE` it is evidence against "the mean is at most the boundary", with `BELOW` against "at least". The price
    is right even if bets and boundary were chosen after seeing earlier draws, so long as these draws are new.

    Args:
        successes: (...) sum of the draws.
        draws: (...) how many there were, each in [0, 1].
        boundary: (...) mean to bet against, in [0, 1].
        bets: What to bet on.

    Returns:
        (...) broadcast; error alpha is controlled where it reaches log(1 / alpha).
    """
    ratios, shares = np.array(bets.odds_ratios), np.array(bets.shares)
    s, n = np.asarray(successes, dtype=np.float64)[..., None], np.asarray(draws, dtype=np.float64)[..., None]
    m = np.asarray(boundary, dtype=np.float64)[..., None]
    each = s * np.log(ratios) - n * np.log1p(m * (ratios - 1))
    return np.asarray(np.logaddexp.reduce(each + np.log(shares), axis=-1))


def anytime_interval(
    successes: float, draws: float, *, error_low: float = 0.025, error_high: float = 0.025
) -> tuple[float, float]:
    """Limits of the mean that hold at all times at once: the boundaries not yet betted away.

    Wealth falls with the boundary when betting on above and rises when betting on below, so both limits are roots.

    Args:
        successes: Sum of the draws.
        draws: How many there were, each in [0, 1].
        error_low: Probability that the lower limit is ever too high.
        error_high: Probability that the upper limit is ever too low.

    Returns:
        Low and high in [0, 1]; (0, 1) before the first draw.
    """
    grid = np.linspace(0.0, 1.0, 33)
    limits = []
    for bets, error in ((ABOVE, error_low), (BELOW, error_high)):
        low, high = 0.0, 1.0
        for _ in range(8):  # each round narrows the bracket 32 times
            points = low + (high - low) * grid
            beyond = log_wealth(successes, draws, points, bets) >= -np.log(error)
            beyond = beyond if bets is ABOVE else ~beyond
            edge = int(beyond.sum())  # the points before it lie on the left of the root
            if edge in (0, points.size):
                low = high = float(points[0 if edge == 0 else -1])
                break
            low, high = float(points[edge - 1]), float(points[edge])
        limits.append((low, high))
    return limits[0][0], limits[1][1]


@lru_cache(maxsize=256)
def draws_to_clear(boundary: float, beta: float) -> int:
    """The fewest draws that can show a mean to be below a boundary: all of them 0.

    Args:
        boundary: Mean to bet against, in (0, 1).
        beta: Error probability, in (0, 1).
    """
    most = math.ceil(math.log(1 / (beta * BELOW.shares[0])) / -math.log1p(boundary * (BELOW.odds_ratios[0] - 1)))
    draws = np.arange(1, most + 1)  # the first bet alone would do it with `most`
    return int(draws[np.argmax(log_wealth(np.zeros_like(draws), draws, boundary, BELOW) >= -math.log(beta))])


def is_hopeless(
    counts: tuple[IntArray | float, IntArray | float],
    left: IntArray | float,
    boundary: FloatArray | float,
    needed_above: FloatArray | float,
    needed_below: FloatArray | float,
) -> BoolArray:
    """Test that the draws that are left would probably bring neither verdict.

    Log wealth grows by the Kullback-Leibler divergence between rate and boundary per draw; the rate is taken one
    standard error on the favourable side. This affects what is spent, never a guarantee.

    Args:
        counts: (...) successes and draws so far.
        left: (...) draws that may still be made.
        boundary: (...) mean that is betted against, in (0, 1).
        needed_above: (...) growth of log wealth betted on above that a verdict still needs; infinite for none.
        needed_below: (...) the same for below.
    """
    m = np.clip(np.asarray(boundary, dtype=np.float64), 1e-6, 1 - 1e-6)
    draws = np.asarray(counts[1], dtype=np.float64) + 1
    rate = (np.asarray(counts[0], dtype=np.float64) + 0.5) / draws
    error = np.sqrt(rate * (1 - rate) / draws)
    no_above = left * _divergence(np.clip(rate + error, m, 1 - 1e-6), m) < needed_above
    no_below = left * _divergence(np.clip(rate - error, 1e-6, m), m) < needed_below
    return np.asarray(no_above & no_below)


def draw_prompts(rng: np.random.Generator, n_prompts: int, size: int) -> IntArray:
    """Random prompts (size,), with replacement; a prompt that comes up again gets another answer.

    A prompt chosen again for every response makes the outcomes independent with the benchmark's own mean, however alike
    the answers to one prompt are: so the guarantees rest on the draw alone.
    """
    return rng.integers(0, n_prompts, size)


def _divergence(rate: FloatArray, boundary: FloatArray) -> FloatArray:
    """Kullback-Leibler divergence between draws of two rates (...), in nats."""
    return np.asarray(rate * np.log(rate / boundary) + (1 - rate) * np.log((1 - rate) / (1 - boundary)))
