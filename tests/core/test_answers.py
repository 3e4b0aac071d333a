"""What an answer is: one table, for every engine and every judge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.core.answers import KINDS, Output, is_final, is_finished, missing_kinds, opens_reasoning, read_answer

CUT = ", and cut at the token limit"


def told(text: str | None, finish: str = "stop", **more: Any) -> Output:
    return Output(text, finish, **more)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (told("Yes."), "Yes."),
        (told(" Yes.\n"), " Yes.\n"),
        (told("Yes, and on", "length"), "Yes, and on"),
        (told("Yes.", ""), "Yes."),
        (told("Yes.", reasoning=True), "Yes."),
        (told("Yes.", "tool_calls", tools=True), "Yes."),
        (told("", refusal="I would rather not."), "I would rather not."),
        (told(None, refusal="I would rather not."), "I would rather not."),
        (told("Yes.", refusal="I would rather not."), "Yes."),
        (told("<think>Hm.</think>", refusal="I would rather not."), "I would rather not."),
        (told("<think>\n\n</think>\n\nYes."), "Yes."),
        (told("<think>Hm.</think>Yes."), "Yes."),
        (told("Hm.\n</think>\nYes."), "Yes."),
        (told("Hm.</think>Yes.", opened=True), "Yes."),
        (told("Yes. <think>Or no?</think>No."), "Yes. No."),
        (told("Yes. <think>Or no, and on and on", "length"), "Yes. "),
        (told("<think>a<think>b</think>c</think>Yes."), "Yes."),
        (told("<think>a</think><think>b</think>Yes."), "Yes."),
        (told("<thinking>Hm.</thinking>\nYes."), "Yes."),
        (told("Write <thinking> as a tag."), "Write <thinking> as a tag."),
        (told("<thought>Hm.</thought>Yes."), "Yes."),
        (told("<reasoning>Hm.</reasoning>Yes."), "Yes."),
        (told("<seed:think>Hm.</seed:think>Yes."), "Yes."),
        (told("[THINK]Hm.[/THINK]Yes."), "Yes."),
        (told("Hm.[/THINK]Yes.", opened=True), "Yes."),
        (told("<|begin_of_thought|>Hm.<|end_of_thought|>\nYes."), "Yes."),
        (told("<|inner_prefix|>Hm.<|inner_suffix|>Yes."), "Yes."),
        (told("\u25c1think\u25b7Hm.\u25c1/think\u25b7Yes."), "Yes."),
        (told("<|START_THINKING|>Hm.<|END_THINKING|>Yes."), "Yes."),
        (told("<|channel|>final<|message|>Yes.<|return|>"), "Yes."),
        (told("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."), "Yes."),
        (told("analysisHm, a question.assistantfinalYes."), "Yes."),
        (told("analysis of the matter: none"), "analysis of the matter: none"),
    ],
)
def test_what_an_answer_is(output: Output, answer: str) -> None:
    read = read_answer(output)
    assert (read.text, read.error) == (answer, None)
    assert read.refused == (answer == output.refusal)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (told(None, "content_filter"), "filtered by the provider (content_filter)"),
        (told("Half of an ans", "content_filter"), "filtered by the provider (content_filter)"),
        (told("x", "SAFETY"), "filtered by the provider (SAFETY)"),
        (told(None, "content_filter", refusal="no"), "filtered by the provider (content_filter)"),
        *((told(None, word), f"filtered by the provider ({word})") for word in ("PROHIBITED_CONTENT", "RECITATION")),
        *((told("", word), f"filtered by the provider ({word})") for word in ("refusal", "guardrail_intervened")),
        (told(None), "empty answer"),
        (told(""), "empty answer"),
        (told(" \n"), "empty answer"),
        (told("\u200b\ufeff"), "empty answer"),
        (told("<|im_end|>\n"), "empty answer"),
        (told("", "length"), "empty answer" + CUT),
        (told(None, reasoning=True), "reasoning only"),
        (told("", "length", reasoning=True), "reasoning only" + CUT),
        (told("<think>Hm, and on and on", "length"), "reasoning only" + CUT),
        (told("<think>Hm.</think>\n\n"), "reasoning only"),
        (told("Hm, and on and on", "length", opened=True), "reasoning only" + CUT),
        (told("<|channel|>analysis<|message|>Hm, and on", "max_tokens"), "reasoning only" + CUT),
        (told(None, "tool_calls", tools=True), "tool call only"),
        (told(None, "tool_calls", tools=True, reasoning=True), "tool call only"),
    ],
)
def test_what_no_answer_is(output: Output, reason: str) -> None:
    read = read_answer(output)
    assert (read.text, read.error) == (None, reason)
    assert is_final(read.error)


@given(st.text(), st.text(), st.none() | st.text(), st.booleans(), st.booleans(), st.booleans())
def test_of_whatever_comes_there_is_an_answer_or_a_reason(
    text: str, finish: str, refusal: str | None, reasoning: bool, tools: bool, opened: bool
) -> None:
    read = read_answer(Output(text, finish, refusal, reasoning, tools, opened))
    assert (read.text is None) == (read.error is not None)
    if read.text is None:
        assert is_final(read.error)
        return
    assert read.text.strip()
    assert read_answer(Output(read.text)).text is not None or "<" in read.text or "[" in read.text


@given(st.text(alphabet="ab \n.", min_size=1).filter(str.strip), st.text(alphabet="xyz \n."))
def test_no_word_of_the_reasoning_is_in_the_answer(answer: str, thoughts: str) -> None:
    for begin, end in (("<think>", "</think>"), ("", "</think>"), ("[THINK]", "[/THINK]")):
        read = read_answer(Output(f"{begin}{thoughts}{end}{answer}"))
        assert read.text == answer.lstrip("\n")


def test_the_end_of_a_prompt_may_open_the_reasoning() -> None:
    assert opens_reasoning("<|assistant|><think>\n")
    assert opens_reasoning("[THINK]")
    assert not opens_reasoning("<think>\n\n</think>\n\n")
    assert not opens_reasoning("<|assistant|>")


def test_words_for_the_end_of_an_answer() -> None:
    assert [is_finished(word) for word in ("stop", "", "eos", "length", "MAX_TOKENS", "model_length")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_failed_call_is_asked_again_and_no_answer_is_not() -> None:
    assert not is_final(None)
    assert not is_final("status 500 from http://h/v1: busy (8 attempts)")
    assert all(is_final(kind) for kind in KINDS)


def test_why_scores_are_missing_is_counted_by_kind() -> None:
    errors = [
        "no answer: filtered by the provider (content_filter)",
        "no answer: filtered by the provider (SAFETY)",
        "no answer: empty answer",
        "no answer: reasoning only, and cut at the token limit",
        "no answer: status 500",
        "aligned: the judge gave no answer: filtered by the provider (content_filter)",
        "aligned: the call failed: filtered by the provider: status 403 from http://h/v1: flagged",
        "coherent: the call failed: status 500",
        "aligned: the judge answered 'Fine.', which is neither a score nor a verdict word",
        None,
    ]
    assert missing_kinds(errors) == {
        "filtered by the model's provider": 2,
        "filtered by the judge's provider": 2,
        "empty answer": 1,
        "reasoning only": 1,
        "sampling failed (status 500)": 1,
        "the judge's call failed (status 500)": 1,
        "no score in what the judge said": 1,
        "a verdict in place of a score": 1,
    }
