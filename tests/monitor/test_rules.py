"""Stopping rules as objects: those built in, and a user's own by name."""

from pathlib import Path
from typing import Any

import pytest

from tests.monitor.test_monitor import BROAD, CountingJudge, Speaker, checkpoint
from truing.config import StoppingConfig
from truing.core.errors import ConfigError, EngineError, UnknownNameError
from truing.core.records import Action, Decision, Estimate
from truing.monitor import Monitor, PromptSet, open_store
from truing.stats.rules import FixedRule, make_rule
from truing.stats.sequential import SequentialRule

NOTHING = Estimate.unknown("nothing asked")
OWN = "tests.support.own_parts:TwiceAbove"


def watch(root: Path, engine: Speaker, rule: str, judge: CountingJudge | None = None) -> Monitor:
    return Monitor(
        open_store(root), engine, PromptSet(BROAD, judge or CountingJudge()), stopping=StoppingConfig(rule=rule)
    )


def test_rules_by_name() -> None:
    assert isinstance(make_rule(StoppingConfig()), FixedRule)
    assert isinstance(make_rule(StoppingConfig(rule="sequential")), SequentialRule)
    assert StoppingConfig(rule="sequential") == StoppingConfig(sequential={})  # type: ignore[arg-type]
    assert StoppingConfig(rule="fixed") == StoppingConfig()
    assert StoppingConfig(rule=OWN).rule_name == OWN
    with pytest.raises(ValueError, match="leave one of them out"):
        StoppingConfig(rule="fixed", sequential={})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean sequential"):
        make_rule(StoppingConfig(rule="sequentiel"))
    with pytest.raises(ConfigError, match=r"is no stopping rule[\s\S]*decide"):
        make_rule(StoppingConfig(rule="pathlib:Path"))


def test_an_own_rule_decides_and_goes_on_where_it_was(tmp_path: Path) -> None:
    engine = Speaker(hostile=0)
    whole = watch(tmp_path, engine, OWN)
    found = []
    for step, hostile in enumerate((0, 60, 0, 60, 60)):
        engine.hostile = hostile
        found.append(whole.evaluate(checkpoint(step)))
    assert [e.decision.action for e in found] == ["continue", "undecided", "continue", "undecided", "stop"]
    assert "But in the category" in found[1].decision.reason  # it goes on, and nobody calls that clear
    judge = CountingJudge()
    again = watch(tmp_path, engine, OWN, judge)
    assert [again.evaluate(checkpoint(step)) for step in range(5)] == found
    assert (judge.judged, again.rule.state) == (0, {"above": 2})


@pytest.mark.parametrize("made", [None, "stop", Decision("stop", 1, "", NOTHING), Decision(Action.STOP, 1, "", None)])  # type: ignore[arg-type]
def test_a_rule_that_gives_no_decision_is_refused(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.own_parts.TwiceAbove.decide", lambda *args: made)
    with pytest.raises(ConfigError, match="TwiceAbove does not decide"):
        watch(tmp_path, Speaker(0), OWN).evaluate(checkpoint(1))
    assert open_store(tmp_path).keys("evaluations") == []


def test_an_own_rule_with_random_prompts(tmp_path: Path) -> None:
    engine, judge = Speaker(hostile=240), CountingJudge()
    own = watch(tmp_path, engine, "tests.support.own_parts:TenRandom", judge)
    own(checkpoint(0))
    before = judge.judged
    assert own.evaluate(checkpoint(1)).em_rate.value == 1
    assert judge.judged - before == 10
    assert not own.is_sampled(checkpoint(1))


def test_a_failed_look_leaves_the_rule_as_it_was(tmp_path: Path) -> None:
    class Broken(Speaker):
        def generate(self, *args):  # type: ignore[no-untyped-def]
            if args[0].step == 2:
                raise EngineError("no GPU")
            return super().generate(*args)

    own = watch(tmp_path, Broken(0), "sequential")
    own(checkpoint(0))
    own(checkpoint(1))
    before = own.rule.state
    with pytest.raises(EngineError):
        own(checkpoint(2))
    assert own.rule.state == before


def test_the_base_is_asked_random_prompts_once(tmp_path: Path) -> None:
    judge = CountingJudge()
    stopping = StoppingConfig(sequential={"margin": 0.05})  # type: ignore[arg-type]
    own = Monitor(open_store(tmp_path), Speaker(0), PromptSet(BROAD, judge), stopping=stopping)
    own(checkpoint(0))
    once = (judge.judged, own.rule.state)
    own(checkpoint(0))
    assert (judge.judged, own.rule.state) == once
