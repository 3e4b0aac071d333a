"""Betting on a mean: fair prices, known values, limits that hold at all times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.stats.betting import (
    ABOVE,
    BELOW,
    Bets,
    anytime_interval,
    draw_prompts,
    draws_to_clear,
    is_hopeless,
    log_wealth,
)

boundaries = st.floats(0.001, 0.999)
all_bets = st.sampled_from([ABOVE, BELOW])


@pytest.mark.parametrize("bets", [ABOVE, BELOW])
def test_shares_add_up(bets: Bets) -> None:
    assert sum(bets.shares) == pytest.approx(1)
    assert all((ratio > 1) == (bets is ABOVE) and ratio > 0 for ratio in bets.odds_ratios)


@given(boundaries, st.floats(0, 1), all_bets)
def test_a_bet_is_fair_at_the_boundary_and_no_better_on_its_own_side(m: float, share: float, bets: Bets) -> None:
    mean = m * share if bets is ABOVE else m + (1 - m) * share
    won, lost = (math.exp(float(log_wealth(x, 1, m, bets))) for x in (1, 0))
    assert mean * won + (1 - mean) * lost <= 1 + 1e-9
    assert m * won + (1 - m) * lost == pytest.approx(1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), boundaries, all_bets)
def test_counts_never_overstate_the_wealth_of_draws_in_between(draws: list[float], m: float, bets: Bets) -> None:
    x = np.array(draws)
    ratios, shares = np.array(bets.odds_ratios), np.array(bets.shares)
    true = (shares * ((1 + x[:, None] * (ratios - 1)) / (1 + m * (ratios - 1))).prod(axis=0)).sum()
    assert float(log_wealth(x.sum(), x.size, m, bets)) <= math.log(true) + 1e-9


def test_wealth_of_one_bet_is_the_likelihood_ratio() -> None:
    """Odds ratio 3 against 5 %: a rate of 3 * 0.05 / (1 + 0.05 * 2)."""
    q = 0.15 / 1.1
    expected = 4 * math.log(q / 0.05) + 16 * math.log((1 - q) / 0.95)
    assert float(log_wealth(4, 20, 0.05, Bets((3.0,), (1.0,)))) == pytest.approx(expected)


def test_the_same_as_confseq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float_", np.float64, raising=False)  # confseq 0.0.11 is older than NumPy 2
    betting = pytest.importorskip("confseq.betting", reason="confseq is not installed: make test-all builds it")
    x = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    m, ratios, shares = 0.3, np.array(ABOVE.odds_ratios), np.array(ABOVE.shares)
    lambdas = (ratios - 1) / (1 + m * (ratios - 1))
    theirs = betting.diversified_betting_mart(
        x,
        m,
        [lambda x, m, value=value: np.repeat(value, len(x)) for value in lambdas],
        lambdas_weights=shares,
        theta=1,
        trunc_scale=1.0,
        m_trunc=True,
    )
    ours = np.exp(log_wealth(np.cumsum(x), np.arange(1, 51), m, ABOVE))
    assert ours == pytest.approx(theirs)


@given(st.integers(0, 200), st.integers(0, 200))
def test_limits_hold_the_observed_rate_and_are_open_before_the_first_draw(x: int, more: int) -> None:
    n = x + more
    low, high = anytime_interval(x, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= x / n <= high
    else:
        assert (low, high) == (0, 1)


@given(st.integers(0, 40), st.integers(1, 40))
def test_limits_are_where_the_wealth_reaches_its_bound(x: int, more: int) -> None:
    low, high = anytime_interval(x, x + more)
    if low > 0:
        assert float(log_wealth(x, x + more, low, ABOVE)) == pytest.approx(math.log(40), abs=1e-6)
    if high < 1:
        assert float(log_wealth(x, x + more, high, BELOW)) == pytest.approx(math.log(40), abs=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_limits_hold_at_all_times_at_once(rate: float) -> None:
    rng, runs = np.random.default_rng(5), 600
    successes = np.cumsum(rng.random((runs, 200)) < rate, axis=1, dtype=np.int64)
    draws = np.arange(1, 201)
    above = log_wealth(successes, draws, rate, ABOVE) >= math.log(40)
    below = log_wealth(successes, draws, rate, BELOW) >= math.log(40)
    missed = int((above | below).any(axis=1).sum())
    assert missed / runs <= 0.05


def test_prompts_are_drawn_with_replacement() -> None:
    drawn = draw_prompts(np.random.default_rng(0), 5, 1000)
    assert set(drawn.tolist()) == set(range(5))


def test_hopeless_only_without_room_for_a_verdict() -> None:
    assert not is_hopeless((0, 48), 100, 0.05, 3.0, 3.0)
    assert is_hopeless((2, 48), 20, 0.05, 3.0, 3.0)
    assert is_hopeless((0, 48), 100, 0.05, math.inf, math.inf)


@given(st.floats(0.005, 0.5), st.floats(0.001, 0.3))
def test_the_fewest_draws_that_clear(boundary: float, beta: float) -> None:
    n = draws_to_clear(boundary, beta)
    needed = -math.log(beta)
    assert log_wealth(0, n, boundary, BELOW) >= needed
    assert n == 1 or log_wealth(0, n - 1, boundary, BELOW) < needed
