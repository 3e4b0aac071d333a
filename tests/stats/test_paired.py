"""Differences and quotients of two sides on the same prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

from tests.stats.test_rates import Counts, counts, simulate, split
from truing.stats.paired import paired_difference, paired_quotient
from truing.stats.rates import clustered_rate


@given(counts, counts)
def test_difference_is_antisymmetric_and_bounded(one: Counts, other: Counts) -> None:
    size = min(len(one), len(other))
    (xa, na), (xb, nb) = split(one[:size]), split(other[:size])
    ab, ba = paired_difference(xa, na, xb, nb), paired_difference(xb, nb, xa, na)
    assert [ab.value, ab.low, ab.high] == pytest.approx([-ba.value, -ba.high, -ba.low], nan_ok=True)
    assert ab.n_responses + ab.n_missing == na.sum() + nb.sum()
    if not math.isnan(ab.value):
        assert -1 <= ab.low <= ab.value <= ab.high <= 1


def test_difference_of_nothing_to_nothing_has_a_width() -> None:
    zeros, trials = np.zeros(50, dtype=np.int64), np.full(50, 10)
    found = paired_difference(zeros, trials, zeros, trials)
    assert found.low < 0 < found.high


def test_difference_gains_from_pairing() -> None:
    rng = np.random.default_rng(2)
    base = simulate(rng, 200, 20, 0.3, 0.5)
    trials = np.full(200, 20)
    after = np.minimum(base + rng.binomial(2, 0.5, 200), 20)
    paired = paired_difference(after, trials, base, trials)
    shuffled = paired_difference(after, trials, rng.permutation(base), trials)
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)
    assert paired.low > 0


def test_difference_without_common_prompts_is_undefined() -> None:
    found = paired_difference(np.array([1, 0]), np.array([2, 0]), np.array([0, 1]), np.array([0, 2]))
    assert math.isnan(found.value)
    assert (found.n_missing, bool(found.reason)) == (4, True)


def test_difference_needs_the_same_prompts() -> None:
    one, two = np.array([1]), np.array([1, 1])
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference(one, one, two, two)


@pytest.mark.parametrize("rates", [(0.005, 0.005), (0.02, 0.06), (0.3, 0.1)])
def test_difference_interval_keeps_its_level(rates: tuple[float, float]) -> None:
    rng = np.random.default_rng(8)
    trials, held = np.full(240, 10), 0
    for _ in range(300):
        likeness = rng.random(240)  # the prompts' common cause
        qa, qb = (np.where(likeness < rate * 2, 0.5, 0.0) for rate in rates)
        found = paired_difference(rng.binomial(10, qa), trials, rng.binomial(10, qb), trials)
        held += found.low <= rates[0] - rates[1] <= found.high
    assert held / 300 >= 0.93


@given(counts, counts)
def test_quotient_holds_its_value_and_is_one_of_a_side_to_itself(one: Counts, other: Counts) -> None:
    size = min(len(one), len(other))
    (xa, na), (xb, nb) = split(one[:size]), split(other[:size])
    quotient = paired_quotient(xa, na, xb, nb)
    if math.isnan(quotient.value):
        assert quotient.reason
    else:
        assert 0 <= quotient.low <= quotient.value <= quotient.high
    if xa.sum():
        same = paired_quotient(xa, na, xa, na)
        assert same.low <= same.value == 1 <= same.high


def test_quotient_and_difference_agree_on_equality() -> None:
    """The quotient's interval holds 1 exactly when the difference's holds 0: both solve the same equation."""
    rng = np.random.default_rng(6)
    n = np.full(60, 8)
    for _ in range(40):
        a, b = rng.binomial(n, 0.75), rng.binomial(n, 0.85)
        difference, quotient = paired_difference(a, n, b, n), paired_quotient(a, n, b, n)
        assert (difference.low <= 0 <= difference.high) == (quotient.low <= 1 <= quotient.high)


def test_quotient_to_a_rate_that_may_be_0_is_open() -> None:
    n = np.full(20, 5)
    rare = np.zeros(20, dtype=np.int64)
    rare[0] = 1
    assert paired_quotient(n // 2, n, rare, n).high > 1000
    assert paired_quotient(n // 2, n, rare * 0, n).reason


def test_one_answer_per_prompt_is_nearly_newcombe() -> None:
    """Newcombe 1998, method 10, from Clopper-Pearson instead of Wilson limits; independent sides."""
    n = np.ones(100, dtype=np.int64)
    a, b = np.arange(100) < 56, np.tile([True, False], 50)
    found = paired_difference(a.astype(np.int64), n, b.astype(np.int64), n)
    (one, other) = (clustered_rate(side.astype(np.int64), n) for side in (a, b))
    low = 0.06 - math.hypot(one.value - one.low, other.high - other.value)
    assert found.low == pytest.approx(low, abs=0.01)
