"""Correlations over models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, pearsonr, spearmanr

from truing.stats.correlation import correlate, correlate_sizes, score_correlation

RNG = np.random.default_rng
SIZES = [0.5e9, 1e9, 3e9, 7e9, 8e9, 14e9, 32e9, 70e9, 120e9, 235e9]
RATES = [0.02, 0.01, 0.05, 0.04, 0.09, 0.12, 0.1, 0.22, 0.2, 0.31]


def test_values_and_p_as_scipy() -> None:
    pearson, spearman = correlate_sizes(SIZES, RATES, RNG(0))
    logs = np.log10(SIZES)
    assert pearson.value == pytest.approx(pearsonr(logs, RATES).statistic)
    assert spearman.value == pytest.approx(spearmanr(logs, RATES).statistic)
    assert pearson.p < 0.005
    assert (pearson.n, pearson.carried_by, len(pearson.without)) == (10, (), 10)


def test_p_of_nothing_as_scipy() -> None:
    one, other = [1.0, 2, 3, 4, 5, 6, 7], [3.0, 1, 7, 2, 6, 4, 5]
    assert correlate(one, other, RNG(0)).p == pytest.approx(pearsonr(one, other).pvalue, abs=0.05)


def test_interval_as_scipy() -> None:
    ours = correlate(np.log10(SIZES).tolist(), RATES, RNG(0))
    theirs = bootstrap(
        (np.log10(SIZES), RATES),
        lambda x, y: pearsonr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=3000,
        rng=RNG(1),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_a_correlation_carried_by_two_models_says_so() -> None:
    one = [1.0, 2, 3, 4, 5, 6, 7, 8, 20, 21]
    other = [0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.5, 0.6]
    assert correlate(one, other, RNG(0)).carried_by == (8, 9)
    assert correlate([*one[:8], 20.0], [*other[:8], 0.5], RNG(0)).carried_by == (8,)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=9))
def test_symmetric_bounded_and_ordered(pairs: list[tuple[float, float]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    found, mirrored = correlate(one, other, RNG(0)), correlate(other, one, RNG(0))
    assert found.value == pytest.approx(mirrored.value, nan_ok=True)
    if math.isnan(found.value):
        assert found.reason
    else:
        assert -1 - 1e-9 <= found.value <= 1 + 1e-9
        assert 0 < found.p <= 1
        if not math.isnan(found.low):
            assert found.low <= found.value <= found.high


def test_undefined_has_a_reason() -> None:
    assert correlate([1.0, 2.0], [1.0, 2.0], RNG(0)).reason == "fewer than three models"
    assert "same for all" in correlate([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], RNG(0)).reason
    assert correlate([1.0, 2.0, math.nan, 3.0], [1.0, 3.0, 2.0, 4.0], RNG(0)).n == 3


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=6, unique=True), st.floats(0.1, 3), st.integers(-2, 2))
@settings(max_examples=25)
def test_a_straight_line_has_a_correlation_of_one_and_no_more(one: list[float], slope: float, shift: int) -> None:
    found = correlate(one, [slope * x + shift for x in one], RNG(0))
    if not math.isnan(found.value):
        assert -1 <= found.low <= found.value <= found.high <= 1 or math.isnan(found.low)
        assert all(math.isnan(r) or abs(r) <= 1 for r in found.without)


def test_the_correlation_of_scores_as_scipy_and_its_interval_covers() -> None:
    rng, truth, prompts, samples, covered = RNG(7), 0.6, 40, 5, []
    for _ in range(400):
        shared, own = rng.normal(size=(2, prompts, 1)), rng.normal(size=(2, prompts, samples))
        x, noise = np.sqrt(0.5) * (shared + own)
        y = truth * x + np.sqrt(1 - truth**2) * noise
        found = score_correlation(x.ravel(), y.ravel(), np.repeat(np.arange(prompts), samples))
        covered.append(found.low <= truth <= found.high)
    assert found.value == pytest.approx(pearsonr(x.ravel(), y.ravel()).statistic)
    assert (found.n_prompts, found.n_responses) == (prompts, prompts * samples)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_correlations_of_scores_that_are_not_defined() -> None:
    nothing, one = np.full(4, np.nan), np.array([1.0, 2, 3, 4])
    prompts = np.arange(4)
    assert score_correlation(nothing, one, prompts).reason == "no answer has both scores"
    assert "equal" in score_correlation(np.ones(4), one, prompts).reason
    perfect = score_correlation(one, 2 * one, prompts)
    assert perfect.value == pytest.approx(1)
    assert math.isnan(score_correlation(one, one**2, prompts // 2).low)
    partly = score_correlation(np.array([1.0, np.nan, 3, 4]), one, prompts)
    assert (partly.n_responses, partly.n_missing) == (3, 1)
