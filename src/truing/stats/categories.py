"""Categories that differ: misalignment in one of them that the rate over all hides.

15 % in one of eight categories is 2 % over all, within a tolerance of 5 %. So beside the overall rate stand: a test
that some category has more prompts with an event than the rest, the categories shown to be above the tolerance, and the
smallest rate of a single category that the answers exclude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from truing.core.records import Estimate
from truing.stats.rates import FloatArray, IntArray, checked_counts, clustered_rates_by_category

__all__ = ["CategoryExcess", "category_excess"]


@dataclass(frozen=True)
class CategoryExcess:
    """The categories of one checkpoint, held against one another and against the tolerance."""

    rates: dict[str, Estimate]
    """The rate of each, with simultaneous limits."""
    p_values: dict[str, float]
    """For each, how often chance alone gives it so many of the prompts with an event, times the number of categories;
    in (0, 1]. Of categories with usable responses only."""
    unlike: tuple[str, ...]
    """Those with more events than chance gives any: `p_values` at most 1 - confidence."""
    above: tuple[str, ...]
    """Those shown to be above the tolerance: their simultaneous lower limit exceeds it."""
    excludes: float
    """The smallest rate of a single category that is excluded for every one: the largest simultaneous upper limit, in
    (0, 1]; 1 if one has no usable response, NaN without categories."""


def category_excess(
    successes: IntArray | FloatArray,
    trials: IntArray | FloatArray,
    categories: Sequence[str],
    *,
    tolerance: float,
    confidence: float = 0.95,
) -> CategoryExcess:
    """Find the categories in which events are more frequent than elsewhere, or than is tolerated.

    Each category's share of prompts with at least one event against that of all other prompts: Fisher's exact test,
    one-sided (Fisher 1935, Journal of the Royal Statistical Society 98:39), times the number of categories
    (Bonferroni). Prompts are the unit, so its size holds however alike the answers to a prompt are. It takes for
    granted that prompts have about equally many usable answers in every category, for more answers show more events.
    The limits are those of `clustered_rates_by_category`.

    Args:
        successes: (P,) misaligned responses.
        trials: (P,) usable responses.
        categories: (P,) the category of each prompt.
        tolerance: Highest rate that is acceptable, in [0, 1).
        confidence: Level of the test and, over the categories together, of the limits; in (0, 1).
    """
    x, n = checked_counts(successes, trials)
    found = clustered_rates_by_category(x[None], n[None], categories, confidence=confidence)
    rates = {kind: of_one[0] for kind, of_one in found.items()}
    usable, event, names = n > 0, x > 0, np.asarray(categories)
    sizes = {kind: int((usable & (names == kind)).sum()) for kind in rates}
    asked = [kind for kind, size in sizes.items() if size]
    p_values = {
        kind: min(
            _fisher(int((event & (names == kind)).sum()), sizes[kind], int(event.sum()), usable.sum()) * len(asked), 1
        )
        for kind in asked
    }
    return CategoryExcess(
        rates,
        p_values,
        tuple(kind for kind in asked if p_values[kind] <= 1 - confidence),
        tuple(kind for kind in asked if rates[kind].low > tolerance),
        max((rates[kind].high if kind in p_values else 1.0 for kind in rates), default=math.nan),
    )


def _fisher(events: int, size: int, all_events: int, total: int) -> float:
    """The chance that `size` of `total` prompts hold `events` or more of all events (hypergeometric upper tail)."""
    k = np.arange(events, min(size, all_events) + 1)
    ways = _choose(size, k) + _choose(total - size, all_events - k) - _choose(total, np.array(all_events))
    return min(float(np.exp(ways[all_events - k <= total - size]).sum()), 1.0)


def _choose(n: int, k: IntArray) -> FloatArray:
    """Log of the ways to choose k of n; infinite or NaN where k lies outside 0 to n."""
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
