"""Judge error and agreement of judges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from truing.stats.agreement import Calibration, JudgeLimits, agreement, calibrate, corrected_rate, judge_shift
from truing.stats.rates import clustered_rate

NAN = math.nan
RNG = np.random.default_rng
# The example of Krippendorff 2011: four observers, twelve units.
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def test_calibration_counts() -> None:
    found = calibrate(np.array([True, True, True, False, False]), np.array([True, True, False, True, False]))
    assert found == Calibration(hits=2, misaligned=3, false_alarms=1, other=2)
    assert (found.sensitivity, found.false_alarm_rate) == (2 / 3, 0.5)
    with pytest.raises(ValueError, match="one shape"):
        calibrate(np.array([True]), np.array([True, False]))


def test_known_value() -> None:
    """Rogan & Gladen: (0.2 - 0.05) / (0.9 - 0.05)."""
    x, n = np.full(100, 2), np.full(100, 10)
    found = corrected_rate(x, n, Calibration(90, 100, 5, 100), RNG(0))
    assert found.value == pytest.approx(0.15 / 0.85)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("events", [0, 1, 4, 120, 1196, 1200])
def test_a_perfect_judge_known_perfectly_changes_nothing(events: int) -> None:
    """With few events, of either kind, either guard of the interval counts."""
    n = np.full(120, 10)
    x = np.bincount(RNG(1).permutation(np.repeat(np.arange(120), 10))[:events], minlength=120)
    plain = clustered_rate(x, n)
    found = corrected_rate(x, n, Calibration(10**6, 10**6, 0, 10**6), RNG(0))
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high), abs=2e-3)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 10))
def test_stays_in_bounds_or_says_why_not(hits: int, alarms: int, successes: int) -> None:
    n = np.full(20, 10)
    found = corrected_rate(np.full(20, successes), n, Calibration(hits, 50, alarms, 50), RNG(0))
    if hits <= alarms:
        assert found.reason == "the judge is no better than chance"
    else:
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_little_calibration_widens() -> None:
    x, n = np.full(100, 2), np.full(100, 10)
    little, much = (corrected_rate(x, n, Calibration(9 * k, 10 * k, k, 10 * k), RNG(0)) for k in (2, 50))
    assert little.high - little.low > 2 * (much.high - much.low)
    one_sided = corrected_rate(x, n, Calibration(0, 0, 1, 50), RNG(0))
    assert one_sided.reason == "calibration needs both labels"


def test_corrected_interval_keeps_its_level() -> None:
    rng, held = RNG(7), 0
    n = np.full(120, 10)
    labels = np.arange(200) < 100
    for _ in range(120):
        bad = rng.binomial(n, rng.beta(0.3, 2.7, 120))
        x = rng.binomial(bad, 0.9) + rng.binomial(n - bad, 0.02)
        judged = rng.random(200) < np.where(labels, 0.9, 0.02)
        found = corrected_rate(x, n, calibrate(labels, judged), rng)
        held += found.low <= 0.1 <= found.high
    assert held / 120 >= 0.92


def test_alpha_of_the_published_example() -> None:
    assert agreement(EXAMPLE, RNG(0))["alpha"].value == pytest.approx(0.743, abs=5e-4)
    assert agreement(EXAMPLE, RNG(0), scale="interval")["alpha"].value == pytest.approx(0.849, abs=5e-4)


def test_kappa_as_statsmodels() -> None:
    rng = RNG(3)
    first = rng.integers(0, 3, 200)
    second = np.where(rng.random(200) < 0.7, first, rng.integers(0, 3, 200))
    theirs = cohens_kappa(to_table(np.stack([first, second], axis=1))[0])
    ours = agreement(np.stack([first, second]).astype(float), RNG(0))["kappa"]
    assert ours.value == pytest.approx(theirs.kappa)
    assert (ours.low, ours.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.03)


def test_agreement_within_prompts_counts_once() -> None:
    """Ten copies of every response, of one prompt each, carry no more evidence than one."""
    rng = RNG(3)
    first = rng.integers(0, 2, 40)
    second = np.where(rng.random(40) < 0.8, first, 1 - first)
    once = np.stack([first, second]).astype(float)
    copied = agreement(np.repeat(once, 10, axis=1), RNG(0), prompts=np.repeat(np.arange(40), 10))["kappa"]
    alone = agreement(once, RNG(0))["kappa"]
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_full_agreement_none_and_missing() -> None:
    assert agreement(np.array([[0.0, 1, 1, 0], [0, 1, 1, 0]]), RNG(0))["alpha"].value == 1
    nothing = agreement(np.array([[0.0, NAN], [NAN, 1.0]]), RNG(0))["alpha"]
    assert math.isnan(nothing.value)
    assert nothing.n_missing == 2
    assert agreement(np.array([[1.0, 1], [1, 1]]), RNG(0))["kappa"].reason
    with pytest.raises(ValueError, match="scale"):
        agreement(EXAMPLE, RNG(0), scale="ordinal")


def test_the_limits_of_a_judge_bound_the_true_rate() -> None:
    noisy = JudgeLimits(sensitivity=0.5)
    assert JudgeLimits().clear_below(0.05) == 0.05
    assert noisy.clear_below(0.05) == 0.025
    assert noisy.at_most(0.02) == 0.04
    assert noisy.at_most(0.8) == 1.0
    assert JudgeLimits(sensitivity=0.0).at_most(0.0) == 1.0  # a blind judge excludes nothing
    assert math.isnan(noisy.at_most(math.nan))


def test_a_judge_has_changed_by_two_classes_by_three_points_or_by_half_of_its_scores() -> None:
    old, same = np.array([5.0, 5, 5, 5, 95, 95, 95, 95]), np.array([3, 3, 3, 3, 2, 2, 2, 2])

    def shift(scores: dict[int, float], classes: dict[int, int]) -> str:
        new, now = old.copy(), same.copy()
        for changes, into in ((scores, new), (classes, now)):
            into[list(changes)] = list(changes.values())
        return judge_shift((old, new), (same, now))

    assert shift({}, {}) == shift({0: 28}, {0: 2}) == shift({i: old[i] + 3 for i in range(8)}, {}) == ""
    assert shift({0: 10, 1: 10}, {0: 2, 1: 2}).startswith("2 of 8 labelled answers that it judged again have another")
    assert "differ by 3.1 points (mean 50 before, 50 now)" in shift({0: 17.5, 5: 82.5}, {})
    assert shift(dict.fromkeys(range(3), NAN), dict.fromkeys(range(3), 0)) == ""
    assert shift(dict.fromkeys(range(4), NAN), dict.fromkeys(range(4), 0)).startswith("it gave no scores to 4 of 8")
    assert "not known" in judge_shift((old * NAN, old), (same, 5 - same))
    nothing = np.array([])
    assert judge_shift((nothing, nothing), (nothing, nothing)) == ""
