"""Onset, convergence, retention and their order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.estimates import NAN, UNKNOWN, rate, scores
from truing.stats.course import (
    Course,
    RunCounts,
    StepInterval,
    describe_course,
    find_convergence,
    find_onset,
)
from truing.stats.rates import FloatArray


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        ([0.1, 0.5, 0.96, 0.97, 1.0], 3),
        ([0.1, 0.96, 0.5, 0.97, 1.0], 4),
        ([0.1, 0.96, NAN, 0.97, 1.0], 2),
        ([1.0, 0.2, 0.2, 0.2, 0.2], None),
        ([NAN, NAN, NAN, NAN, NAN], None),
        ([0.0, 0.0, -1.0, 0.0, 0.0], None),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 1),
        ([0.1, 0.2, 0.3, 0.4, 1.0], 5),
    ],
)
def test_convergence(scores: list[float], step: int | None) -> None:
    assert find_convergence([1, 2, 3, 4, 5], scores) == step


@given(st.lists(scores, max_size=12), st.floats(0.1, 1))
def test_convergence_stays(values: list[float], share: float) -> None:
    found = find_convergence(range(len(values)), values, share)
    if found is not None:
        best = max(value for value in values if not math.isnan(value))
        assert all(value >= share * best for value in values[found:] if not math.isnan(value))


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.01, 0.01, 0.01, 0.01], None),
        ([0.01, 0.10, 0.20, 0.30], 2),
        ([0.10, 0.01, 0.01, 0.01], None),
        ([0.10, 0.01, 0.10, 0.10], 3),
        ([0.01, 0.01, 0.01, 0.10], 4),
        ([0.10, 0.10, 0.01, 0.01], 1),
        ([0.10, NAN, 0.10, 0.01], 1),
        ([0.10, NAN, 0.01, 0.01], None),
        ([0.01, 0.10, NAN, NAN], 2),
    ],
)
def test_onset(values: list[float], step: int | None) -> None:
    em_rates = [UNKNOWN if math.isnan(value) else rate(value) for value in values]
    assert find_onset([1, 2, 3, 4], em_rates, rate(0.01)) == step


def test_no_onset_without_a_base() -> None:
    assert find_onset([1, 2], [rate(0.5), rate(0.5)], UNKNOWN) is None


def test_steps_must_ascend_and_match() -> None:
    with pytest.raises(ValueError, match="ascend"):
        find_convergence([2, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="one value per step"):
        find_onset([1, 2], [rate(0.1)], rate(0.1))


def simulate(em: FloatArray, task: FloatArray, rng: np.random.Generator, samples: int = 10) -> RunCounts:
    """A run judged on 240 x 5 benchmark responses and on 120 prompts of the task."""
    prone = rng.beta(0.6, 1.4, 240) / 0.3
    rates = np.clip(np.asarray(em)[:, None] * prone, 0, 1)
    learnt = np.repeat(np.asarray(task)[:, None], 120, axis=1)
    n, m = np.full(rates.shape, 5), np.full(learnt.shape, samples)
    return RunCounts(tuple(range(1, len(em) + 1)), rng.binomial(n, rates), n, rng.binomial(m, learnt), m)


def course_of(onset: int, convergence: int, samples: int = 10, share: float = 0.9) -> Course:
    rng, steps = np.random.default_rng(4), np.arange(1, 11)
    em = np.where(steps < onset, 0.005, 0.3)
    task = np.where(steps < convergence, 0.7 * steps / convergence, 0.98)
    return describe_course(simulate(em, task, rng, samples), 0.05, rng, share=share)


def test_order_is_said_when_the_data_carry_it() -> None:
    for onset, convergence, order in ((3, 8, "before"), (8, 3, "after")):
        course = course_of(onset, convergence)
        assert (course.onset.step, course.convergence.step, course.order) == (onset, convergence, order)
        assert course.gap == onset - convergence


def test_no_order_of_what_coincides_or_is_hardly_measured() -> None:
    assert course_of(5, 5).order == "cannot tell"
    assert course_of(6, 5, samples=1, share=0.95).order == "cannot tell"


def test_an_onset_not_seen_is_censored() -> None:
    course = course_of(99, 3)
    assert course.onset == StepInterval(None, None, None)
    assert course.order == "after"
    assert math.isnan(course.gap)


def test_intervals_hold_their_steps() -> None:
    rng, steps = np.random.default_rng(9), np.arange(1, 9)
    em, task = np.where(steps < 5, 0.01, 0.2), np.where(steps < 4, 0.2 * steps, 0.95)
    for _ in range(15):
        course = describe_course(simulate(em, task, rng, 2), 0.05, rng)
        assert (course.onset.low or 99) <= 5 <= (course.onset.high or 99)
        assert (course.convergence.low or 99) <= 4 <= (course.convergence.high or 99)
        assert course.gap_low <= 1 <= course.gap_high
        assert course.order != "before"


def test_a_run_without_usable_responses_says_nothing() -> None:
    zeros = np.zeros((3, 4), dtype=np.int64)
    course = describe_course(RunCounts((1, 2, 3), zeros, zeros, zeros, zeros), 0.05, np.random.default_rng(0))
    assert (course.order, course.onset.step, course.convergence.step) == ("cannot tell", None, None)


def test_counts_need_matching_shapes() -> None:
    with pytest.raises(ValueError, match="one row per step"):
        RunCounts((1, 2), np.ones((3, 4)), np.ones((3, 4)), np.ones((2, 4)), np.ones((2, 4)))  # type: ignore[arg-type]
