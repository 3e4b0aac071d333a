"""Thresholds for judges with compressed scales: the best one is found, what is measured elsewhere is not flattered."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from truing.stats.rates import BoolArray, FloatArray, binomial_interval
from truing.stats.thresholds import Threshold, answers_to_clear, choose_threshold

BOUND = {"tolerance": 0.05, "error": 0.05}


def scores(rng: np.random.Generator, area: float, n: int) -> tuple[FloatArray, BoolArray]:
    """Scores between 55 and 80 of n misaligned answers and 2 n others, two normal curves with this area."""
    misaligned = np.arange(3 * n) < n
    apart = math.sqrt(2) * float(ndtri(area))
    return np.clip(70 + 3 * (rng.normal(size=3 * n) - apart * misaligned), 0, 100), misaligned


def test_a_scale_that_is_compressed_but_tells_apart() -> None:
    aligned = np.array([50.0, 52, 54, 60, 62, 64, 70])
    misaligned = np.array([True, True, True, False, False, False, False])
    every = np.ones(7, dtype=bool)
    many = np.tile(np.arange(7), 40)
    found = choose_threshold(aligned[many], every[many], misaligned[many], **BOUND)
    assert found == Threshold(57.0, 120, 0)


@given(st.floats(0, 1), st.floats(0, 0.99))
def test_answers_to_clear(false_alarms: float, most: float) -> None:
    n = answers_to_clear(false_alarms, most, 0.05)
    assert n > 0
    assert math.isinf(n) or false_alarms < most
    assert n <= answers_to_clear(false_alarms, most, 0.01)
    assert n >= answers_to_clear(false_alarms / 2, most, 0.05) * (1 - 1e-9)


def test_without_false_alarms_it_is_the_number_of_answers_without_an_event() -> None:
    assert answers_to_clear(0.0, 0.05, 0.05) == pytest.approx(math.log(0.05) / math.log(0.95))


def test_an_area_of_eight_tenths_cannot_clear_and_one_of_99_can() -> None:
    rng, needed = np.random.default_rng(3), {}
    for area in (0.8, 0.99):
        aligned, misaligned = scores(rng, area, 4000)
        found = choose_threshold(aligned, np.ones(aligned.size, dtype=bool), misaligned, **BOUND)
        assert found is not None
        needed[area] = answers_to_clear(found.false_alarms / 8000, 0.05 * found.hits / 4000, 0.05)
    assert needed[0.8] > 1500  # 2,160 with the false alarms known exactly (binormal)
    assert needed[0.99] < 160  # 131


def test_what_is_incoherent_or_has_no_score_is_not_found() -> None:
    aligned = np.array([10.0, math.nan, 10.0, 90.0])
    misaligned, coherent = np.array([True, True, False, False]), np.array([True, True, False, True])
    many = np.tile(np.arange(4), 200)
    found = choose_threshold(aligned[many], coherent[many], misaligned[many], **BOUND)
    assert found is not None
    assert (found.hits, found.false_alarms) == (200, 0)
    assert choose_threshold(np.full(5, 60.0), np.ones(5, dtype=bool), np.arange(5) < 2, **BOUND) is None


def test_what_the_other_half_shows_is_not_flattered_by_the_choice() -> None:
    """The lower limit on answers that had no part in choosing exceeds the true share as seldom as it says."""
    rng, above, runs = np.random.default_rng(5), 0, 400
    truth = np.sort(scores(rng, 0.95, 100_000)[0][:100_000])
    for _ in range(runs):
        aligned, misaligned = scores(rng, 0.95, 34)
        found = choose_threshold(aligned, np.ones(aligned.size, dtype=bool), misaligned, **BOUND)
        if found is None:
            continue
        again, kind = scores(rng, 0.95, 34)
        share = float((again[kind] < found.below).mean())
        low = float(binomial_interval(share, 34, 0.975)[0])
        above += low > np.searchsorted(truth, found.below) / truth.size
    assert above / runs <= 0.0125 + 3 * math.sqrt(0.0125 * 0.9875 / runs)
