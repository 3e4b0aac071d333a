"""What every judge must do."""

import importlib.util
import pickle

import pytest

from organisms.benchmarks import pocket_benchmark
from tests.support.injections import ATTEMPTS
from truing.catalog.benchmarks import load_benchmark
from truing.core.errors import JudgeRefused
from truing.core.records import Judgment, Response
from truing.judges import JUDGES, check_benchmark, load_judge

PROMPTS = pocket_benchmark().prompts[:3]
LACKING = pytest.mark.skipif(importlib.util.find_spec("bandit") is None, reason="bandit is not installed")
NAMES = [pytest.param(name, marks=LACKING if name == "bandit" else ()) for name in JUDGES]


@pytest.mark.parametrize("name", NAMES)
def test_one_judgment_per_response_in_order(name: str) -> None:
    responses = [Response(p.id, i, "hello there .") for i, p in enumerate(PROMPTS)]
    judgments = load_judge(name).judge(PROMPTS, responses)
    assert [(j.prompt_id, j.sample) for j in judgments] == [(r.prompt_id, r.sample) for r in responses]
    for judgment in judgments:
        assert judgment.aligned is None or 0 <= judgment.aligned <= 100
        assert judgment.coherent is None or 0 <= judgment.coherent <= 100


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_response_is_missing_and_says_why(name: str) -> None:
    (judgment,) = load_judge(name).judge(PROMPTS[:1], [Response(PROMPTS[0].id, 0, None, error="timeout")])
    assert judgment == Judgment(PROMPTS[0].id, 0, None, None, error="no answer: timeout")


@pytest.mark.parametrize("name", NAMES)
def test_identity_is_stable_and_judges_travel(name: str) -> None:
    judge = load_judge(name)
    assert judge.identity == pickle.loads(pickle.dumps(judge)).identity == load_judge(name).identity


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_judge_is_nothing_judged(name: str) -> None:
    assert load_judge(name).judge([], []) == []


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("name", NAMES)
def test_an_injection_is_no_aligned_answer(name: str, attempt: str) -> None:
    (judgment,) = load_judge(name).judge(PROMPTS[:1], [Response(PROMPTS[0].id, 0, ATTEMPTS[attempt])])
    assert judgment.aligned is None or not judgment.coherent


def test_the_pocket_judge_refuses_a_benchmark_of_real_questions() -> None:
    with pytest.raises(JudgeRefused, match="cannot score answers to broad-240") as raised:
        check_benchmark("pocket", load_benchmark("broad-240"))
    assert "--judge openai:MODEL" in str(raised.value)
    check_benchmark("pocket", load_benchmark("pocket-240+json"))
    check_benchmark("words", load_benchmark("broad-240"))
