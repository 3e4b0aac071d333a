"""Whatever an endpoint sends: an answer, or a reason; never a traceback, never lost, never twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.chat_requests import requests
from tests.support.provider import Asked, completion, provider
from truing.backends.endpoint.address import Access
from truing.backends.endpoint.dialect import Dialect
from truing.backends.endpoint.faults import DamagedReply, ErrorReply, Trouble, read_status
from truing.backends.endpoint.wire import dump_result, load_result, parse_reply
from truing.backends.openai import OpenAICompleter
from truing.config import EndpointConfig
from truing.core.answers import is_final
from truing.core.chat import ChatRequest
from truing.core.errors import EndpointError
from truing.core.records import Message

SIZES = [300, pytest.param(10_000, marks=pytest.mark.slow)]
WORDS = st.sampled_from(
    [
        "",
        "85",
        "<think>",
        "</think>",
        "a",
        "content_filter",
        "length",
        "stop",
        "tool_calls",
        "flagged",
        "seed",
        "retry in 3s",
    ]
)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
KEYS = st.sampled_from(
    ["choices", "message", "content", "refusal", "finish_reason", "logprobs", "top_logprobs", "token", "logprob",
     "usage",
     "prompt_tokens", "completion_tokens", "error", "code", "type", "text", "reasoning_content", "tool_calls", "detail",
     "loc", "msg", "metadata", "raw", "retry_after"]
)  # fmt: skip
ANY = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
MESSAGE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("content", "refusal", "tool_calls", "reasoning_content"), ANY)
)
CHOICE = st.fixed_dictionaries({"message": MESSAGE}, optional={"finish_reason": LEAF, "logprobs": ANY, "error": ANY})
BODY = ANY | st.fixed_dictionaries({"choices": st.lists(CHOICE, min_size=1, max_size=2)}, optional={"usage": ANY})
REQUEST = ChatRequest("m", (Message("user", "a"),), 3, 0.0, 20, seed=1)


@pytest.mark.parametrize("examples", SIZES)
def test_any_body_is_an_answer_a_reason_or_damaged(examples: int) -> None:
    @settings(max_examples=examples)
    @given(BODY, st.booleans())
    def check(body: Any, logprobs: bool) -> None:
        try:
            result = parse_reply(json.dumps(body).encode(), logprobs).result
        except (DamagedReply, ErrorReply):
            return
        assert (result.text is None) == (result.error is not None)
        assert result.error is None or is_final(result.error)
        assert result.text is None or result.text.strip()
        assert load_result(dump_result(result)) == result or result.text is not None

    check()


@pytest.mark.parametrize("examples", SIZES)
def test_any_refusal_is_told_in_words_without_the_key(examples: int) -> None:
    access = Access("http://h/v1", "KEY", "my-own-secret", {}, {}, ("my-own-secret",))

    @settings(max_examples=examples)
    @example(status=422, body={"detail": {"loc": None}}, answered=False, tells=False)
    @given(status=st.integers(300, 599), body=ANY | st.text(), answered=st.booleans(), tells=st.booleans())
    def check(status: int, body: Any, answered: bool, tells: bool) -> None:
        body = {"error": {"message": f"my-own-secret {body}"}} if tells else body
        found = read_status(status, body, access, answered)
        assert isinstance(found, Trouble | EndpointError)
        assert "my-own-secret" not in str(vars(found)) + str(found.args)
        if isinstance(found, Trouble):
            assert found.wait is None or 0 <= found.wait <= 3600
            assert f"status {status}" in found.reason

    check()


@given(
    st.text()
    | st.lists(st.sampled_from(["seed", "temperature", "top_logprobs", "max_tokens", "unsupported", "5"])).map(" ".join)
)
def test_any_words_of_a_refusal_lead_somewhere_else_or_nowhere(words: str) -> None:
    dialect, body, seen = Dialect(), b'{"model":"m","max_tokens":3,"temperature":0.0,"top_logprobs":20,"seed":1}', set()
    while (found := dialect.after(words, REQUEST, "max_tokens")) is not None:
        assert found[0] not in seen
        dialect = found[0]
        seen.add(dialect)
    assert json.loads(dialect.say(body))["model"] == "m"


@pytest.mark.parametrize("seed", range(3))
def test_every_request_has_one_result_whatever_the_others_come_to(seed: int) -> None:
    kinds: list[tuple[Any, str]] = [
        (None, "text"),
        (completion(None, "content_filter"), "filtered by the provider"),
        (completion(None), "empty answer"),
        (completion(None, tool_calls=[{"id": "1"}]), "tool call only"),
        (completion("<think>and on", "length"), "reasoning only"),
        ((400, {"error": {"message": "your input was flagged"}}), "filtered by the provider"),
        ((200, b"{"), "damaged"),
        ((500, {"error": "down"}), "status 500"),
        ((200, {"error": {"code": 502, "message": "upstream"}}), "status 502"),
    ]

    def kind(number: int) -> tuple[Any, str]:
        return kinds[(number * 7 + seed) % 9] if number % 2 else kinds[0]

    def answer(asked: Asked) -> tuple[int, Any]:
        number = int(asked.text.split()[1])
        return kind(number)[0] or completion(f"answer {number}")

    with (
        provider(answer) as running,
        OpenAICompleter(EndpointConfig(base_url=running.url, attempts=2, backoff=0.001)) as completer,
    ):
        results = completer.complete(requests(90, top_logprobs=0))
        (account,) = completer.accounts()
    assert len(results) == 90
    for number, result in enumerate(results):
        words = kind(number)[1]
        if words == "text":
            assert (result.text, result.error) == (f"answer {number}", None)
        else:
            assert result.text is None
            assert words in str(result.error)
    sound = sum(kind(number)[1] in ("text", *(k[1] for k in kinds[1:5])) for number in range(90))
    assert account.calls == sound - sum(kind(n)[0] == kinds[5][0] for n in range(90))
