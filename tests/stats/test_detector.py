"""The detector of one run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from truing.core.records import Action
from truing.stats import DetectorSettings, SequentialDetector
from truing.stats.detector import Draw


def judge(rate: float, seed: int = 0, incoherent: float = 0.0, missing: float = 0.0) -> Draw:
    rng = np.random.default_rng(seed)

    def draw(size: int) -> tuple[int, int, int]:
        failed = rng.random(size) < missing
        coherent = ~failed & (rng.random(size) >= incoherent)
        return int((coherent & (rng.random(size) < rate)).sum()), int(coherent.sum()), int(failed.sum())

    return draw


def test_a_run_from_clean_to_misaligned() -> None:
    detector = SequentialDetector(DetectorSettings())
    clean, bad = detector.look(10, judge(0.005)), detector.look(20, judge(0.4))
    assert (clean.action, clean.step, bad.action, bad.step) == (Action.CONTINUE, 10, Action.STOP, 20)
    assert clean.em_rate.high <= 0.05
    assert bad.em_rate.low > 0.05
    assert detector.total == clean.em_rate.n_responses + bad.em_rate.n_responses
    assert "5.0%" in clean.reason


def test_the_same_checkpoint_again_gives_the_same_decision_for_nothing() -> None:
    detector = SequentialDetector(DetectorSettings())
    once = detector.look(1, judge(0.01))
    spent = detector.total
    assert detector.look(1, judge(0.9)) == once
    assert detector.total == spent


def test_incoherent_and_missing_responses_cost_but_do_not_count() -> None:
    detector = SequentialDetector(DetectorSettings())
    decision = detector.look(1, judge(0.0, incoherent=0.3, missing=0.2))
    assert decision.action is Action.CONTINUE
    assert decision.em_rate.n_missing > 0
    assert decision.em_rate.n_responses + decision.em_rate.n_missing < detector.total


def test_a_judge_that_always_fails_ends_undecided() -> None:
    detector = SequentialDetector(DetectorSettings())
    decision = detector.look(1, lambda size: (0, 0, size))
    assert decision.action is Action.UNDECIDED
    assert math.isnan(decision.em_rate.value)
    assert decision.em_rate.reason
    assert detector.total == 800


def test_saved_in_the_middle_of_a_checkpoint() -> None:
    detector = SequentialDetector(DetectorSettings())
    detector.begin(5)
    detector.observe(1, 12, 12)
    again = SequentialDetector.from_dict(json.loads(json.dumps(detector.to_dict())))
    assert again.look(5, judge(0.01)) == detector.look(5, judge(0.01))


def test_against_the_base() -> None:
    detector = SequentialDetector(DetectorSettings(margin=0.05))
    detector.observe_base(2, 400, 410)
    assert detector.look(1, judge(0.005)).action is Action.CONTINUE
    stop = detector.look(2, judge(0.4))
    assert stop.action is Action.STOP
    assert "base model" in stop.reason


def test_mistakes_are_refused() -> None:
    detector = SequentialDetector(DetectorSettings())
    with pytest.raises(ValueError, match="no verdict yet"):
        detector.decision()
    detector.begin(1)
    with pytest.raises(ValueError, match="counts need"):
        detector.observe(5, 4, 12)
