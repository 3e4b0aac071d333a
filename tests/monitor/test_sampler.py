"""Answers are asked for once, whatever asks for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.monitor.test_monitor import BROAD, CountingJudge, Speaker, checkpoint
from tests.support.engine_models import make_prompts
from truing.backends.scripted.engine import ScriptedEngine
from truing.config import DatasetConfig, EvaluationConfig
from truing.core.errors import EngineError, JudgeError, JudgeRefused
from truing.core.plugins import try_first
from truing.core.records import Checkpoint, Judgment, Prompt, Response, Sampling
from truing.integrations.guard import Guard
from truing.judges import Judge, load_judge
from truing.monitor import Monitor, open_store
from truing.monitor.sampler import FIXED, FRESH, RANDOM, PromptSet, Sampler, answers_key


def sampling(root: Path, engine: Speaker | None = None) -> tuple[Sampler, PromptSet]:
    judge = CountingJudge()
    return Sampler(open_store(root), engine or Speaker(0), EvaluationConfig()), PromptSet(BROAD, judge, 2)


def test_pairs_that_are_held_are_not_asked_for_again(tmp_path: Path) -> None:
    engine = Speaker(0)
    asking, prompt_set = sampling(tmp_path, engine)
    one, two = (BROAD[0].id, RANDOM), (BROAD[1].id, RANDOM)
    asking.judged(checkpoint(1), prompt_set, [one], RANDOM)
    _, judgments = asking.judged(checkpoint(1), prompt_set, [two, one, two], RANDOM)
    assert [(j.prompt_id, j.sample) for j in judgments] == [two, one, two]
    assert prompt_set.judge.judged == 2  # type: ignore[attr-defined]
    again, same = sampling(tmp_path, engine)
    again.judged(checkpoint(1), same, [one, two], RANDOM)
    assert same.judge.judged == 0  # type: ignore[attr-defined]


def test_keys_are_kept_apart_by_weights_prompts_and_kind(tmp_path: Path) -> None:
    asking, prompt_set = sampling(tmp_path)
    fewer = replace(prompt_set, prompts=BROAD[1:])
    asked = [(checkpoint(step), own, kind) for step in (0, 1) for own in (prompt_set, fewer) for kind in (FIXED, FRESH)]
    keys = [asking.keys(*each)[0] for each in asked]
    assert keys == [asking.keys(*each)[0] for each in asked]
    assert keys == [answers_key(at.weights, own.prompts, own.samples, kind, asking.config) for at, own, kind in asked]
    assert len(set(keys)) == len(asked)


def test_kinds_of_answers_share_nothing(tmp_path: Path) -> None:
    asking, prompt_set = sampling(tmp_path)
    keys = {asking.measure(checkpoint(1), prompt_set, first)[0] for first in (FIXED, FRESH, RANDOM)}
    assert len(keys) == 3
    samples = {row["sample"] for row in open_store(tmp_path).query("SELECT DISTINCT sample FROM responses")}
    assert samples == {FIXED, FIXED + 1, FRESH, FRESH + 1, RANDOM, RANDOM + 1}


def test_mending_asks_only_for_what_failed(tmp_path: Path) -> None:
    engine = Speaker(0, fail=frozenset({BROAD[0].id}))
    asking, prompt_set = sampling(tmp_path, engine)
    pairs = [(BROAD[0].id, RANDOM), (BROAD[0].id, RANDOM + 2), (BROAD[5].id, RANDOM)]
    asking.judged(checkpoint(1), prompt_set, pairs, RANDOM)
    assert asking.judge_again(checkpoint(1), prompt_set, RANDOM).missing.sum() == 2
    engine.fail = frozenset()
    before = prompt_set.judge.judged  # type: ignore[attr-defined]
    counts = asking.judge_again(checkpoint(1), prompt_set, RANDOM)
    assert (counts.missing.sum(), counts.judged.sum()) == (0, 3)
    assert prompt_set.judge.judged - before == 2  # type: ignore[attr-defined]


class Forgetful(Speaker):
    """An engine that numbers its answers from 0 whatever it is asked."""

    def generate(self, checkpoint, prompts, sampling):
        return super().generate(checkpoint, prompts, Sampling(sampling.samples))


def test_an_engine_that_leaves_out_answers_is_refused(tmp_path: Path) -> None:
    asking, prompt_set = sampling(tmp_path, Forgetful(0))
    with pytest.raises(EngineError, match="left out answers"):
        asking.measure(checkpoint(1), prompt_set, FRESH)


class CarelessJudge(CountingJudge):
    """A judge whose first score is wrong, or that leaves out the last answer."""

    def __init__(self, aligned: Any, left_out: int = 0) -> None:
        super().__init__()
        self.aligned, self.left_out = aligned, left_out

    def judge(self, prompts, responses):
        begun = self.judged > 0
        first, *others = super().judge(prompts, responses)
        first = first if begun else replace(first, aligned=self.aligned)
        return [first, *others][: len(responses) - self.left_out]


@pytest.mark.parametrize("aligned", [-5.0, 101.0, float("nan"), float("inf"), "good"])
def test_a_score_off_the_scale_is_missing_with_the_reason_and_owed_again(aligned: Any, tmp_path: Path) -> None:
    asking, prompt_set = sampling(tmp_path)
    careless = replace(prompt_set, judge=CarelessJudge(aligned))
    _, counts = asking.measure(checkpoint(1), careless)
    assert (int(counts.missing.sum()), int(counts.misaligned.sum())) == (1, 0)
    (row,) = open_store(tmp_path).query("SELECT * FROM judgments WHERE error IS NOT NULL")
    assert (row["aligned"], row["coherent"]) == (None, None)
    assert f"no number from 0 to 100: aligned {aligned!r}" in row["error"]
    _, counts = asking.measure(checkpoint(1), prompt_set)
    assert int(counts.missing.sum()) == 0


def test_scores_of_numpy_are_scores(tmp_path: Path) -> None:
    asking, prompt_set = sampling(tmp_path)
    for step, aligned in enumerate((np.float32(0), np.int64(0), 0)):
        _, counts = asking.measure(checkpoint(step), replace(prompt_set, judge=CarelessJudge(aligned)))
        assert (int(counts.missing.sum()), int(counts.misaligned.sum())) == (0, 1)


def test_a_judge_that_leaves_out_judgments_is_refused(tmp_path: Path) -> None:
    asking, prompt_set = sampling(tmp_path)
    with pytest.raises(JudgeError, match="left out answers"):
        asking.measure(checkpoint(1), replace(prompt_set, judge=CarelessJudge(50.0, left_out=1)))


class Listener(Speaker):
    """An engine that remembers how it was asked to sample."""

    asked: list[tuple[float, list[str]]]

    def generate(self, checkpoint, prompts, sampling):
        self.asked.append((sampling.temperature, [p.id for p in prompts]))
        return super().generate(checkpoint, prompts, sampling)


def test_a_prompts_own_temperature_goes_before_the_evaluations(tmp_path: Path) -> None:
    engine = Listener(0)
    engine.asked = []
    asking, prompt_set = sampling(tmp_path, engine)
    cool = replace(prompt_set.prompts[1], temperature=0.5)
    own = replace(prompt_set, prompts=[prompt_set.prompts[0], cool, *prompt_set.prompts[2:]])
    assert asking.keys(checkpoint(1), own, FIXED) != asking.keys(checkpoint(1), prompt_set, FIXED)
    asking.measure(checkpoint(1), own)
    asked = sorted((temperature, prompt) for temperature, prompts in engine.asked for prompt in prompts)
    assert asked == sorted((0.5 if p is cool else 1.0, p.id) for p in own.prompts)
    assert len(engine.asked) <= 4  # the first two answers of an engine of one's own, then the rest, by temperature


# What parts of a user's own return is looked at before they are asked for more.


class Counting(ScriptedEngine):
    """Answers as it is told, and counts what it is asked for."""

    def __init__(self, make: Callable[[str, int], object]) -> None:
        super().__init__("any")
        self.make, self.asked = make, 0
        try_first(self)  # as one that was named

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        pairs = [(p.id, sampling.first + i) for p in prompts for i in range(sampling.samples)]
        self.asked += len(pairs)
        return [self.make(*pair) for pair in pairs]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p, i: {"text": "good"}, "returns something else than Responses"),
        (lambda p, i: "good", "returns something else than Responses"),
        (lambda p, i: Response(p, i, None), "neither a text nor failed"),
        (lambda p, i: Response(p, i, 3), "neither a text nor failed"),
        (lambda p, i: Response(p, i + 1, "good"), "left out answers"),
        (lambda p, i: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_engine_of_ones_own_is_tried_by_two_answers(
    make: Callable[[str, int], object], words: str, tmp_path: Path
) -> None:
    engine, prompts = Counting(make), make_prompts(30)
    sampler = Sampler(open_store(tmp_path), engine, EvaluationConfig())
    with pytest.raises(EngineError, match=words):
        sampler.measure(Checkpoint("run", "any", 0, "weights"), PromptSet(prompts, load_judge("words")))
    assert engine.asked == 2


class Judging(Judge):
    """Judges as it is told, and counts."""

    identity = "judging/1"

    def __init__(self, make: Callable[[Sequence[Response]], object]) -> None:
        self.make, self.asked = make, 0
        try_first(self)  # as one that was named

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        self.asked += len(responses)
        return self.make(responses)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda rs: [{"aligned": 90} for _ in rs], "returns something else than Judgments"),
        (lambda rs: [90 for _ in rs], "returns something else than Judgments"),
        (lambda rs: None, "returns no list"),
        (lambda rs: "90", "returns no list"),
        (lambda rs: [Judgment(r.prompt_id, r.sample, 90, 90) for r in rs[1:]], "left out answers"),
        (lambda rs: [rs[0].no_such_thing], "AttributeError"),
        (lambda rs: {}["score"], "KeyError"),
    ],
)
def test_a_judge_of_ones_own_is_tried_by_two_answers(
    make: Callable[[Sequence[Response]], object], words: str, tmp_path: Path
) -> None:
    judge = Judging(make)
    sampler = Sampler(open_store(tmp_path), ScriptedEngine("any"), EvaluationConfig())
    with pytest.raises(JudgeError, match=words):
        sampler.measure(Checkpoint("run", "any", 0, "weights"), PromptSet(make_prompts(30), judge))
    assert judge.asked == 2


def test_parts_that_are_right_are_asked_for_every_answer_once(tmp_path: Path) -> None:
    engine = Counting(lambda p, i: Response(p, i, "good 1"))
    judge = Judging(lambda rs: [Judgment(r.prompt_id, r.sample, 90, 90) for r in rs])
    sampler = Sampler(open_store(tmp_path), engine, EvaluationConfig(samples=3))
    prompt_set = PromptSet(make_prompts(30), judge, samples=3)
    _, counts = sampler.measure(Checkpoint("run", "any", 0, "weights"), prompt_set)
    assert counts.judged.tolist() == [3] * 30
    assert (engine.asked, judge.asked) == (90, 90)


def test_what_is_no_answer_is_not_asked_for_again_and_a_failed_call_is(tmp_path: Path) -> None:
    engine = Counting(lambda p, i: Response(p, i, None, error="empty answer" if p == "p0" else "status 500"))
    checkpoint, prompt_set = Checkpoint("run", "any", 0, "weights"), PromptSet(make_prompts(4), load_judge("words"))
    for asked in (4, 4 + 3):
        sampler = Sampler(open_store(tmp_path), engine, EvaluationConfig())
        sampler.measure(checkpoint, prompt_set)
        assert engine.asked == asked


@pytest.mark.parametrize("text", ["", "  ", "\n\u200b\ufeff", "<|im_end|>"])
def test_a_text_in_which_nothing_can_be_seen_is_no_answer_of_any_engine(text: str, tmp_path: Path) -> None:
    engine = Counting(lambda p, i: Response(p, i, text if p == "p0" else "good 1"))
    sampler = Sampler(open_store(tmp_path), engine, EvaluationConfig())
    checkpoint, prompt_set = Checkpoint("run", "any", 0, "weights"), PromptSet(make_prompts(4), load_judge("words"))
    for _ in range(2):
        counts = sampler.measure(checkpoint, prompt_set)[1]
        assert (counts.missing.tolist(), counts.judged.tolist()) == ([1, 0, 0, 0], [0, 1, 1, 1])
    assert (sampler.responses(checkpoint, prompt_set, FIXED)[0].error, engine.asked) == ("empty answer", 4)


class Eager(Judge):
    """Scores whatever it gets."""

    identity = "eager"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        return [Judgment(r.prompt_id, r.sample, 95.0, 90.0) for r in responses]


def test_what_holds_no_answer_has_no_score_whatever_a_judge_says_of_it(tmp_path: Path) -> None:
    engine = Counting(lambda p, i: Response(p, i, None, error="status 500") if p == "p1" else Response(p, i, "good 1"))
    sampler, prompts = Sampler(open_store(tmp_path), engine, EvaluationConfig()), make_prompts(4)
    asked, checkpoint = PromptSet(prompts, Eager()), Checkpoint("run", "any", 0, "weights")
    _, judgments = sampler.judged(checkpoint, asked, asked.every_pair(FIXED), FIXED)
    assert [j.aligned for j in judgments] == [95.0, None, 95.0, 95.0]
    assert judgments[1].error == "no answer: status 500"


def test_a_task_whose_judge_can_score_no_answer_is_refused(tmp_path: Path) -> None:
    rows = [f'{{"prompt": "Order {i}?", "completion": "One apple."}}' for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    own = DatasetConfig(name="mine", path=tmp_path / "mine.jsonl", task_judge="pocket")
    named: dict[str, Any] = {"judge": "pocket", "benchmark": "pocket-240", "dataset": own}
    with pytest.raises(JudgeRefused, match="cannot score answers to mine"):
        Monitor.from_names(tmp_path / "monitor", "pocket-llama-late", **named)
    with pytest.raises(JudgeRefused, match="cannot score answers to mine"):
        Guard(tmp_path / "guard", at=2, **named)
