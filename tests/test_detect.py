"""Decisions, onset, convergence, choice and retention."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.detect import choose_checkpoint, decide, find_convergence, find_onset, retention
from truing.records import Action, Estimate

NAN = math.nan
UNKNOWN = Estimate(NAN, NAN, NAN, 0, 0, 10, "test", "no usable responses")


def rate(value: float, margin: float = 0.01) -> Estimate:
    return Estimate(value, max(value - margin, 0.0), min(value + margin, 1.0), 240, 2400, 0, "test")


shares = st.floats(0, 1)
rates = st.one_of(st.just(UNKNOWN), st.builds(rate, shares, st.floats(0, 0.2)))
scores = st.one_of(st.just(NAN), st.floats(-1, 1))


@pytest.mark.parametrize(
    ("em_rate", "base", "action"),
    [
        (rate(0.10), rate(0.01), Action.STOP),
        (rate(0.06), rate(0.01, 0.0), Action.UNDECIDED),
        (rate(0.055), rate(0.01), Action.UNDECIDED),
        (rate(0.04), rate(0.01), Action.CONTINUE),
        (rate(0.0), rate(0.01), Action.CONTINUE),
        (rate(0.10), rate(0.20), Action.UNDECIDED),
        (rate(0.10), UNKNOWN, Action.UNDECIDED),
        (rate(0.02), UNKNOWN, Action.CONTINUE),
        (UNKNOWN, rate(0.01), Action.UNDECIDED),
    ],
)
def test_decision(em_rate: Estimate, base: Estimate, action: Action) -> None:
    decision = decide(7, em_rate, base, 0.05)
    assert (decision.action, decision.step, decision.em_rate) == (action, 7, em_rate)


def test_the_reason_is_one_sentence_with_figures_in_percent() -> None:
    reason = decide(7, rate(0.1), rate(0.01), 0.05).reason
    assert re.fullmatch(r"The EM rate is 10\.0% \(interval 9\.0% to 11\.0%\).*5\.0%.*1\.0%\.", reason)


@given(rates, rates, st.floats(0.01, 0.5))
def test_stop_needs_evidence_and_continue_needs_evidence(em: Estimate, base: Estimate, tolerance: float) -> None:
    action = decide(1, em, base, tolerance).action
    if action is Action.STOP:
        assert em.low > max(tolerance, base.value)
    if action is Action.CONTINUE:
        assert em.high <= tolerance


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


@given(st.lists(st.tuples(rates, scores), max_size=10), st.floats(0.01, 0.5))
def test_chosen_checkpoint_passes_and_is_best(pairs: list[tuple[Estimate, float]], tolerance: float) -> None:
    steps = [10 * index for index in range(len(pairs))]
    found = choose_checkpoint(steps, [em for em, _ in pairs], [score for _, score in pairs], tolerance)
    passing = [
        (score, -step)
        for step, (em, score) in zip(steps, pairs, strict=True)
        if em.high <= tolerance and not math.isnan(score)
    ]
    assert found == (-max(passing)[1] if passing else None)


def test_choice_takes_the_earliest_of_equals() -> None:
    em_rates = [rate(0.01), rate(0.02), rate(0.5)]
    assert choose_checkpoint([5, 10, 20], em_rates, [0.9, 0.9, 1.0], 0.05) == 5
    assert choose_checkpoint([5, 10, 20], em_rates, [NAN, NAN, 1.0], 0.05) is None


def test_retention() -> None:
    assert retention(0.93, 1.0) == pytest.approx(0.93)
    assert all(math.isnan(retention(*pair)) for pair in [(0.5, 0.0), (NAN, 1.0), (0.5, NAN), (0.5, -1.0)])


def test_steps_must_ascend_and_match() -> None:
    with pytest.raises(ValueError, match="ascend"):
        find_convergence([2, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="one value per step"):
        find_onset([1, 2], [rate(0.1)], rate(0.1))
