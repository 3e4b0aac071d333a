"""Several seeds: the rate over them, the verdict, copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from truing.stats.rates import IntArray, clustered_rate
from truing.stats.seeds import judge_seeds, mean_over_seeds, rate_over_seeds

TRIALS = np.full((3, 240), 10)


def seeds(*rates: float, seed: int = 0) -> IntArray:
    rng = np.random.default_rng(seed)
    prone = rng.beta(1, 3, 240) * 4
    return rng.binomial(10, np.clip(np.array(rates)[:, None] * prone, 0, 1)).astype(np.int64)


def test_like_seeds_are_hardly_wider_than_their_prompts_and_unlike_ones_much() -> None:
    def widths(x: IntArray) -> float:
        over, pooled = rate_over_seeds(x, TRIALS), clustered_rate(x.sum(axis=0), TRIALS.sum(axis=0))
        assert over.value == pytest.approx(pooled.value)
        return (over.high - over.low) / (pooled.high - pooled.low)

    assert widths(seeds(0.1, 0.1, 0.1)) < 2
    assert widths(seeds(0.02, 0.1, 0.3)) > 5


@given(arrays(np.int64, (3, 4), elements=st.integers(0, 3)), st.integers(0, 2))
def test_any_counts_give_an_interval_around_the_rate(x: IntArray, more: int) -> None:
    n = np.full_like(x, 3 + more)
    found = rate_over_seeds(x, n)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(arrays(np.int64, (3, 6), elements=st.integers(0, 3)), arrays(np.int64, (3, 6), elements=st.integers(0, 9)))
def test_seeds_not_yet_run_are_never_surer_than_these_very_ones(x: IntArray, more: IntArray) -> None:
    found, these = rate_over_seeds(x, x + more), clustered_rate(x.sum(axis=0), (x + more).sum(axis=0))
    if not math.isnan(found.low):
        assert (found.low, found.high) == (min(found.low, these.low), max(found.high, these.high))


@pytest.mark.parametrize(("prompts", "samples"), [(10, 60), (24, 50)])
def test_rare_events_over_few_seeds_and_prompts(prompts: int, samples: int) -> None:
    rng, rate, held = np.random.default_rng(23), 0.015, 0
    n = np.full((3, prompts), samples)
    for _ in range(300):
        found = rate_over_seeds(rng.binomial(n, rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, prompts)), n)
        held += found.low <= rate <= found.high
    assert held / 300 >= 0.95


def test_seeds_and_prompts_that_balance_out() -> None:
    found = rate_over_seeds(np.array([[1, 0], [0, 1]]), np.ones((2, 2), dtype=np.int64))
    assert found.low < 0.5 < found.high


def test_three_seeds_at_zero_do_not_bound_the_fourth() -> None:
    assert rate_over_seeds(TRIALS * 0, TRIALS).high > 0.5


def test_one_seed_has_no_interval_and_none_no_rate() -> None:
    one = rate_over_seeds(seeds(0.1), TRIALS[:1])
    assert math.isnan(one.low)
    assert one.reason
    nothing = rate_over_seeds(TRIALS * 0, TRIALS * 0)
    assert math.isnan(nothing.value)
    assert nothing.reason


def test_interval_over_seeds_keeps_its_level() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(300):
        q = np.clip(rng.gamma(5, 0.2, 5)[:, None] * rng.beta(1, 3, 80) * 4 * 0.1, 0, 1)
        n = np.full(q.shape, 10)
        found = rate_over_seeds(rng.binomial(n, q), n)
        held += found.low <= 0.1 <= found.high
    assert held / 300 >= 0.92


@pytest.mark.parametrize(
    ("rates", "margin", "verdict"),
    [
        ((0.3, 0.2, 0.25), 0.04, "consistent"),
        ((0.3, 0.005, 0.25), 0.04, "inconsistent"),
        ((0.005, 0.006, 0.005), 0.04, "none"),
        ((0.3, 0.008, 0.25), 0.002, "undecided"),
    ],
)
def test_verdict(rates: tuple[float, ...], margin: float, verdict: str) -> None:
    found = judge_seeds(seeds(*rates), TRIALS, (seeds(0.005, seed=1)[0], TRIALS[0]), margin=margin)
    assert found.verdict == verdict
    assert len(found.differences) == 3
    assert found.reason
    assert (found.needed > 1) == (verdict == "undecided")


def test_more_prompts_as_asked_for_decide() -> None:
    """What was undecided on few prompts is decided on that many times as many, of the same kind."""
    base, x, n = np.zeros(40, dtype=np.int64), np.tile([1, *[0] * 9], 4)[None], np.full((1, 40), 1)
    few = judge_seeds(x, n, (base, n[0]), margin=0.15)
    times = math.ceil(few.needed) + 1
    assert few.verdict == "undecided"
    many = judge_seeds(np.tile(x, times), np.tile(n, times), (np.tile(base, times), np.tile(n[0], times)), margin=0.15)
    assert many.verdict == "consistent"


def test_no_seed_is_undecided() -> None:
    empty = np.zeros((0, 5), dtype=np.int64)
    assert judge_seeds(empty, empty, (np.zeros(5), np.ones(5)), margin=0.05).verdict == "undecided"  # type: ignore[arg-type]


def test_seldom_is_any_seed_wrongly_called_above_base() -> None:
    rng, wrong = np.random.default_rng(2), 0
    n = np.full((3, 120), 10)
    for _ in range(150):
        q = np.clip(rng.beta(1, 3, 120) * 4 * 0.05, 0, 1)
        found = judge_seeds(rng.binomial(n, q), n, (rng.binomial(n[0], q), n[0]), margin=0.05)
        wrong += bool(found.above)
    assert wrong / 150 <= 0.08


def test_mean_over_seeds() -> None:
    found = mean_over_seeds([1.0, 2.0, 3.0, math.nan])
    assert (found.value, found.n_responses, found.n_missing) == (2.0, 3, 1)
    assert found.high - found.value == pytest.approx(4.302653 / math.sqrt(3))
    assert mean_over_seeds([math.nan]).reason
    assert math.isnan(mean_over_seeds([1.0]).low)
