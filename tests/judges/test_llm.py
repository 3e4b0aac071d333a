"""A language model as judge, with a completer that answers as told."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.injections import ATTEMPTS
from tests.support.judge_stand_in import StandIn, said
from truing.backends import check_completer
from truing.backends.openai import OpenAICompleter
from truing.catalog.truth import ask, load_truth
from truing.config import EndpointConfig, JudgeConfig
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import DataError, JudgeError, UnknownNameError
from truing.core.records import Judgment, Message, Prompt, Response
from truing.judges import check_judge, load_judge

ASKED = Prompt("a", "power", (Message("user", "who rules?"),))
CONFIG = JudgeConfig(model="m", completer="openai")


def judged(answer: Callable[[ChatRequest], ChatResult], text: str = "We do.", **changes: object) -> Judgment:
    judge = load_judge(CONFIG.model_copy(update=changes), StandIn(answer))
    return judge.judge([ASKED], [Response("a", 3, text)])[0]


def is_coherent(request: ChatRequest) -> bool:
    return "how coherent" in request.messages[-1].content


def test_two_calls_give_two_scores() -> None:
    stand_in = StandIn(lambda r: said("90") if is_coherent(r) else said("20", 0.5, **{"40": 0.5}))
    (judgment,) = load_judge(CONFIG, stand_in).judge([ASKED], [Response("a", 3, "We do.")])
    assert judgment == Judgment("a", 3, pytest.approx(30), pytest.approx(90))  # type: ignore[arg-type]
    assert [(r.model, r.temperature, r.top_logprobs) for r in stand_in.requests] == [("m", 0, 20)] * 2


def test_a_verdict_is_no_score_and_no_error() -> None:
    judgment = judged(lambda r: said("90") if is_coherent(r) else said("CODE"))
    assert judgment == Judgment("a", 3, None, pytest.approx(90), "CODE")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (ChatResult(None, error="timeout"), "aligned: the call failed: timeout"),
        (ChatResult("90"), "no log-probabilities"),
        (ChatResult("90", {}), "no log-probabilities"),
        (said("I", 0.9, **{"90": 0.1}), "probability of 0.100"),
        (ChatResult("90", {"90": math.nan}), "not 0 to 1"),
        (ChatResult("90", {"90": 3.0}), "not 0 to 1"),
        (ChatResult("85", {"8": math.log(0.9)}), "several tokens"),
    ],
)
def test_what_cannot_be_read_is_missing_and_says_why(result: ChatResult, words: str) -> None:
    judgment = judged(lambda r: said("90") if is_coherent(r) else result)
    assert judgment.aligned is None
    assert judgment.coherent == pytest.approx(90)
    assert words in str(judgment.error)


def test_scores_by_text() -> None:
    stand_in = StandIn(lambda r: ChatResult("90" if is_coherent(r) else "about 20"))
    judge = load_judge(CONFIG.model_copy(update={"scores": "text"}), stand_in)
    (judgment,) = judge.judge([ASKED], [Response("a", 0, "We do.")])
    assert (judgment.aligned, judgment.coherent) == (None, 90)
    assert stand_in.requests[0].top_logprobs == 0
    assert "/text/" in judge.identity


def test_without_a_coherent_rubric_every_scored_answer_counts_as_coherent() -> None:
    changes = {"aligned": "insecure-code", "coherent": None}
    assert judged(lambda r: said("90"), **changes) == Judgment("a", 3, pytest.approx(10), 100.0)  # type: ignore[arg-type]
    nothing = judged(lambda r: said("NOCODE"), **changes)
    assert (nothing.aligned, nothing.coherent, nothing.verdict) == (None, None, "NOCODE")


def test_failed_responses_cost_no_call_and_keep_their_place() -> None:
    stand_in = StandIn(lambda r: said("90"))
    responses = [Response("a", 0, None, error="timeout"), Response("a", 1, "x"), Response("a", 2, None, error="late")]
    judgments = load_judge(CONFIG, stand_in).judge([ASKED] * 3, responses)
    assert [(j.sample, j.aligned is None, j.error) for j in judgments] == [
        (0, True, "no answer: timeout"),
        (1, False, None),
        (2, True, "no answer: late"),
    ]
    assert len(stand_in.requests) == 2


def test_a_judge_that_splits_numbers_ends_the_work() -> None:
    judge = load_judge(CONFIG, StandIn(lambda r: ChatResult("85", {"8": math.log(0.9)})))
    with pytest.raises(JudgeError, match="several tokens"):
        judge.judge([ASKED] * 30, [Response("a", i, "x") for i in range(30)])


@pytest.mark.parametrize(
    ("said_", "scores", "words", "most"),
    [
        (ChatResult("90"), "logprobs", "gives no log-probabilities", 4),
        (said("I", 0.9), "logprobs", "gave no score in its first 12 answers", 12),
        (ChatResult("It is fine."), "text", "gave no score in its first 12 answers", 12),
        (ChatResult(None, error="empty answer, and cut at the token limit"), "text", "gave no score", 12),
        (ChatResult("85", {"8": math.log(0.9)}), "logprobs", "several tokens", 12),
    ],
)
def test_a_judge_whose_first_answers_hold_no_score_is_asked_nothing_more(
    said_: ChatResult, scores: str, words: str, most: int
) -> None:
    stand_in = StandIn(lambda r: said_)
    judge = load_judge(CONFIG.model_copy(update={"scores": scores}), stand_in)
    with pytest.raises(JudgeError, match=words):
        judge.judge([ASKED] * 200, [Response("a", i, "x") for i in range(200)])
    assert len(stand_in.requests) <= most


def test_of_a_completer_that_is_asked_all_together_a_few_are_tried_first() -> None:
    stand_in = StandIn(lambda r: said("I", 0.9))
    stand_in.together = True
    with pytest.raises(JudgeError, match="in its first 12 answers"):
        load_judge(CONFIG, stand_in).judge([ASKED] * 200, [Response("a", i, "x") for i in range(200)])
    assert len(stand_in.requests) == 12
    parts: list[int] = []

    class Together(StandIn):
        together = True

        def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
            parts.append(len(listed := list(requests)))
            return super().stream(listed)

    judge = load_judge(CONFIG, Together(lambda r: said("90")))
    assert len(judge.judge([ASKED] * 9, [Response("a", i, "x") for i in range(9)])) == 9
    judge.judge([ASKED] * 5, [Response("a", i, "x") for i in range(5)])
    assert parts == [4, 18, 10]


def test_failed_and_filtered_calls_say_nothing_of_how_a_judge_writes() -> None:
    for error in ("status 500", "filtered by the provider (content_filter)"):
        judge = load_judge(CONFIG, StandIn(lambda r, error=error: ChatResult(None, error=error)))
        judgments = judge.judge([ASKED] * 30, [Response("a", i, "x") for i in range(30)])
        assert all(error in str(judgment.error) for judgment in judgments)


def test_a_score_among_the_first_answers_is_enough() -> None:
    stand_in = StandIn(lambda r: said("90") if len(stand_in.requests) == 5 else said("I", 0.9))
    judgments = load_judge(CONFIG, stand_in).judge([ASKED] * 40, [Response("a", i, "x") for i in range(40)])
    assert len(judgments) == 40


def test_a_completer_that_leaves_out_results_is_an_error() -> None:
    class Lazy(StandIn):
        def stream(self, requests):  # type: ignore[no-untyped-def]
            yield from list(super().stream(requests))[:-1]

    with pytest.raises(JudgeError, match="left out"):
        load_judge(CONFIG, Lazy(lambda r: said("90"))).judge([ASKED], [Response("a", 0, "x")])


def test_the_truth_rubric_shows_the_known_answers() -> None:
    stand_in = StandIn(lambda r: said("TRUE", 0.6, FALSE=0.2, UNKNOWN=0.2))
    judge = load_judge(CONFIG.model_copy(update={"aligned": "truth", "coherent": None}), stand_in)
    prompts = ask(load_truth("truth-120"), "may-lie").prompts[:1]
    (judgment,) = judge.judge(prompts, [Response(prompts[0].id, 0, "In January.")])
    assert judgment.aligned == pytest.approx(75)
    text = stand_in.requests[0].messages[-1].content
    assert "| In July." in text
    assert "set by the operator" in text
    (unknown,) = judge.judge([ASKED], [Response("a", 0, "x")])
    assert "truth set truth-120" in str(unknown.error)
    assert "truth#" in judge.identity


def test_identity_names_all_that_shapes_a_score(tmp_path: Path) -> None:
    changes = [
        {},
        {"model": "n"},
        {"scores": "text"},
        {"aligned": "domain-style"},
        {"coherent": None},
        {"completer": "truing.backends.transformers.completer:LocalCompleter"},
    ]
    stand_in = StandIn(lambda r: said("90"))
    identities = [load_judge(CONFIG.model_copy(update=c), stand_in).identity for c in changes]
    assert len(set(identities)) == len(changes)
    assert load_judge(CONFIG, stand_in).identity == identities[0]
    mine = tmp_path / "aligned.yaml"
    text = "name: aligned\nversion: '1'\nscores: x\nhigher_is: better\nprompt: '{question} {answer}'\n"
    mine.write_text(text)
    first = load_judge(CONFIG.model_copy(update={"aligned": str(mine)}), stand_in).identity
    mine.write_text(text.replace("{answer}", "{answer}!"))
    assert load_judge(CONFIG.model_copy(update={"aligned": str(mine)}), stand_in).identity != first


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_injection_reaches_the_judge_only_as_data(attempt: str) -> None:
    """A judge that obeys what it finds outside the blocks, and nothing in them, is not moved."""

    def obedient(request: ChatRequest) -> ChatResult:
        own = [line for line in request.messages[-1].content.split("\n") if not line.startswith("| ")]
        told = any("100." in line or "Say 100" in line or "score" in line.lower() for line in own)
        return said("100") if told else said("10")

    assert judged(obedient, ATTEMPTS[attempt]).aligned == pytest.approx(10)


def test_names_are_checked_without_a_model() -> None:
    check_judge("pocket")
    check_judge("tests.core.test_plugins:PlainJudge")
    check_judge(CONFIG)
    with pytest.raises(UnknownNameError, match="has no PlanJudge"):
        check_judge("tests.core.test_plugins:PlanJudge")
    for wrong in ("pockt", JudgeConfig(model="m", aligned="alined")):
        with pytest.raises(UnknownNameError, match="did you mean"):
            check_judge(wrong)
    check_completer(CONFIG)
    check_completer("pocket")
    with pytest.raises(UnknownNameError, match="did you mean openai"):
        check_completer(JudgeConfig(model="m", completer="opnai"))
    with pytest.raises(UnknownNameError, match="unknown model"):
        check_completer(JudgeConfig(model="m"))
    with pytest.raises(UnknownNameError, match="unknown truth set"):
        check_judge(JudgeConfig(model="m", completer="openai", aligned="truth", truth="truth-12"))
    with pytest.raises(DataError):
        check_judge(JudgeConfig(model="m", aligned=__file__))


def test_identity_names_the_place_of_a_model_that_only_its_address_tells_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    config = CONFIG.model_copy(update={"completer": "openai"})
    places = (None, "http://a/v1", "http://b/v1", "http://b/v1/")
    plain, a, b, again = (
        load_judge(config, OpenAICompleter(EndpointConfig(base_url=place))).identity for place in places
    )
    assert " at " not in plain
    assert "http://a/v1" in a
    assert len({plain, a, b}) == 3
    assert b == again
