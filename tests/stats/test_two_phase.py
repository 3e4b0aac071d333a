"""Two-phase sampling: unbiased whatever the cheap judge says, and limits that hold at rare rates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.stats.two_phase import TwoPhase, chance, log_wealth_above, log_wealth_below, two_phase_rate

RNG = np.random.default_rng


def drawn(
    rng: np.random.Generator,
    rate: float,
    share: float,
    flagged: bool = True,
    cheap: tuple[float, float] = (0.7, 0.05),
    alike: int = 1,
) -> TwoPhase:
    """240 answers at a known rate, `alike` of them the same each time; both judges' words; a share read.

    The cheap judge has a sensitivity and a rate of false alarms.
    """
    own = np.repeat(rng.random(240 // alike) < rate, alike)
    trials = rng.random(own.size) < 0.9
    bad = own & trials
    cheap_trials = np.where(rng.random(own.size) < 0.95, trials, ~trials)
    hit, alarm = (rng.random(own.size) < each for each in cheap)
    flags = np.where(bad, hit, alarm) & cheap_trials
    probability = np.where(flags & flagged, 1.0, share)
    read = rng.random(own.size) < probability
    prompts = np.repeat(np.arange(240 // alike), alike)
    return TwoPhase(bad & read, trials & read, read, probability, flags, cheap_trials, prompts)


answers = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans())


@settings(max_examples=30)
@given(st.lists(answers, min_size=1, max_size=6), st.sampled_from([0.25, 0.5, 0.9]), st.booleans(), st.integers(0, 9))
def test_the_terms_are_unbiased_whatever_either_judge_says(
    said: list[tuple[bool, bool, bool, bool]], share: float, flagged: bool, seed: int
) -> None:
    """Over all ways in which the strong judge could have read some, weighted by their probabilities."""
    words = np.array(said)
    trials, cheap_trials = words[:, 0], words[:, 2]
    successes, cheap = words[:, 1] & trials, words[:, 3] & cheap_trials
    probability = np.where(cheap & flagged, 1.0, share)
    means, total = np.zeros(2), 0.0
    for pattern in itertools.product([False, True], repeat=len(said)):
        read = np.array(pattern)
        weight = np.where(read, probability, 1 - probability).prod()
        if weight:
            sample = TwoPhase(
                successes & read, trials & read, read, probability, cheap, cheap_trials, np.arange(len(said))
            )
            means += weight * np.array([each.sum() for each in sample.terms(RNG(seed))])
            total += weight
    assert total == pytest.approx(1)
    assert means == pytest.approx([successes.sum(), trials.sum()])


@settings(max_examples=30)
@given(st.lists(answers, min_size=1, max_size=40), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 99))
def test_no_bet_loses_more_than_there_is(said: list[tuple[bool, bool, bool, bool]], share: float, seed: int) -> None:
    words, rng = np.array(said), RNG(seed)
    read = rng.random(len(said)) < share
    trials, cheap_trials = words[:, 0] & read, words[:, 2]
    sample = TwoPhase(
        words[:, 1] & trials, trials, read, np.full(len(said), share), words[:, 3] & cheap_trials, cheap_trials,
        np.arange(len(said)),
    )  # fmt: skip
    successes, every = sample.terms(rng)
    for m in (1e-6, 0.05, 0.5, 0.99):
        assert np.isfinite(log_wealth_below(successes, every, m, sample.least)).all()
        assert np.isfinite(log_wealth_above(successes, every, m, sample.least, sample.reach)).all()


def test_read_whole_it_is_the_strong_judges_own_rate() -> None:
    sample = drawn(RNG(1), 0.08, 1.0, alike=2)
    found = two_phase_rate(sample, RNG(0))
    assert found.value == pytest.approx(sample.successes.sum() / sample.trials.sum())
    assert (found.n_prompts, found.n_responses) == (120, int(sample.trials.sum()))
    assert found.low < found.value < found.high


@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_limits_hold_at_rare_rates(rate: float, share: float, flagged: bool) -> None:
    rng = RNG([int(1000 * rate), int(100 * share), flagged])
    found = [two_phase_rate(drawn(rng, rate, share, flagged), rng) for _ in range(150)]
    assert np.mean([each.low <= rate <= each.high for each in found]) >= 0.95
    assert np.mean([each.value for each in found]) == pytest.approx(
        rate, abs=4 * rate / math.sqrt(150 * rate * 240 * share)
    )


def test_limits_hold_where_answers_to_a_prompt_are_all_alike() -> None:
    rng = RNG(5)
    found = [two_phase_rate(drawn(rng, 0.05, 0.5, alike=4), rng) for _ in range(120)]
    assert np.mean([each.low <= 0.05 <= each.high for each in found]) >= 0.95


def test_a_useless_screen_is_given_no_weight() -> None:
    rng = RNG(8)
    spread = {
        alarms: np.std([two_phase_rate(drawn(rng, 0.05, 0.5, False, (alarms, alarms)), rng).value for _ in range(150)])
        for alarms in (0.0, 0.5)
    }
    assert spread[0.5] < 1.25 * spread[0.0]


def test_the_fewer_are_read_the_wider() -> None:
    widths = []
    for share in (1.0, 0.5, 0.25):
        rng = RNG(3)
        found = [two_phase_rate(drawn(rng, 0.03, share), rng) for _ in range(20)]
        widths.append(np.mean([each.high - each.low for each in found]))
    assert widths == sorted(widths)


def test_nothing_read_is_undefined() -> None:
    sample = drawn(RNG(0), 0.0, 0.5)
    nothing = np.zeros_like(sample.read)
    found = two_phase_rate(
        TwoPhase(nothing, nothing, nothing, sample.probability, nothing, sample.cheap_trials, sample.prompts),
        RNG(0),
        n_missing=4,
    )
    assert math.isnan(found.value)
    assert found.n_missing == 4


def test_chances_are_uniform_and_stay() -> None:
    values = np.array([chance(0, "key", f"p{i}", k) for i in range(2000) for k in range(2)])
    assert 0.47 < values.mean() < 0.53
    assert np.histogram(values, 10, (0, 1))[0].min() > 330
    assert chance(0, "key", "p1", 0) == values[2]
    assert chance(1, "key", "p1", 0) != values[2]
