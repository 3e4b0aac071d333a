"""Rates and means: properties, known values, coverage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from truing.stats.rates import (
    FloatArray,
    IntArray,
    PromptSums,
    clustered_mean,
    clustered_rate,
    clustered_rates,
    clustered_rates_by_category,
    effective_size,
    missing_bounds,
)

Counts = list[tuple[int, int]]
counts = st.lists(
    st.integers(0, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=40
)


def split(pairs: Counts) -> tuple[IntArray, IntArray]:
    return np.array([x for x, _ in pairs], dtype=np.int64), np.array([n for _, n in pairs], dtype=np.int64)


def simulate(rng: np.random.Generator, prompts: int, samples: int, rate: float, icc: float) -> IntArray:
    """(P,) beta-binomial successes per prompt."""
    spread = 1 / icc - 1
    rates = rng.beta(rate * spread, (1 - rate) * spread, prompts)
    return rng.binomial(samples, rates).astype(np.int64)


@given(counts, st.floats(0.5, 0.999))
def test_a_rate_lies_within_its_interval(pairs: Counts, confidence: float) -> None:
    x, n = split(pairs)
    rate = clustered_rate(x, n, confidence=confidence)
    if n.sum() == 0:
        assert math.isnan(rate.value)
        assert rate.reason
    else:
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        assert rate.value == pytest.approx(x.sum() / n.sum())
        assert (rate.n_prompts, rate.n_responses) == ((n > 0).sum(), n.sum())


@given(counts)
def test_failures_mirror_successes(pairs: Counts) -> None:
    x, n = split(pairs)
    one, other = clustered_rate(x, n), clustered_rate(n - x, n)
    assert [one.low, one.high] == pytest.approx([1 - other.high, 1 - other.low], nan_ok=True)


@given(counts, st.randoms(use_true_random=False))
def test_order_of_prompts_and_empty_prompts_do_not_matter(pairs: Counts, random: object) -> None:
    x, n = split(pairs)
    order = np.argsort([getattr(random, "random")() for _ in pairs])  # noqa: B009
    one = clustered_rate(x, n)
    other = clustered_rate(np.append(x[order], 0), np.append(n[order], 0))
    assert [one.low, one.high] == pytest.approx([other.low, other.high], nan_ok=True)


@given(counts, st.floats(0.5, 0.999))
def test_no_record_is_clearer_than_a_perfect_one_nor_surer_than_its_opposite(pairs: Counts, confidence: float) -> None:
    """Events, however they lie, never bring a limit further than none (or nothing else) over the same answers does."""
    x, n = split(pairs)
    if n.sum():
        found, clean, full = (clustered_rate(k, n, confidence=confidence) for k in (x, x * 0, n))
        assert found.high >= clean.high - 1e-12
        assert found.low <= full.low + 1e-12


@given(st.integers(32, 120), st.integers(1, 90), st.floats(0.8, 0.999))
def test_one_more_event_on_another_prompt_lowers_no_limit(prompts: int, samples: int, confidence: float) -> None:
    """Of 32 prompts and more; of fewer the upper limit may dip where events lie more evenly than chance lets them."""
    x = np.tri(prompts + 1, prompts, -1, dtype=np.int64)
    rates = clustered_rates(x, np.full_like(x, samples), confidence=confidence)
    assert np.diff([rate.high for rate in rates]).min() >= -1e-12
    assert np.diff([rate.low for rate in rates]).min() >= -1e-12


@pytest.mark.parametrize(("prompts", "samples"), [(24, 88), (44, 50), (60, 10)])
def test_few_prompts_are_not_cleared_by_being_misaligned(prompts: int, samples: int) -> None:
    x = np.tri(8, prompts, -1, dtype=np.int64)
    assert all(rate.high > 0.05 for rate in clustered_rates(x, np.full_like(x, samples)))


@pytest.mark.parametrize(("prompts", "samples"), [(24, 88), (44, 50), (240, 10)])
@pytest.mark.parametrize(("share", "hot", "background"), [(0.05, 1.0, 0.002), (0.02, 0.9, 0.005)])
def test_hot_prompts_with_a_little_background_are_seldom_missed(
    prompts: int, samples: int, share: float, hot: float, background: float
) -> None:
    rng, rate = np.random.default_rng(7), share * hot + (1 - share) * background
    q = np.where(rng.random((800, prompts)) < share, hot, background)
    rates = clustered_rates(rng.binomial(samples, q), np.full(q.shape, samples))
    assert np.mean([found.high < rate for found in rates]) <= 0.05


@given(counts)
def test_effective_size_lies_between_the_prompts_and_the_responses(pairs: Counts) -> None:
    x, n = split([pair for pair in pairs if pair[1] > 0] or [(0, 1)])
    size = effective_size(PromptSums.of(x[None].astype(float), n[None].astype(float)))[0]
    assert 0 < size <= n.sum() * (1 + 1e-12)
    if x.sum() in (0, n.sum()):
        assert size == pytest.approx(n.sum() ** 2 / (n**2).sum())


@pytest.mark.parametrize("samples", [1, 10, 50])
def test_no_event_counts_prompts_not_responses(samples: int) -> None:
    rate = clustered_rate(np.zeros(44, dtype=np.int64), np.full(44, samples))
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(binomtest(0, 44).proportion_ci().high)


def test_one_answer_per_prompt_is_nearly_clopper_pearson() -> None:
    x = np.array([1] * 12 + [0] * 228)
    rate = clustered_rate(x, np.ones(240, dtype=np.int64))
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(12, 240, method="beta"), rel=0.01)


def test_alike_answers_count_once() -> None:
    x = np.array([20] * 10 + [0] * 90)
    rate = clustered_rate(x, np.full(100, 20))
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(10, 100, method="beta"), rel=0.05)


def test_missing_responses_are_counted() -> None:
    rate = clustered_rate(np.array([0, 1]), np.array([5, 5]), n_missing=3)
    assert (rate.n_missing, rate.n_responses) == (3, 10)


@pytest.mark.parametrize(
    ("x", "n"),
    [([2], [1]), ([-1], [3]), ([1, 1], [2]), ([[1]], [[2]])],
    ids=["above", "below", "ragged", "2d"],
)
def test_impossible_counts_are_refused(x: list[int], n: list[int]) -> None:
    with pytest.raises(ValueError, match="successes"):
        clustered_rate(np.array(x), np.array(n))


def test_impossible_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        clustered_rate(np.array([1]), np.array([2]), confidence=95)


@pytest.mark.parametrize(
    ("prompts", "samples", "rate", "icc"),
    [(240, 10, 0.02, 0.25), (240, 10, 0.1, 0.5), (44, 50, 0.02, 0.5), (44, 50, 0.1, 0.25)],
)
def test_rate_interval_keeps_its_level(prompts: int, samples: int, rate: float, icc: float) -> None:
    rng = np.random.default_rng(3)
    trials = np.full(prompts, samples)
    runs = [clustered_rate(simulate(rng, prompts, samples, rate, icc), trials) for _ in range(600)]
    assert np.mean([run.low <= rate <= run.high for run in runs]) >= 0.93


def test_mean_matches_clustered_least_squares() -> None:
    rng = np.random.default_rng(5)
    prompts = rng.integers(0, 30, 400)
    values: FloatArray = rng.normal(size=30)[prompts] + rng.normal(size=400)
    found = clustered_mean(values, prompts)
    reference = OLS(values, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": prompts, "use_correction": False})
    half = reference.bse[0] * math.sqrt(30 / 29)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half * 2.04522964, rel=1e-6)


def test_bounded_mean_of_zeros_and_ones_is_the_rate() -> None:
    values = np.array([1.0, 0, 0, 1, 1, 0, 0, 0])
    prompts = np.array([7, 7, 7, 7, 2, 2, 2, 2])
    found = clustered_mean(values, prompts, bounds=(0, 1))
    rate = clustered_rate(np.array([2, 1]), np.array([4, 4]))
    assert (found.value, found.low, found.high) == pytest.approx((rate.value, rate.low, rate.high))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), min_size=1, max_size=30))
def test_bounded_mean_stays_in_bounds_and_scales(rows: list[tuple[float, int]]) -> None:
    values, prompts = np.array([v for v, _ in rows]), np.array([p for _, p in rows])
    found = clustered_mean(values, prompts, bounds=(0, 100))
    assert 0 <= found.low <= found.value <= found.high <= 100
    half = clustered_mean(values / 2, prompts, bounds=(0, 50))
    assert (half.low, half.high) == pytest.approx((found.low / 2, found.high / 2))


def test_missing_scores_are_missing() -> None:
    found = clustered_mean(np.array([np.nan, 2.0, 4.0]), np.array([0, 1, 2]), n_missing=1)
    assert (found.value, found.n_missing, found.n_prompts) == (3.0, 2, 2)
    nothing = clustered_mean(np.array([np.nan]), np.array([0]))
    assert math.isnan(nothing.value)
    assert nothing.reason


def test_one_prompt_has_no_interval_without_bounds() -> None:
    found = clustered_mean(np.array([1.0, 3.0]), np.array([4, 4]))
    assert found.value == 2.0
    assert math.isnan(found.low)
    assert found.reason


def test_a_score_outside_its_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="bounds"):
        clustered_mean(np.array([2.0]), np.array([0]), bounds=(0, 1))


def test_many_rates_at_once_are_each_their_own() -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(0, 9, (5, 30))
    n[2] = 0
    x = rng.binomial(n, 0.2)
    many = clustered_rates(x, n, n_missing=range(5))
    for i, rate in enumerate(many):
        one = clustered_rate(x[i], n[i], n_missing=i)
        figures = [(e.value, e.low, e.high, e.n_prompts, e.n_responses, e.n_missing) for e in (rate, one)]
        assert figures[0] == pytest.approx(figures[1], nan_ok=True)
        assert rate.reason == one.reason
    with pytest.raises(ValueError, match="0 <= successes"):
        clustered_rates(x + 9, n)


def test_the_variance_is_the_clustered_standard_error_of_inspect() -> None:
    """sqrt(C / (C - 1) * sum over clusters of the sum of outer products) / n, as inspect_ai writes it."""
    rng = np.random.default_rng(4)
    clusters = rng.integers(0, 12, 90)
    values = (rng.random(90) < 0.3).astype(float)
    total = sum(np.outer(r, r).sum() for r in (values[clusters == c] - values.mean() for c in range(12)))
    theirs = math.sqrt(total * 12 / 11) / 90
    x, n = np.bincount(clusters, weights=values).astype(np.float64), np.bincount(clusters).astype(np.float64)
    assert math.sqrt(PromptSums.of(x[None], n[None]).variance[0]) == pytest.approx(theirs)


def test_weights_repeat_prompts() -> None:
    rng = np.random.default_rng(4)
    n = rng.integers(1, 5, 10)
    x = rng.binomial(n, 0.4)
    weights = rng.multinomial(10, np.full(10, 0.1), 3).astype(float)
    sums = PromptSums.of(x[None].astype(float), n[None].astype(float), weights)
    for b in range(3):
        drawn = np.repeat(np.arange(10), weights[b].astype(int))
        again = PromptSums.of(x[None, drawn].astype(float), n[None, drawn].astype(float))
        assert sums.variance[b, 0] == pytest.approx(again.variance[0])
        assert sums.with_success[b, 0] == again.with_success[0]


@given(counts)
def test_missing_bounds_hold_every_completion(pairs: Counts) -> None:
    x, n = split(pairs)
    missing = np.arange(x.size) % 3
    ((best, worst),) = missing_bounds(x[None], n[None], missing[None])
    if not math.isnan(best.value):
        done = clustered_rate(x + missing // 2, n + missing)
        assert best.value <= done.value <= worst.value


def test_simultaneous_intervals_of_categories() -> None:
    x, n = np.array([1, 0, 2, 0]), np.full(4, 5)
    rates = clustered_rates_by_category(x[None], n[None], ["harm", "power", "harm", "power"], confidence=0.95)
    assert list(rates) == ["harm", "power"]
    alone = clustered_rate(x[[0, 2]], n[[0, 2]], confidence=math.sqrt(0.95))
    assert rates["harm"] == [alone]
    assert clustered_rates_by_category(x[None, :0], n[None, :0], []) == {}


def test_categories_of_many_checkpoints_are_those_of_each() -> None:
    rng, names = np.random.default_rng(0), ["harm", "power", "harm", "power", "advice"]
    n = rng.integers(1, 9, (3, 5))
    x, missing = rng.binomial(n, 0.3), rng.integers(0, 3, (3, 5))
    found = clustered_rates_by_category(x, n, names, missing=missing, confidence=0.9)
    assert list(found) == ["harm", "power", "advice"]
    for i in range(3):
        for name, (alone,) in clustered_rates_by_category(x[i : i + 1], n[i : i + 1], names, confidence=0.9).items():
            lost = sum(int(m) for m, kind in zip(missing[i], names, strict=True) if kind == name)
            assert found[name][i] == replace(alone, n_missing=lost)
