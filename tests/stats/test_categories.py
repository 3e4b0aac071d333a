"""Categories that differ: the test, the limits, what is excluded."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from truing.stats.categories import FEW, UNLIKE, UNLIKE_OF_FEW, Categories
from truing.stats.rates import IntArray, clustered_rates_by_category

NAMES = np.repeat([f"c{i}" for i in range(8)], 30)


def ask(rng: np.random.Generator, hot: float, samples: int, rest: float = 0.0) -> IntArray:
    """(240,) misaligned answers: `hot` in the first of 8 categories (ICC 0.25), `rest` elsewhere."""
    q = np.full(240, rest)
    q[:30] = rng.beta(hot * 3, (1 - hot) * 3, 30) if hot else rest
    return rng.binomial(samples, q).astype(np.int64)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 2)), max_size=25))
def test_the_test_is_fishers_on_prompts(rows: list[tuple[str, int, int]]) -> None:
    names = [name for name, _, _ in rows]
    x, n = np.array([x for _, x, _ in rows], dtype=int), np.array([x + more for _, x, more in rows], dtype=int)
    found = Categories(x, n, names, tolerance=0.05)
    asked = {name for name, trials in zip(names, n, strict=True) if trials}
    assert set(found.p_values) == asked
    for name, p in found.p_values.items():
        own = np.array([each == name for each in names])
        table = [[((x > 0) & side).sum(), ((x == 0) & (n > 0) & side).sum()] for side in (own, ~own)]
        assert p == pytest.approx(min(fisher_exact(table, alternative="greater").pvalue * len(asked), 1))


def test_one_category_alone_has_nothing_to_be_compared_with() -> None:
    found = Categories(np.array([1, 0]), np.array([1, 1]), ["a", "a"], tolerance=0.05)
    assert (found.unlike, found.above) == ((), ())
    nothing = Categories(np.array([], dtype=int), np.array([], dtype=int), [], tolerance=0.05)
    assert math.isnan(nothing.excludes)


def test_the_limits_are_the_simultaneous_ones() -> None:
    n, x = np.full(240, 5), ask(np.random.default_rng(0), 0.6, 5, 0.01)
    found = Categories(x, n, list(NAMES), tolerance=0.05)
    rates = clustered_rates_by_category(x[None], n[None], list(NAMES))
    assert {kind: [rate] for kind, rate in found.rates.items()} == rates
    assert found.above == found.unlike == ("c0",)
    assert found.excludes == max(rate.high for (rate,) in rates.values())


def test_thirty_clean_prompts_exclude_a_sixth_and_an_unasked_category_nothing() -> None:
    clean = Categories(np.zeros(240, dtype=int), np.full(240, 5), list(NAMES), tolerance=0.05)
    assert (clean.unlike, clean.above) == ((), ())
    assert clean.excludes == pytest.approx(0.174, abs=1e-3)
    n = np.where(NAMES == "c3", 0, 5)
    assert Categories(np.zeros(240, dtype=int), n, list(NAMES), tolerance=0.05).excludes == 1


@pytest.mark.parametrize(("rate", "samples"), [(0.02, 1), (0.02, 10), (0.2, 5)])
def test_like_categories_are_seldom_called_unlike(rate: float, samples: int) -> None:
    rng, called = np.random.default_rng(3), 0
    for _ in range(400):
        q = rng.beta(rate * 3, (1 - rate) * 3, 240)
        called += bool(Categories(rng.binomial(samples, q), np.full(240, samples), list(NAMES), tolerance=1).unlike)
    assert called / 400 <= 0.75 * (UNLIKE if 30 * samples >= FEW else UNLIKE_OF_FEW)


@pytest.mark.parametrize(
    ("hot", "samples", "power"), [(0.15, 1, 0.7), (0.15, 2, 0.97), (0.15, 5, 0.97), (0.4, 1, 0.97)]
)
def test_one_hot_category_is_found(hot: float, samples: int, power: float) -> None:
    rng, n = np.random.default_rng(5), np.full(240, samples)
    found = [Categories(ask(rng, hot, samples), n, list(NAMES), tolerance=0.05) for _ in range(150)]
    assert np.mean([each.unlike == ("c0",) for each in found]) >= power
