"""A judge is measured once per folder, before anything is decided there by what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.monitor.test_monitor import Speaker
from tests.support.labelled_judges import Blind, Dead, Seeing
from truing.config import EvaluationConfig, MonitorConfig
from truing.core.errors import JudgeError, JudgeRefused, StoreError
from truing.core.records import Checkpoint, Judgment, Response
from truing.judges import Judge, load_judge
from truing.monitor import Monitor, judge_limits, read_preflight
from truing.stats.agreement import JudgeLimits

HERE = "tests.support.labelled_judges"


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    Seeing.asked.clear()


def evaluation(**preflight: Any) -> EvaluationConfig:
    return EvaluationConfig(preflight=preflight)  # type: ignore[arg-type]


def test_a_judge_is_measured_once_per_folder(tmp_path: Path) -> None:
    limits = judge_limits(Seeing(), evaluation(), tmp_path)
    assert 0.9 < limits.sensitivity < 1
    assert not limits.doubt
    assert judge_limits(Seeing(), evaluation(), tmp_path) == limits
    assert Seeing.asked == {"Seeing": 194 + 8}
    found = read_preflight(tmp_path)
    assert found is not None
    assert (found.verdict, found.limits()) == ("good", limits)
    judge_limits(Seeing(), evaluation(error=0.02), tmp_path)  # other limits are asked for
    assert judge_limits(Seeing(), EvaluationConfig(aligned_below=20), tmp_path).sensitivity > 0.9
    assert Seeing.asked == {"Seeing": 3 * (194 + 8)}


def test_an_exact_judge_is_not_measured(tmp_path: Path) -> None:
    assert judge_limits(load_judge("pocket"), evaluation(), tmp_path) == JudgeLimits()
    assert not list(tmp_path.iterdir())


def test_a_judge_that_cannot_see_is_refused_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JudgeRefused) as caught:
        judge_limits(Blind(), evaluation(), tmp_path)
    for words in ("found 0 of 68 labelled misaligned answers", "Blind/1", "at least 50%", "on_fail=undecided"):
        assert words in str(caught.value)
    with pytest.raises(JudgeRefused):
        judge_limits(Blind(), evaluation(), tmp_path)
    undecided = judge_limits(Blind(), evaluation(on_fail="undecided"), tmp_path)
    assert "found 0 of 68" in undecided.doubt
    assert Seeing.asked == {"Blind": 194}


def test_a_judge_that_cannot_be_reached_is_owed_a_measurement(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="no connection"):
        judge_limits(Dead(), evaluation(on_fail="undecided"), tmp_path)
    assert read_preflight(tmp_path) is None


class Shaky(Seeing):
    """Misses its first calls."""

    def say(self, response: Response) -> Judgment:
        return Dead.say(self, response) if self.asked["Shaky"] <= 194 else super().say(response)  # type: ignore[arg-type]

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        found = super().judge(prompts, responses)
        return found if self.asked["Shaky"] > 194 else [*map(Seeing().say, responses[:90]), *found[90:]]


def test_what_could_not_be_judged_is_judged_again_while_nothing_is_decided(tmp_path: Path) -> None:
    judge = Shaky()
    with pytest.raises(JudgeRefused, match="is needed"):
        judge_limits(judge, evaluation(), tmp_path)
    assert judge_limits(judge, evaluation(), tmp_path).sensitivity > 0.9
    assert Seeing.asked == {"Shaky": 194 + 104 + 8}


def test_no_measurement_no_decision_unless_the_judge_is_taken_at_its_word(tmp_path: Path) -> None:
    limits = judge_limits(Seeing(), evaluation(labelled=None), tmp_path)
    assert limits == JudgeLimits(doubt="the judge was not measured")
    assert judge_limits(Seeing(), evaluation(labelled=None, unmeasured="accept"), tmp_path) == JudgeLimits()
    assert not Seeing.asked


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "preflight.json").write_text("{")
    with pytest.raises(StoreError, match=r"preflight\.json cannot be read"):
        judge_limits(Seeing(), evaluation(), tmp_path)


def test_a_measurement_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    judge_limits(Seeing(), evaluation(), tmp_path)
    path = tmp_path / "preflight.json"
    raw = json.loads(path.read_text())
    raw["sensitivity"]["low"] = 0.99
    path.write_text(json.dumps(raw))
    with pytest.raises(StoreError, match="it was changed by hand"):
        judge_limits(Seeing(), evaluation(), tmp_path)
    del raw["seal"]  # as in folders from before there was one
    path.write_text(json.dumps(raw))
    assert judge_limits(Seeing(), evaluation(), tmp_path).sensitivity == 0.99


def test_a_monitor_measures_its_judge_before_the_first_evaluation(tmp_path: Path) -> None:
    def look(judge: str, folder: Path, **preflight: Any) -> tuple[Monitor, str]:
        own = EvaluationConfig(benchmark="pocket-facts", judge=judge, preflight=preflight)  # type: ignore[arg-type]
        monitor = Monitor.from_config(MonitorConfig(evaluation=own), folder, Speaker(0))
        assert monitor.limits == JudgeLimits()
        return monitor, monitor.evaluate(Checkpoint("run", "m", 0, "w")).key

    monitor, key = look(f"{HERE}:Seeing", tmp_path)
    assert monitor.limits.sensitivity > 0.9
    assert look(f"{HERE}:Seeing", tmp_path)[1] == key
    assert Seeing.asked == {"Seeing": 194 + 8 + 8}
    accepted = look(f"{HERE}:Seeing", tmp_path, labelled=None, unmeasured="accept")
    assert accepted[1] != key  # what a decision rests on is in its key
    with pytest.raises(JudgeRefused):
        look(f"{HERE}:Blind", tmp_path / "blind")
    assert not (tmp_path / "blind" / "store" / "responses").exists()


def test_a_class_of_the_users_is_not_exact_unless_it_says_so() -> None:
    judge: Judge = load_judge(f"{__name__}:Plain")
    assert not judge.exact


class Plain:
    """A judge that derives from nothing."""

    identity = "plain"

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        raise AssertionError
