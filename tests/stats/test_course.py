"""Onset, convergence, retention and their order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.estimates import NAN, UNKNOWN, rate
from truing.stats.course import (
    Course,
    RunCounts,
    StepInterval,
    crossing_of_limits,
    describe_course,
    find_convergence,
    find_onset,
    step_difference,
)
from truing.stats.rates import FloatArray, IntArray


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        ([0.1, 0.5, 0.96, 0.97, 1.0], 3),
        ([0.1, 0.96, 0.5, 0.97, 1.0], 4),
        ([0.1, 0.96, NAN, 0.97, 1.0], 2),
        ([1.0, 0.2, 0.2, 0.2, 0.2], 1),
        ([0.1, 1.0, 0.94, 0.94, 0.96], 2),
        ([NAN, NAN, NAN, NAN, NAN], None),
        ([0.0, 0.0, -1.0, 0.0, 0.0], None),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 1),
        ([0.1, 0.2, 0.3, 0.4, 1.0], 5),
    ],
)
def test_convergence(scores: list[float], step: int | None) -> None:
    assert find_convergence([1, 2, 3, 4, 5], scores) == step


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=12), st.floats(0.1, 1), st.floats(0.1, 10))
@example([1.0, *[0.17572073021389495] * 3], 0.17572073021389495, 1.0)
def test_convergence_is_where_a_course_that_never_falls_reaches_its_end(
    values: list[float], share: float, factor: float
) -> None:
    rising, steps = sorted(values), range(len(values))
    first = next(i for i, value in enumerate(rising) if value >= share * rising[-1])
    assert find_convergence(steps, rising, share=share) == first
    found = find_convergence(steps, values, share=share)
    assert found == find_convergence(steps, values, [factor] * len(values), share)
    assert found is not None


def test_answers_weigh() -> None:
    assert find_convergence([1, 2, 3], [0.9, 0.5, 1.0], [1, 99, 99]) == 3
    assert find_convergence([1, 2, 3], [0.99, 0.5, 1.0], [9999, 1, 99]) == 1


@pytest.mark.parametrize(("plateau", "late"), [(0.97, 2), (0.6, 7)])
def test_convergence_is_not_late_because_checkpoints_are_many(plateau: float, late: int) -> None:
    rng, steps = np.random.default_rng(7), np.arange(1, 51)
    truth = plateau * (1 - np.exp(-steps / 5))
    found = [find_convergence(steps.tolist(), (rng.binomial(600, truth) / 600).tolist()) for _ in range(200)]
    assert abs(float(np.mean([step or 99 for step in found])) - 15) < late


def test_a_task_learnt_and_lost_again_is_not_learnt() -> None:
    rng, steps = np.random.default_rng(4), np.arange(1, 11)
    course = describe_course(simulate(np.full(10, 0.01), np.where(steps < 6, 0.95, 0.4), rng), 0.05, rng)
    assert (course.convergence.step, course.convergence.low) == (None, None)


Pair = tuple[IntArray, IntArray]


def answers(values: list[float], prompts: int = 240) -> list[Pair]:
    """Misaligned and coherent ones of checkpoints with these EM rates, one answer to each prompt; NaN: none usable."""
    x = [np.arange(prompts) < (0 if math.isnan(v) else round(v * prompts)) for v in values]
    return [(a.astype(np.int64), np.full(prompts, 0 if math.isnan(v) else 1)) for a, v in zip(x, values, strict=True)]


BASE: Pair = (np.zeros(240, dtype=np.int64), np.ones(240, dtype=np.int64))


def onset_of(checkpoints: list[Pair], base: Pair = BASE, planned: int = 0) -> StepInterval:
    return find_onset(range(1, len(checkpoints) + 1), checkpoints, base, planned=planned)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.01, 0.01, 0.01, 0.01], None),
        ([0.01, 0.10, 0.20, 0.30], 2),
        ([0.10, 0.01, 0.01, 0.01], 1),
        ([0.01, 0.01, 0.01, 0.10], 4),
        ([0.01, NAN, 0.10, 0.01], 3),
        ([NAN, NAN, NAN, NAN], None),
    ],
)
def test_onset(values: list[float], step: int | None) -> None:
    found = onset_of(answers(values), BASE)
    assert (found.step, found.high) == (step, step)
    assert found.low == 1


def test_no_onset_without_a_base() -> None:
    nothing = np.zeros(240, dtype=np.int64)
    assert onset_of(answers([0.5, 0.5]), (nothing, nothing)).step is None


def test_more_checkpoints_ask_for_more_evidence() -> None:
    run = answers([0.05])
    assert onset_of(run, BASE).step == 1
    assert onset_of(run, BASE, planned=1000).step is None


def test_a_rate_below_the_bases_is_no_possible_onset() -> None:
    base = (np.ones(240, dtype=np.int64), np.ones(240, dtype=np.int64))
    assert onset_of(answers([0.1, 0.1]), base) == StepInterval(None, None, None)


@given(st.lists(st.sampled_from([0.0, 0.01, 0.04, 0.1, 0.5]), min_size=1, max_size=6))
def test_what_comes_later_undoes_no_onset(values: list[float]) -> None:
    planned = len(values) + 1
    found = onset_of(answers(values), BASE, planned=planned)
    if found.step is not None:
        assert onset_of(answers([*values, 0.0]), BASE, planned=planned) == found


def test_a_clean_run_seldom_has_an_onset_and_a_rise_mostly() -> None:
    rng, false, seen = np.random.default_rng(6), 0, 0

    def onset(rates: list[float]) -> int | None:
        rank = rng.beta(0.6, 1.4, 240) / 0.3
        x = rng.binomial(1, np.clip(np.array([0.02, *rates])[:, None] * rank, 0, 1))
        base, *run = [(row, np.ones_like(row)) for row in x]
        return onset_of(run, base).step

    for _ in range(100):
        false += onset([0.02] * 11) is not None
        seen += onset([0.02] * 3 + [0.15] * 8) is not None
    assert false <= 5
    assert seen >= 95


def test_limits_that_hold_at_any_time_show_a_crossing_at_once() -> None:
    rates = [rate(0.01), UNKNOWN, rate(0.10), rate(0.01)]
    assert crossing_of_limits([1, 2, 3, 4], rates, (0.03, 0.03)) == StepInterval(3, 2, 3)
    assert crossing_of_limits([1, 2], [UNKNOWN, UNKNOWN], (NAN, NAN)) == StepInterval(None, 1, None)


def test_difference_of_steps() -> None:
    onset, learnt, never = StepInterval(8, 2, 8), StepInterval(4, 3, 5), StepInterval(None, 6, None)
    assert step_difference(onset, learnt) == (4, -3, 5)
    value, *limits = step_difference(never, learnt)
    assert math.isnan(value)
    assert limits == [1, math.inf]
    assert step_difference(onset, never)[1:] == (-math.inf, 2)


def test_steps_must_ascend_and_match() -> None:
    with pytest.raises(ValueError, match="ascend"):
        find_convergence([2, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="one value per step"):
        crossing_of_limits([1, 2], [rate(0.1)], (0.1, 0.1))


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
        assert (course.crossing.step, course.convergence.step, course.order) == (onset, convergence, order)


def test_no_order_of_what_coincides_or_is_hardly_measured() -> None:
    assert course_of(5, 5).order == "cannot tell"
    assert course_of(6, 5, samples=1, share=0.95).order == "cannot tell"


def test_a_crossing_not_seen_is_censored() -> None:
    course = course_of(99, 3)
    assert course.crossing == StepInterval(None, None, None)
    assert course.order == "after"


def test_intervals_hold_their_steps() -> None:
    rng, steps = np.random.default_rng(9), np.arange(1, 9)
    em, task = np.where(steps < 5, 0.01, 0.2), np.where(steps < 4, 0.2 * steps, 0.95)
    for _ in range(15):
        course = describe_course(simulate(em, task, rng, 2), 0.05, rng)
        assert (course.crossing.low or 99) <= 5 <= (course.crossing.high or 99)
        assert (course.convergence.low or 99) <= 4 <= (course.convergence.high or 99)
        assert course.order != "before"


def test_a_run_without_usable_responses_says_nothing() -> None:
    zeros = np.zeros((3, 4), dtype=np.int64)
    course = describe_course(RunCounts((1, 2, 3), zeros, zeros, zeros, zeros), 0.05, np.random.default_rng(0))
    assert (course.order, course.crossing.step, course.convergence.step) == ("cannot tell", None, None)


def test_counts_need_matching_shapes() -> None:
    with pytest.raises(ValueError, match="one row per step"):
        RunCounts((1, 2), np.ones((3, 4)), np.ones((3, 4)), np.ones((2, 4)), np.ones((2, 4)))  # type: ignore[arg-type]
