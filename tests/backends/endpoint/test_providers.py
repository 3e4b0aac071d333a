"""What providers do otherwise: refused fields, filters, keys in other headers, waits in bodies."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_requests import requests
from tests.support.provider import Answer, Asked, Provider, completion, provider
from truing.backends.endpoint.address import Access, endpoint_address, endpoint_weights
from truing.backends.endpoint.dialect import Dialect
from truing.backends.endpoint.faults import Trouble, _wait_in, read_status
from truing.backends.openai import OpenAICompleter
from truing.config import EndpointConfig
from truing.config.files import validate
from truing.core.chat import ChatRequest
from truing.core.errors import ConfigError, EndpointError, EngineError
from truing.core.records import Message


@contextmanager
def at(answer: Answer, **settings: Any) -> Iterator[tuple[OpenAICompleter, Provider]]:
    with provider(answer) as running:
        config = EndpointConfig(base_url=running.url, backoff=0.01, timeout=5, **settings)
        with OpenAICompleter(config) as completer:
            yield completer, running


def refusing(field: str, message: str, status: int = 400, shape: str = "openai", most: float | None = None) -> Answer:
    """Refuses requests with a field, or with more than `most` in it."""

    def answer(asked: Asked) -> tuple[int, Any]:
        value = asked.body.get(field)
        if value is not None and (most is None or value > most):
            error = {"message": message, "param": field if shape == "openai" else None}
            detail = {"detail": [{"loc": ["body", field], "msg": message}]}
            return status, detail if shape == "fastapi" else {"error": error}
        return completion("85", top=asked.body.get("top_logprobs", 0))

    return answer


@pytest.mark.parametrize(
    ("answer", "request_", "lacks", "has"),
    [
        (
            refusing("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
            {},
            "max_tokens",
            {"max_completion_tokens": 1},
        ),
        (
            refusing("temperature", "Unsupported value: 'temperature' does not support 0 with this model."),
            {},
            "temperature",
            {},
        ),
        (refusing("temperature", "temperature: only 1 is allowed"), {"temperature": 1.0}, "temperature", {}),
        (refusing("seed", "Extra inputs are not permitted", 422, "fastapi"), {"seed": 3}, "seed", {}),
        (refusing("seed", "property 'seed' is unsupported"), {"seed": 3}, "seed", {}),
        (
            refusing("top_logprobs", "Invalid value for 'top_logprobs': must be less than or equal to 5.", most=5),
            {},
            "",
            {"top_logprobs": 5},
        ),
        (refusing("top_logprobs", "top_logprobs must be between 0 and 8", most=8), {}, "", {"top_logprobs": 8}),
        (refusing("top_logprobs", "Invalid 'top_logprobs'", most=5), {}, "", {"top_logprobs": 5}),
    ],
)
def test_what_a_provider_takes_otherwise_is_settled_by_the_first_calls(
    answer: Answer, request_: dict[str, Any], lacks: str, has: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), at(answer) as (completer, running):
        results = completer.complete(requests(30, **request_))
    assert [result.text for result in results] == ["85"] * 30
    assert len(running.asked) <= 30 + 2  # only the first two were refused
    body = running.asked[-1].body
    assert lacks not in body
    assert has.items() <= body.items()
    assert len([r for r in caplog.records if "the endpoint says" in r.getMessage()]) == 1  # told, once


def test_several_differences_are_settled_one_after_the_other() -> None:
    def answer(asked: Asked) -> tuple[int, Any]:
        for field, said in (("max_tokens", "use 'max_completion_tokens' instead"), ("seed", "unknown field")):
            if field in asked.body:
                return 400, {"error": {"message": f"{field}: {said}"}}
        if asked.body.get("temperature") == 0:
            return 400, {"error": {"message": "temperature: unsupported value"}}
        return completion("85")

    with at(answer) as (completer, running):
        results = completer.complete(requests(20, top_logprobs=0, seed=1))
    assert [result.text for result in results] == ["85"] * 20
    assert len(running.asked) <= 20 + 6


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        ("Unsupported value: 'temperature' must be 1", {"temperature": 0.7}),  # would sample another model
        ("logprobs are not supported with this model", {}),
        ("System messages are not supported", {}),
        ("the body is wrong", {}),
    ],
)
def test_what_cannot_work_ends_after_the_first_calls_with_the_providers_words(
    message: str, request_: dict[str, Any]
) -> None:
    refused = pytest.raises(EndpointError, match="refuses what is asked of judge")
    with at(lambda asked: (400, {"error": {"message": message}})) as (completer, running), refused as caught:
        completer.complete(requests(400, **request_))
    assert message in caught.value.got
    assert len(running.asked) <= 4


def test_a_field_that_is_set_is_not_changed() -> None:
    answer = refusing("max_tokens", "Unsupported parameter: use 'max_completion_tokens'")
    with at(answer, max_tokens_field="max_tokens") as (completer, _), pytest.raises(EndpointError):
        completer.complete(requests(3))


def test_a_text_that_is_too_long_says_nothing_of_others() -> None:
    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.text in ("score 0", "score 1"):
            return 400, {"error": {"message": "too long", "code": "context_length_exceeded"}}
        return completion("85")

    with at(answer) as (completer, _):
        results = completer.complete(requests(10))
    assert [result.text for result in results] == [None, None, *["85"] * 8]


FLAGGED = (
    (403, {"error": {"message": "Input was flagged", "code": 403, "metadata": {"reasons": ["x"]}}}),
    (403, {"error": {"message": "Your chosen model requires moderation and your input was flagged"}}),
    (400, {"error": {"code": "content_filter", "message": "The response was filtered by a policy"}}),
    (400, {"error": {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": "no"}}),
    (400, {"error": {"code": "data_inspection_failed", "message": "Input may contain inappropriate content."}}),
    (422, {"detail": "content policy violation"}),
    (200, {"error": {"code": 403, "message": "flagged by moderation"}}),
)


@pytest.mark.parametrize("reply", FLAGGED)
@pytest.mark.parametrize("which", ["some", "the first"])
def test_what_a_filter_holds_back_is_missing_and_the_rest_is_answered(reply: tuple[int, Any], which: str) -> None:
    def flagged(number: int) -> bool:
        return number % 7 == 3 if which == "some" else number < 50

    def answer(asked: Asked) -> tuple[int, Any]:
        return reply if flagged(int(asked.text.split()[1])) else completion("85")

    with at(answer) as (completer, _):
        results = completer.complete(requests(100))
    for i, result in enumerate(results):
        assert (result.text is None) == flagged(i)
        assert flagged(i) == str(result.error).startswith("filtered by the provider: status 4")


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Incorrect API key provided"}},
        {"error": {"message": "Your account was flagged for a usage policy"}},
        {"detail": "Forbidden"},
        b"<html>403</html>",
    ],
)
def test_a_403_before_any_answer_is_about_the_key(body: Any) -> None:
    with at(lambda asked: (403, body)) as (completer, _), pytest.raises(EndpointError, match="refuses the key"):
        completer.complete(requests(40))


def test_a_403_after_answers_is_about_that_call_until_there_are_many() -> None:
    def some(asked: Asked) -> tuple[int, Any]:
        return (403, {"detail": "Forbidden"}) if asked.text == "score 20" else completion("85")

    with at(some) as (completer, _):
        results = completer.complete(requests(40))
    assert [i for i, result in enumerate(results) if result.error] == [20]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('{"error": {"message": "Rate limit reached. Please try again in 1.5s."}}', 1.5),
        ('{"error": {"message": "Please try again in 20ms. Visit https://x"}}', 0.02),
        ('{"error": {"message": "Please try again in 1m30s."}}', 90.0),
        ('{"error": {"message": "try again in 2h3m4s"}}', 7384.0),
        ('{"error": {"message": "Please retry in 21.3s."}}', 21.3),
        ('{"error": {"message": "try again after 7 seconds"}}', 7.0),
        ('{"details": [{"retryDelay": "21s"}]}', 21.0),
        ('{"retry_after": 3}', 3.0),
        ('{"retry_after_ms": 250}', 0.25),
        ('{"message": "Too many requests"}', None),
        ('{"message": "try again later"}', None),
    ],
)
def test_how_long_to_wait_may_stand_in_the_body(text: str, seconds: float | None) -> None:
    assert _wait_in(text) == (pytest.approx(min(seconds, 3600.0)) if seconds else None)


def trouble(status: int, body: Any, answered: bool = True) -> Exception:
    return read_status(status, body, Access.of(EndpointConfig(base_url="http://h/v1")), answered)


def test_no_credit_is_told_from_too_many_calls() -> None:
    gone = {"error": {"message": "You exceeded your current quota, check your billing", "code": "insufficient_quota"}}
    busy = {"error": {"message": "You exceeded your current quota. Please retry in 2s.", "code": 429}}
    assert isinstance(trouble(429, gone), EndpointError)
    found = trouble(429, busy)
    assert isinstance(found, Trouble)
    assert (found.again, found.congested, found.wait) == (True, True, 2.0)


def test_the_reason_in_a_body_of_any_shape_is_told() -> None:
    for body in (
        {"error": {"message": "the words"}},
        {"message": "the words"},
        {"detail": "the words"},
        {"detail": [{"loc": ["body", "x"], "msg": "the words"}]},
        {"error": "the words"},
        {"errors": ["the words"]},
        {"error": {"message": "Provider returned error", "metadata": {"raw": "the words"}}},
        "the words",
        ["the words"],
    ):
        assert "the words" in str(trouble(422, body).args) + str(vars(trouble(422, body)))


def test_where_a_provider_is_away_at_first_that_is_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), at(lambda asked: (503, {"error": "loading"}), attempts=2) as (completer, _):
        completer.complete(requests(3))
    assert [r.getMessage() for r in caplog.records if "no answer yet" in r.getMessage()]


# Addresses, keys and headers.


def test_azure_takes_its_key_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", "a-secret-word")
    with provider(lambda asked: completion("85")) as running:
        address = running.url.removesuffix("/v1") + "/openai/deployments/judge?api-version=2024-10-21"
        config = EndpointConfig(base_url=address, key_variable="AZURE_KEY")
        with OpenAICompleter(config) as completer:
            assert completer.complete(requests(1))[0].text == "85"
    (asked,) = running.asked
    assert asked.path == "/openai/deployments/judge/chat/completions?api-version=2024-10-21"
    assert asked.headers["api-key"] == "a-secret-word"
    assert "authorization" not in asked.headers
    assert "api-version" not in endpoint_address(config)
    assert Access.of(EndpointConfig(base_url="https://x.openai.azure.com/openai/v1")).headers == {}


def test_headers_and_parameters_come_from_the_environment_and_are_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "first-secret")
    monkeypatch.setenv("GATE", "second-secret")
    settings: dict[str, Any] = {
        "key_header": "X-Key",
        "headers": {"X-Gate-Token": "Bearer $GATE", "X-Team": "safety"},
        "query": {"tenant": "t1", "code": "${GATE}"},
    }

    def answer(asked: Asked) -> tuple[int, Any]:
        return 422, {"detail": f"not for {asked.headers['x-key']} and {asked.headers['x-gate-token']}"}

    with provider(answer) as running:
        config = EndpointConfig(base_url=running.url, **settings)
        with OpenAICompleter(config, tmp_path / "calls.sqlite") as completer, pytest.raises(EndpointError) as caught:
            completer.complete(requests(3))
    headers = running.asked[0].headers
    assert (headers["x-key"], headers["x-gate-token"], headers["x-team"]) == (
        "first-secret",
        "Bearer second-secret",
        "safety",
    )
    assert running.asked[0].path.endswith("?tenant=t1&code=second-secret")
    shown = str(caught.value) + repr(Access.of(config)) + config.model_dump_json() + endpoint_address(config)
    shown += "".join(f.read_bytes().decode(errors="replace") for f in tmp_path.rglob("*") if f.is_file())
    assert "secret" not in shown


@pytest.mark.parametrize(
    "settings",
    [
        {"headers": {"Authorization": "Bearer abc"}},
        {"headers": {"api-key": "abc"}},
        {"query": {"sig": "abc"}},
        {"base_url": "http://h/v1?api_key=abc"},
    ],
)
def test_a_key_in_the_settings_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="may not stand in the settings") as caught:
        validate(EndpointConfig, {"base_url": "http://h/v1", **settings}, "wrong")
    assert "abc" not in str(caught.value)


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(EndpointError, match="needs a variable"):
        Access.of(EndpointConfig(base_url="http://h/v1", headers={"X-Team": "$NO_SUCH_VARIABLE"}))


def test_what_else_is_asked_is_part_of_what_is_measured() -> None:
    plain, other = EndpointConfig(base_url="http://h/v1"), {"reasoning_effort": "low"}
    more = plain.model_copy(update={"body": other})
    assert endpoint_weights(plain, "m") != endpoint_weights(more, "m")
    assert OpenAICompleter(plain).identify("m") == "m at http://h/v1"
    assert OpenAICompleter(more).identify("m") != "m at http://h/v1"
    with at(lambda asked: completion("85"), body=other) as (completer, running):
        completer.complete(requests(1))
    assert running.asked[0].body["reasoning_effort"] == "low"


def test_a_judges_own_place_shares_caps_and_pace() -> None:
    study = EndpointConfig(base_url="http://h/v1", max_calls=50, concurrency=3, headers={"X-Team": "a"})
    own = study.instead(EndpointConfig(base_url="http://judge/v1", attempts=2))
    assert (own.base_url, own.headers, own.max_calls, own.concurrency, own.attempts) == (
        "http://judge/v1",
        {},
        50,
        3,
        2,
    )
    assert study.instead(None) is study


def test_a_dialect_changes_what_is_said_and_no_name_in_the_journal() -> None:
    request = ChatRequest("m", (Message("user", "a"),), 3, 0.0, 20, seed=1)
    assert Dialect().after("the seed is wrong somehow", request, "max_tokens") is None
    found = Dialect().after("unknown field seed", request, "max_tokens")
    assert found is not None
    assert found[0].say(b'{"seed":1,"a":2}') == b'{"a":2}'
    assert Dialect().say(b"{}") == b"{}"


def test_an_outage_after_answers_is_borne(tmp_path: Path) -> None:
    seen: list[int] = []

    def answer(asked: Asked) -> tuple[int, Any]:
        seen.append(1)
        return (503, {"error": "busy"}) if len(seen) in (5, 6, 7) else completion("85")

    with at(answer) as (completer, _):
        assert all(result.error is None for result in completer.complete(requests(20)))


def test_failing_for_one_model_only_ends_the_work() -> None:
    def answer(asked: Asked) -> tuple[int, Any]:
        return completion("85") if asked.body["model"] == "fake" else (500, {"error": "down"})

    with at(answer, attempts=1) as (completer, _):
        completer.complete(requests(10, model="fake"))
        with pytest.raises(EngineError, match="calls in a row failed"):
            completer.complete(requests(400))
