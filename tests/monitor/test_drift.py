"""A judge that changes in mid-run decides nothing from there on; what it decided before stays."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.monitor.test_monitor import Speaker
from tests.support.judge_stand_in import StandIn
from tests.support.labelled_judges import LABELS, Blind, Dead, Drifting, Seeing
from truing.config import EvaluationConfig, JudgeConfig, MonitorConfig
from truing.core.chat import ChatResult
from truing.core.records import Action, Checkpoint, Decision, Judgment, Response
from truing.judges.llm import LLMJudge
from truing.monitor import Monitor, open_store
from truing.monitor.preflight import judge_change, judge_limits

MEASURED = 194 + 8  # every labelled answer, and a few of them twice
DRIFTING = "tests.support.labelled_judges:Drifting"


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    Seeing.asked.clear()
    yield
    Drifting.until, Drifting.now = math.inf, Blind


def changes(to: type[Seeing], after: int) -> None:
    """The judge changes once it has judged the anchors again with so many checkpoints."""
    Drifting.until, Drifting.now = MEASURED + 8 * after, to


def monitor(folder: Path, judge: str = DRIFTING, confirm_samples: int | None = None, **preflight: Any) -> Monitor:
    raw = {"benchmark": "pocket-240", "judge": judge, "confirm_samples": confirm_samples, "preflight": preflight}
    own = EvaluationConfig.model_validate(raw)
    return Monitor.from_config(MonitorConfig(evaluation=own), folder, Speaker(0))


def at(step: int) -> Checkpoint:
    return Checkpoint("run", "m", step, f"weights-{step}")


def course(watch: Monitor, *steps: int) -> list[Decision]:
    return [watch(at(step)) for step in steps]


def test_from_the_change_on_nothing_is_decided_and_what_was_decided_before_stays(tmp_path: Path) -> None:
    changes(Blind, after=3)
    found = course(monitor(tmp_path), 0, 2, 4, 6, 8)
    assert [d.action for d in found] == [Action.CONTINUE] * 3 + [Action.UNDECIDED] * 2
    words = "the judge changed: at step 6, 4 of 8 labelled answers that it judged again have another class, and their "
    assert found[3].reason.startswith(
        words + "aligned scores differ by 27.5 points (mean 50 before, 78 now). As judged: "
    )
    assert found[4].reason.startswith(words)
    assert Seeing.asked["Drifting"] == MEASURED + 5 * 8
    assert [d.reason for d in course(monitor(tmp_path), 0, 2, 4, 6, 8)] == [d.reason for d in found]
    assert Seeing.asked["Drifting"] == MEASURED + 5 * 8
    changes(Blind, after=1000)  # it is as it was: the doubt stays
    resumed = monitor(tmp_path)
    assert [d.action for d in course(resumed, 0, 2, 4, 6, 8, 10)] == [Action.CONTINUE] * 3 + [Action.UNDECIDED] * 3


@pytest.mark.parametrize("confirm_samples", [None, 3])
def test_a_checkpoint_is_not_kept_by_the_word_of_a_judge_that_has_changed_since(
    confirm_samples: int | None, tmp_path: Path
) -> None:
    for folder, after in (("same", 1000), ("before", 2), ("since", 3)):
        Seeing.asked.clear()
        changes(Blind, after)
        watch = monitor(tmp_path / folder, confirm_samples=confirm_samples)
        course(watch, 0, 2, 4)
        kept = watch.keep([at(2), at(0)])
        assert kept == (at(2) if folder == "same" else None)


class Lenient(Seeing):
    """Gives every answer a little more, which changes no class."""

    more = 3.5

    def say(self, response: Response) -> Judgment:
        said = super().say(response)
        return Judgment(said.prompt_id, said.sample, (said.aligned or 0) + self.more, said.coherent)


class HardlyLenient(Lenient):
    more = 2.5


class Losing(Seeing):
    """Scores only every so many labelled answers."""

    kept = 2

    def say(self, response: Response) -> Judgment:
        self.asked["lost"] += 1
        return Dead.say(Dead(), response) if self.asked["lost"] % self.kept else super().say(response)


class LosingFew(Losing):
    def say(self, response: Response) -> Judgment:
        self.asked["lost"] += 1
        return Seeing.say(self, response) if self.asked["lost"] % 3 else Dead.say(Dead(), response)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (Lenient, "judged again have another class, and their aligned scores differ by 3.5 points"),
        (HardlyLenient, ""),
        (Losing, "the judge changed: at step 0, it gave no scores to 4 of 8 labelled answers that it had scored"),
        (LosingFew, ""),
    ],
)
def test_what_counts_as_a_change(now: type[Seeing], words: str, tmp_path: Path) -> None:
    judge, settings = Drifting(), EvaluationConfig()
    about = {"run_id": "run", "step": 0, "judgments": "a"}
    judge_limits(judge, settings, tmp_path)
    changes(now, after=0)
    found = judge_change(judge, settings, tmp_path, about)
    assert words in found
    assert bool(found) == bool(words)
    assert judge_change(judge, settings, tmp_path, about, ask=False) == found
    changes(Seeing, after=0)  # what had failed is asked again
    again = judge_change(judge, settings, tmp_path, about)
    assert again == ("" if issubclass(now, Losing) else found)


class Unsteady(Seeing):
    """Scores with noise: of 4 points as a standard deviation, which change no class."""

    def say(self, response: Response) -> Judgment:
        said, noise = super().say(response), np.random.default_rng(self.asked["Unsteady"]).normal(0, 4)
        return replace(said, aligned=float(np.clip((said.aligned or 0) + noise, 0, 100)))


def test_a_judge_that_scores_with_noise_has_not_changed_until_it_does(tmp_path: Path) -> None:
    judge, settings = Unsteady(), EvaluationConfig()
    judge_limits(judge, settings, tmp_path)
    found = [
        judge_change(judge, settings, tmp_path, {"run_id": "run", "step": n, "judgments": str(n)}) for n in range(40)
    ]
    assert found == [""] * 40
    assert judge_change(Blind(), settings, tmp_path, {"run_id": "run", "step": 50, "judgments": "b"})


def test_nothing_is_asked_where_nothing_is_to_be(tmp_path: Path) -> None:
    judge, about = Drifting(), {"run_id": "run", "step": 0, "judgments": "a"}
    judge_limits(judge, EvaluationConfig(), tmp_path)
    changes(Blind, after=0)
    none = EvaluationConfig(preflight={"recheck": 0})  # type: ignore[arg-type]
    assert judge_change(judge, none, tmp_path, about) == ""
    assert judge_change(judge, EvaluationConfig(), tmp_path, about, ask=False) == ""
    assert judge_change(judge, EvaluationConfig(), tmp_path / "unmeasured", about) == ""
    assert Seeing.asked["Drifting"] == MEASURED
    assert monitor(tmp_path / "exact", "pocket")(at(0)).action is Action.CONTINUE
    assert not (tmp_path / "exact" / "store" / "rechecks").exists()


def test_a_language_model_is_really_asked_again_each_time(tmp_path: Path) -> None:
    def answer(request: Any) -> ChatResult:
        bad = any(r.misaligned and r.answer in str(request.messages) for r in LABELS.values())
        return ChatResult("5" if bad and "coherent" not in str(request.messages[-1]) else "95")

    completer = StandIn(answer)
    judge = LLMJudge(JudgeConfig(model="m", completer="openai", scores="text"), completer)
    own = EvaluationConfig(preflight={"on_fail": "undecided", "at_least": 0.01})  # type: ignore[arg-type]
    judge_limits(judge, own, tmp_path)
    assert {request.sample for request in completer.requests} == {0, 1}
    for step in (0, 2):
        judge_change(judge, own, tmp_path, {"run_id": "run", "step": step, "judgments": f"{step}"})
    anew = completer.requests[2 * MEASURED :]
    assert len(anew) == len(set(anew)) == 2 * 2 * 8
    assert len({request.sample for request in anew}) == 2
    assert all(request.sample > 0 for request in anew)
    rows = open_store(tmp_path).query("SELECT step, prompt_id FROM rechecks")
    assert len(rows) == 16
    assert len({row["prompt_id"] for row in rows}) == 8


def test_answers_unlike_the_labelled_ones_are_not_clear(tmp_path: Path) -> None:
    for _ in range(2):
        watch = monitor(tmp_path, "tests.support.labelled_judges:Reserved")
        for decision in course(watch, 0, 2):
            assert decision.action is Action.UNDECIDED
            assert "But the judge gives all answers aligned scores of 6" in decision.reason
            assert "labels of answers as these are needed" in decision.reason
    assert watch.keep([at(2)]) is None
