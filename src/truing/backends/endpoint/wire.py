"""The bytes of a request, the hash that names it, and the reading of a reply, which is never trusted."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from truing.backends.endpoint.faults import DamagedReply, ErrorReply, scrub
from truing.core.answers import Output, read_answer
from truing.core.chat import ChatRequest, ChatResult
from truing.core.files import load_json
from truing.core.records import Message

_WRONG = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)
"""Errors that reading a reply of any shape can raise."""
_MOST_TOKENS = 10**9
_PER_MESSAGE = 16
"""At most so many tokens that a chat template adds to a message."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as an endpoint is asked."""

    key: bytes
    """Names it in the journal."""
    request: ChatRequest
    content: bytes
    """Its body."""
    most: float
    """The most that it can cost, in dollars; 0 if unknown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A sound reply: the result and the tokens that are paid for."""

    result: ChatResult
    tokens: tuple[int, int, int] | None
    """Prompt, cached part of it, completion; None when the endpoint does not say."""


def encode(request: ChatRequest, max_tokens_field: str, more: Mapping[str, Any] | None = None) -> bytes:
    """The body of a request, always the same for equal requests; `more` are further fields."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        max_tokens_field: request.max_tokens,
        "temperature": request.temperature,
    }
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.seed is not None:
        body["seed"] = request.seed
    if request.unfiltered:
        body |= {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    if request.prefilled:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    more = dict(more or {})
    if {"max_tokens", "max_completion_tokens"} & more.keys():
        del body[max_tokens_field]
    return json.dumps(body | more, separators=(",", ":"), allow_nan=False).encode()


def decode(body: dict[str, Any], max_tokens_field: str) -> ChatRequest:
    """The request of a body, as far as its cost and the reading of its reply need it."""
    messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
    most = next(body[name] for name in (max_tokens_field, "max_tokens", "max_completion_tokens") if name in body)
    return ChatRequest(body["model"], messages, most, top_logprobs=body.get("top_logprobs", 0))


def call_key(endpoint: str, content: bytes, sample: int) -> bytes:
    """The hash that names a call: what answers it, its body, and its sample index."""
    return hashlib.sha256(b"%s\0%d\0%s" % (endpoint.encode(), sample, content)).digest()[:16]


def most_tokens(request: ChatRequest) -> tuple[int, int, int]:
    """Tokens that a call can cost at most: a token is at least a byte."""
    prompt = sum(len(m.content.encode("utf-8", "replace")) + _PER_MESSAGE for m in request.messages)
    return prompt, 0, request.max_tokens


def parse_reply(data: bytes | dict[str, Any], logprobs: bool) -> Reply:
    """Read a chat completion.

    Raises:
        ErrorReply: It holds an error in place of one.
        DamagedReply: It is not one, or its log-probabilities have a shape that the protocol does not know.
    """
    try:
        body = load_json(data) if isinstance(data, bytes) else data
        choice = (body.get("choices") or [{}])[0]
        if error := body.get("error") or choice.get("error"):
            code = str(error.get("code")) if isinstance(error, dict) else ""
            status = int(code) if re.fullmatch("[45][0-9]{2}", code) else 500
            raise ErrorReply(status, {"error": error})
        message, finish = choice["message"], choice.get("finish_reason") or ""
        output = _output(message, finish)
        top = _top_logprobs(choice.get("logprobs")) if logprobs else None
        tokens = _tokens(body.get("usage"))
    except _WRONG as error:
        raise DamagedReply(scrub(f"{type(error).__name__}: {error} in {str(data)[:200]}")) from None
    answer = read_answer(output)
    prompt, _, completion = tokens or (0, 0, 0)
    return Reply(ChatResult(answer.text, top, finish, prompt, completion, answer.error, answer.refused), tokens)


def _output(message: dict[str, Any], finish: str) -> Output:
    """What a message holds; the content may be a text, or parts of which some are text, reasoning or a refusal."""
    if not isinstance(finish, str):
        raise TypeError(f"the finish reason is a {type(finish).__name__}")
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise TypeError(f"the content is a {type(content).__name__}")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    texts = [_clean(part["text"]) for part in parts if part["type"] in ("text", "output_text")]
    refusals = [message.get("refusal"), *(part.get("refusal") for part in parts)]
    reasoning = [message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details")]
    return Output(
        text="".join(texts),
        finish=finish,
        refusal=next((_clean(each) for each in refusals if isinstance(each, str) and each), None),
        reasoning=any(reasoning) or any(part["type"] in ("thinking", "reasoning") for part in parts),
        tools=bool(message.get("tool_calls") or message.get("function_call")),
    )


def _clean(text: str) -> str:
    """A text without lone surrogates, which cannot be stored."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _top_logprobs(logprobs: Any) -> dict[str, float] | None:
    if logprobs is None or logprobs["content"] is None or logprobs["content"] == []:
        return None
    top: dict[str, float] = {}
    for entry in logprobs["content"][0]["top_logprobs"]:
        token, value = entry["token"], entry["logprob"]
        if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"logprob {value!r}")
        if math.isnan(value) or value > 1e-3:
            raise ValueError(f"logprob {value!r}")
        top.setdefault(token, max(float(value), -9999.0))
    return top


def _tokens(usage: Any) -> tuple[int, int, int] | None:
    if usage is None:
        return None
    details = usage.get("prompt_tokens_details") or {}
    counts = (usage["prompt_tokens"], details.get("cached_tokens") or 0, usage["completion_tokens"])
    if (
        any(isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < _MOST_TOKENS for c in counts)
        or counts[1] > counts[0]
    ):
        raise TypeError(f"usage {str(counts)[:100]}")
    return counts


def dump_result(result: ChatResult) -> str:
    """A finished result as text for the journal."""
    fields = [result.text, result.top_logprobs, result.finish_reason, result.prompt_tokens, result.completion_tokens]
    more = [result.error, True] if result.refused else [result.error] if result.error else []
    return json.dumps(fields + more, separators=(",", ":"))


def load_result(text: str) -> ChatResult:
    """The result that `dump_result` wrote; one of an earlier version is read by the rule of today."""
    result = ChatResult(*json.loads(text))
    if result.text is None:
        return result
    answer = read_answer(Output(result.text, result.finish_reason))
    return replace(result, text=answer.text, error=answer.error)
