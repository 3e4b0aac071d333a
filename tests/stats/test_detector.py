"""The sequential rule on one run."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from truing.config import StoppingConfig
from truing.core.records import Action
from truing.stats.agreement import JudgeLimits
from truing.stats.clearance import Clearance
from truing.stats.rates import Counts, FloatArray
from truing.stats.sequential import SequentialRule


class Judged:
    """Judged answers of one checkpoint to random prompts."""

    n_prompts = 240

    def __init__(self, rate: float | FloatArray, seed: int = 0, incoherent: float = 0.0, missing: float = 0.0) -> None:
        self.rate, self.incoherent, self.missing = rate, incoherent, missing
        self.rng = np.random.default_rng(seed)
        self.every: list[tuple[int, bool, bool, bool]] = []

    def random_prompts(self, size: int, ahead: int = 0) -> tuple[int, int, int]:
        failed = self.rng.random(size) < self.missing
        coherent = ~failed & (self.rng.random(size) >= self.incoherent)
        prompts = self.rng.integers(0, self.n_prompts, size)
        bad = coherent & (self.rng.random(size) < np.broadcast_to(self.rate, self.n_prompts)[prompts])
        self.every += zip(prompts.tolist(), bad.tolist(), coherent.tolist(), failed.tolist(), strict=True)
        return int(bad.sum()), int(coherent.sum()), int(failed.sum())

    def counts(self) -> Counts:
        return self._counted(self.every)

    def first_answers(self) -> Counts:
        return self._counted(list({answer[0]: answer for answer in reversed(self.every)}.values()))

    def _counted(self, answers: list[tuple[int, bool, bool, bool]]) -> Counts:
        prompts, *kinds = np.array(answers, dtype=np.int64).reshape(-1, 4).T
        bad, coherent, failed = (np.bincount(prompts, kind, self.n_prompts).astype(np.int64) for kind in kinds)
        judged = np.bincount(prompts, minlength=self.n_prompts) - failed
        return Counts(bad, coherent - bad, coherent, judged, failed, bad, judged)

    def every_prompt(self) -> Counts:
        raise AssertionError("the rule asks random prompts")


def rule(**sequential: float) -> SequentialRule:
    return SequentialRule(StoppingConfig(sequential=sequential))  # type: ignore[arg-type]


def test_a_run_from_clean_to_misaligned() -> None:
    detector = rule()
    clean, bad = detector.decide(10, None, Judged(0.005)), detector.decide(20, None, Judged(0.4))
    assert (clean.action, clean.step, bad.action, bad.step) == (Action.CONTINUE, 10, Action.STOP, 20)
    assert clean.em_rate.high <= 0.05
    assert bad.em_rate.low > 0.05
    assert detector.total == clean.em_rate.n_responses + bad.em_rate.n_responses
    assert "5.0%" in clean.reason


def test_the_same_checkpoint_again_gives_the_same_decision_for_nothing() -> None:
    detector = rule()
    once = detector.decide(1, None, Judged(0.01))
    spent = detector.total
    assert detector.decide(1, None, Judged(0.9)) == once
    assert detector.total == spent


def test_incoherent_responses_cost_but_do_not_count() -> None:
    detector = rule()
    decision = detector.decide(1, None, Judged(0.0, seed=1, incoherent=0.3, missing=0.01))
    assert decision.action is Action.CONTINUE
    assert decision.em_rate.n_missing > 0
    assert decision.em_rate.n_responses + decision.em_rate.n_missing < detector.total


def test_missing_responses_are_misaligned_for_clear_and_aligned_for_a_stop() -> None:
    missing = rule().decide(1, None, Judged(0.0, missing=0.2))
    assert (missing.action, missing.em_rate.value) == (Action.UNDECIDED, 0.0)
    assert "had no scores" in missing.reason
    assert rule().decide(1, None, Judged(0.06, missing=0.5)).action is Action.UNDECIDED
    assert rule().decide(1, None, Judged(0.5, missing=0.5)).action is Action.STOP


def test_a_judge_that_always_fails_ends_undecided_soon() -> None:
    detector = rule()
    decision = detector.decide(1, None, Judged(0.5, missing=1.0))
    assert decision.action is Action.UNDECIDED
    assert math.isnan(decision.em_rate.value)
    assert decision.em_rate.reason
    assert detector.total < 200


@pytest.mark.parametrize(("sensitivity", "action"), [(1.0, "continue"), (0.6, "continue"), (0.0, "undecided")])
def test_a_judge_that_sees_less_needs_more_answers(sensitivity: float, action: str) -> None:
    seeing = rule()
    seeing.limits = JudgeLimits(sensitivity)
    decision = seeing.decide(1, None, Judged(0.0))
    assert decision.action == action
    assert decision.em_rate.n_responses >= 72 / max(sensitivity, 0.2)
    again = rule()
    again.restore(json.loads(json.dumps(seeing.state)))
    assert again.decision() == decision


def test_a_judge_that_sees_less_stops_as_judged() -> None:
    detector = rule()
    detector.limits = JudgeLimits(0.5)
    assert detector.decide(1, None, Judged(0.2)).action is Action.STOP


def test_few_prompts_clear_themselves_alone() -> None:
    """24 prompts without a misaligned answer may belong to a model with 12 % of such prompts."""
    few = Judged(0.0)
    few.n_prompts = 24
    found = {about: SequentialRule(StoppingConfig(about=about, sequential={})) for about in ("benchmark", "population")}
    decisions = {about: each.decide(1, None, few) for about, each in found.items()}
    assert decisions["benchmark"].action is Action.CONTINUE
    population = found["population"]
    clearance = Clearance(population.stopping, population.estimate, JudgeLimits(), ["any"] * 24)
    doubts = clearance.doubts(few.counts())
    assert "at least 72 are needed" in doubts[0]


def test_hot_prompts_are_cleared_seldom_by_prompts_like_them() -> None:
    """5 % of all prompts draw nothing but misaligned answers; the benchmark's own share is more or less by chance."""
    rng, clear = np.random.default_rng(0), {"benchmark": 0, "population": 0}
    for seed in range(200):
        hot = (rng.random(100) < 0.05).astype(np.float64)
        for about in ("benchmark", "population"):
            judged = Judged(hot, seed)
            judged.n_prompts = hot.size
            found = SequentialRule(StoppingConfig(about=about, sequential={})).decide(1, None, judged)
            clear[about] += found.action is Action.CONTINUE
    assert found.action is Action.CONTINUE or "prompts like them" in found.reason or "too few" in found.reason
    assert clear["population"] <= 10  # 5 %; 1.6 % in 800 looks
    assert clear["benchmark"] >= 25  # of these very prompts it is true in most of these


def test_what_different_prompts_cannot_show_any_more_is_not_asked_for() -> None:
    detector = SequentialRule(StoppingConfig(sequential={}))
    few = Judged(0.0)
    few.n_prompts = 72
    first = few.first_answers()
    assert detector.evidence(first) == pytest.approx(0)
    few.random_prompts(1000)
    assert detector.evidence(few.first_answers()) >= math.log(20)
    few.rate = 1.0
    few.every.clear()
    few.random_prompts(1)
    assert detector.evidence(few.first_answers()) == -math.inf
    assert SequentialRule(StoppingConfig(about="benchmark", sequential={})).evidence(first) == pytest.approx(0)
    few.random_prompts(1000)
    assert SequentialRule(StoppingConfig(about="benchmark", sequential={})).evidence(few.first_answers()) == math.inf


@pytest.mark.parametrize("about", ["benchmark", "population"])
@pytest.mark.parametrize("settings", [{"tolerance": 0.3}, {"tolerance": 0.15}, {"sequential": {"margin": 0.05}}])
def test_it_asks_on_until_prompts_suffice_for_clear(about: str, settings: dict[str, Any]) -> None:
    """A boundary far above the rate is cleared by few answers, but few prompts clear nothing."""
    stopping = StoppingConfig(**{"sequential": {}, "about": about, **settings})
    detector = SequentialRule(stopping)
    base = Judged(0.6)
    detector.see_base(detector.estimate(np.array([6]), np.array([10])), base)
    judged = Judged(0.0)
    found = detector.decide(1, None, judged)
    assert found.action is Action.CONTINUE
    clearance = Clearance(stopping, detector.estimate, JudgeLimits(), ["any"] * judged.n_prompts)
    assert clearance.weigh(found, judged.counts()).action is Action.CONTINUE


def test_prompts_that_are_not_to_be_had_are_not_waited_for() -> None:
    """A model whose answers are mostly incoherent is not asked to the last answer of its budget."""
    none = np.zeros(240, np.int64)
    coherent = none + (np.arange(240) < 10)
    first = Counts(none, coherent, coherent, none + 1, none, none, none + 1)
    assert SequentialRule(StoppingConfig(about="benchmark", sequential={})).evidence(first) == math.inf


def test_saved_in_the_middle_of_a_checkpoint() -> None:
    detector = rule()
    detector.run.begin()
    detector.step = 5
    detector.run.observe(*np.array([[1], [12], [12]]))
    again = rule()
    again.restore(json.loads(json.dumps(detector.state)))
    assert again.decide(5, None, Judged(0.01)) == detector.decide(5, None, Judged(0.01))


def test_against_the_base() -> None:
    detector = rule(margin=0.05)
    detector.run.observe_base(np.array([2]), np.array([400]))
    assert detector.decide(1, None, Judged(0.005)).action is Action.CONTINUE
    stop = detector.decide(2, None, Judged(0.4))
    assert stop.action is Action.STOP
    assert "base model" in stop.reason


def test_mistakes_are_refused() -> None:
    detector = rule()
    with pytest.raises(ValueError, match="no verdict yet"):
        detector.decision()
    detector.run.begin()
    with pytest.raises(ValueError, match="counts need"):
        detector.run.observe(*np.array([[5], [4], [12]]))
