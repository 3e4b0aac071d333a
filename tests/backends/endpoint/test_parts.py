"""Prices, pace, waiting, and the reading of replies: no network."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from truing.backends.endpoint.faults import ErrorReply
from truing.backends.endpoint.wire import (
    DamagedReply,
    call_key,
    dump_result,
    encode,
    load_result,
    most_tokens,
    parse_reply,
)
from truing.core.chat import ChatRequest, ChatResult
from truing.core.records import Message

REQUEST = ChatRequest("m", (Message("user", "hé"),), 3, 0.5, 5, seed=7)
TOP = [{"token": "9", "logprob": -0.1}, {"token": "1", "logprob": -9999.0}]


def reply(**choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "9"}
    return {"choices": [{"message": message, "finish_reason": "stop", "logprobs": None, **choice}]}


def test_importing_loads_no_openai() -> None:
    code = "import sys, truing.backends.openai; assert not {'openai', 'aiohttp', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_request_as_bytes() -> None:
    assert json.loads(encode(REQUEST, "max_tokens")) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hé"}],
        "max_tokens": 3,
        "temperature": 0.5,
        "logprobs": True,
        "top_logprobs": 5,
        "seed": 7,
    }
    assert "max_completion_tokens" in json.loads(encode(REQUEST, "max_completion_tokens"))
    assert most_tokens(REQUEST) == (3 + 16, 0, 3)


def test_the_key_depends_on_endpoint_body_and_sample() -> None:
    keys = {call_key(e, b, s) for e in ("a", "b") for b in (b"x", b"y") for s in (0, 1)}
    assert len(keys) == 8
    assert all(len(key) == 16 for key in keys)


def test_keys_and_results_are_those_of_journals_that_exist() -> None:
    messages = (Message("system", "s"), Message("user", "hé"), Message("assistant", "a"))
    request = ChatRequest("m", messages, 3, 0.5, 5, seed=7, sample=2, unfiltered=True)
    assert call_key("http://a/v1", encode(request, "max_tokens"), 2).hex() == "9aaf447dd51cb3c8728d307221e31d5c"
    assert load_result('["9",{"9":-0.1,"":-3.0},"stop",4,1]') == ChatResult("9", {"9": -0.1, "": -3.0}, "stop", 4, 1)


def test_a_result_survives_the_journal() -> None:
    result = ChatResult("9\ud83d", {"9": -0.1, "": -3.0}, "stop", 4, 1)
    assert load_result(dump_result(result)) == result


def test_a_sound_reply() -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 5}}
    body = {**reply(logprobs={"content": [{"top_logprobs": TOP}]}), "usage": usage}
    read = parse_reply(json.dumps(body).encode(), True)
    assert read.tokens == (8, 5, 1)
    assert read.result == ChatResult("9", {"9": -0.1, "1": -9999.0}, "stop", 8, 1)
    assert parse_reply(body, False).result.top_logprobs is None


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {"content": []}])
def test_an_endpoint_without_logprobs_is_no_fault(logprobs: Any) -> None:
    assert parse_reply(reply(logprobs=logprobs), True).result.top_logprobs is None


@pytest.mark.parametrize(
    ("choice", "text", "error"),
    [
        ({"message": {"content": None, "refusal": "no"}}, "no", None),
        ({"message": {"content": "a\ud800b"}}, "a?b", None),
        ({"message": {"content": "<think>Hm.</think>Yes."}}, "Yes.", None),
        ({"message": {"content": "Yes.", "reasoning_content": "Hm."}}, "Yes.", None),
        ({"message": {"content": [{"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}]}}, "Yes.", None),
        ({"message": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}]}}, "a", None),
        ({"message": {"content": [{"type": "refusal", "refusal": "no"}]}}, "no", None),
        ({"message": {"content": None}}, None, "empty answer"),
        ({"message": {"content": []}}, None, "empty answer"),
        ({"message": {"role": "assistant"}}, None, "empty answer"),
        ({"message": {"content": None, "reasoning_content": "Hm."}}, None, "reasoning only"),
        ({"message": {"content": "", "reasoning": "Hm."}}, None, "reasoning only"),
        ({"message": {"content": None, "tool_calls": [{"id": "1"}]}}, None, "tool call only"),
        (
            {"message": {"content": None}, "finish_reason": "content_filter"},
            None,
            "filtered by the provider (content_filter)",
        ),
        (
            {"message": {"content": ""}, "finish_reason": "length"},
            None,
            "empty answer, and cut at the token limit",
        ),
    ],
)
def test_what_of_a_message_is_the_answer(choice: dict[str, Any], text: str | None, error: str | None) -> None:
    result = parse_reply(reply(**choice), False).result
    assert (result.text, result.error) == (text, error)
    assert result.refused == (text == "no")
    assert load_result(dump_result(result)) == result


def test_a_journal_of_before_is_read_by_the_rule_of_today() -> None:
    assert load_result('["",null,"content_filter",4,1]').error == "filtered by the provider (content_filter)"
    assert load_result('["<think>Hm.</think>Yes.",null,"stop",4,1]').text == "Yes."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"choices": [{"message": {"content": "90", "content": "10"}, "finish_reason": "stop"}]}',
        b'{"choices": []}',
        reply(message=None),
        reply(message={"content": 3}),
        reply(message={"content": ["a"]}),
        reply(message={"content": [{"type": "text"}]}),
        reply(message={"content": [{"type": "text", "text": 3}]}),
        reply(finish_reason=3),
        {**reply(), "usage": {"prompt_tokens": -1, "completion_tokens": 1}},
        {**reply(), "usage": {"prompt_tokens": 1.5, "completion_tokens": 1}},
        {**reply(), "usage": "many"},
        {**reply(), "usage": {"prompt_tokens": 10**30, "completion_tokens": 1}},
        b"[" * 100_000,
    ],
)
def test_a_damaged_reply_is_refused(body: Any) -> None:
    with pytest.raises(DamagedReply):
        parse_reply(body, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "overloaded"}}, 500),
        ({"error": {"message": "busy", "code": 429}, "choices": []}, 429),
        ({"error": {"message": "flagged", "code": "403"}, "choices": None}, 403),
        ({"error": "down"}, 500),
        ({"error": {"code": 7}}, 500),
        (reply(error={"code": 502, "message": "upstream"}), 502),
    ],
)
def test_an_error_in_a_reply_of_status_200_is_that_error(body: Any, status: int) -> None:
    with pytest.raises(ErrorReply) as caught:
        parse_reply(body, True)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "logprobs",
    [
        3,
        ["9"],
        {"content": 3},
        {"content": ["9"]},
        {"content": [{"top_logprobs": 3}]},
        {"content": [{"top_logprobs": [["9", -0.1]]}]},
        {"content": [{"top_logprobs": [{"token": 9, "logprob": -0.1}]}]},
        {"content": [{"top_logprobs": [{"token": "9", "logprob": "-0.1"}]}]},
        {"content": [{"top_logprobs": [{"token": "9", "logprob": True}]}]},
        {"content": [{"top_logprobs": [{"token": "9", "logprob": math.nan}]}]},
        {"content": [{"top_logprobs": [{"token": "9", "logprob": 2.0}]}]},
        {"content": [{"top_logprobs": [{"token": "9"}]}]},
        {"content": [{"top_logprobs": [{"token": "9", "logprob": -(10**400)}]}]},
    ],
)
def test_logprobs_of_a_wrong_shape_are_refused(logprobs: Any) -> None:
    with pytest.raises(DamagedReply):
        parse_reply(reply(logprobs=logprobs), True)
