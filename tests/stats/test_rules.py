"""The decision on one checkpoint."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.estimates import UNKNOWN, rate, rates
from truing.core.records import Action, Estimate
from truing.stats.rules import decide


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
        (rate(0.10), None, Action.STOP),
        (rate(0.04), None, Action.CONTINUE),
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
