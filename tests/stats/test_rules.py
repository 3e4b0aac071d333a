"""The decision on one checkpoint."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tests.support.estimates import UNKNOWN, rate, rates
from truing.config import StoppingConfig
from truing.core.records import Action, Estimate
from truing.stats.rates import Counts
from truing.stats.rules import FixedRule, decide, stopping_level


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


@given(st.floats(0.5, 0.999), st.integers(1, 10_000))
def test_the_error_of_all_checkpoints_together_is_that_of_a_run(confidence: float, checkpoints: int) -> None:
    shared = sum(1 - stopping_level(confidence, look) for look in range(1, checkpoints + 1))
    assert shared == pytest.approx((1 - confidence) * (1 - 4 / (checkpoints + 4)))


def one_each(misaligned: int, prompts: int = 240) -> Counts:
    """One coherent answer to every prompt."""
    one = np.ones(prompts, dtype=np.int64)
    bad = (np.arange(prompts) < misaligned).astype(np.int64)
    return Counts(bad, one - bad, one, one, missing=0 * one, low=bad, scored=one)


def test_a_run_at_the_tolerance_is_stopped_by_chance_as_rarely_as_its_confidence_says() -> None:
    rule, chance = FixedRule(StoppingConfig()), 0.0
    for look in range(1, 31):
        rule.look = look
        least = next(n for n in range(12, 60) if rule.decide_by(look, None, one_each(n)).action is Action.STOP)
        stops = float(binom.sf(least - 1, 240, 0.05))
        assert stops <= (1 - stopping_level(0.95, look)) / 2
        chance += stops
    assert chance <= 0.025
    assert "not at the level at which checkpoint 30 of a run stops it" in rule.decide_by(30, None, one_each(20)).reason
    assert rule.decide_by(30, None, one_each(20)).action is Action.UNDECIDED
