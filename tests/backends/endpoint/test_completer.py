"""Live calls against a server of ours: results, order, pace, errors, caps."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.conftest import CompleterOf, Server
from tests.support.chat_requests import requests
from truing.backends.endpoint.journal import Journal
from truing.backends.openai import OpenAICompleter
from truing.config import EndpointConfig
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import CapReached, ConfigError, EndpointError, EngineError, MissingExtraError, StoreError
from truing.core.records import Message


def test_text_and_the_first_tokens_logprobs_come_in_order(completer: CompleterOf) -> None:
    results = completer().complete(requests(300))
    assert len(results) == 300
    for result in results:
        assert result.error is None
        assert result.text is not None
        assert result.top_logprobs is not None
        assert len(result.top_logprobs) == 20
        assert max(result.top_logprobs, key=lambda t: result.top_logprobs[t]) == result.text  # type: ignore[index]
        assert (result.finish_reason, result.prompt_tokens, result.completion_tokens) == ("stop", 2, 1)
    assert results == completer().complete(requests(300))
    assert list(reversed(results)) == completer().complete(requests(300)[::-1])


def test_what_is_finished_is_not_paid_for_again(completer: CompleterOf, server: Server) -> None:
    with completer() as first:
        first.complete(requests(50))
    assert len(completer().complete(requests(80))) == 80
    assert server.counts()["paid"] == 80


def test_equal_requests_are_one_call_and_samples_are_not(completer: CompleterOf, server: Server) -> None:
    server.set(latency=0.05)
    results = completer().complete([*requests(5), *requests(5), *requests(5, sample=1)])
    assert results[:5] == results[5:10]
    assert server.counts()["paid"] == 10


def test_requests_are_drawn_as_they_are_needed(completer: CompleterOf) -> None:
    drawn = 0

    def endless() -> Iterator[ChatRequest]:
        nonlocal drawn
        for i in itertools.count():
            drawn += 1
            yield from requests(1, first=i)

    stream = completer(concurrency=8).stream(endless())
    taken = list(itertools.islice(stream, 300))
    stream.close()  # type: ignore[attr-defined]
    assert len(taken) == 300
    assert drawn <= 300 + 8 * 8 + 64


def test_no_logprobs_where_none_are_asked_for(completer: CompleterOf) -> None:
    assert completer().complete(requests(1, top_logprobs=0))[0].top_logprobs is None


def test_the_pace_follows_what_the_endpoint_bears(completer: CompleterOf, server: Server) -> None:
    server.set(limit=20, latency=0.01, retry_after=None)
    results = completer(concurrency=200, attempts=30).complete(requests(600))
    assert all(r.error is None for r in results)
    counts = server.counts()
    assert counts["paid"] == 600
    assert counts["seen"]["storm"] < 600


def test_never_more_calls_under_way_than_allowed(completer: CompleterOf, server: Server) -> None:
    server.set(latency=0.01)
    completer(concurrency=7).complete(requests(100))
    assert server.counts()["most_open"] <= 7


@pytest.mark.parametrize("after", ["1", "date"])
def test_retry_after_is_honoured(after: str, completer: CompleterOf, server: Server) -> None:
    server.set(faults={"storm": 1.0}, retry_after=after)
    start = time.monotonic()
    (result,) = completer(attempts=2).complete(requests(1))
    # a date has whole seconds, and so may be up to one nearer
    assert time.monotonic() - start >= (0.9 if after == "1" else 0.0)
    assert "429" in (result.error or "")
    assert "2 attempts" in (result.error or "")
    server.set()


def test_a_failed_call_says_why_and_is_owed_again(completer: CompleterOf, server: Server) -> None:
    server.set(faults={"error": 1.0})
    results = completer(attempts=2).complete(requests(3))
    assert all(r.text is None and "status 500" in (r.error or "") for r in results)
    server.set()
    assert all(r.error is None for r in completer().complete(requests(3)))


def test_an_endpoint_that_only_fails_is_given_up(completer: CompleterOf, server: Server) -> None:
    server.set(faults={"error": 1.0})
    with pytest.raises(EngineError, match="32 calls in a row failed"):
        completer(attempts=2, concurrency=8).complete(requests(5000))
    assert server.counts()["seen"]["error"] < 200


def test_an_endpoint_that_is_not_there_is_told_within_seconds(completer: CompleterOf) -> None:
    started = time.monotonic()
    with pytest.raises(EngineError, match="nobody answers at http") as caught:
        completer(base_url="http://127.0.0.1:9/v1", attempts=8, backoff=0.1).complete(requests(400))
    assert "connection failed" in caught.value.got
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("secret", ["sk-proj-abcdefghijklmnop", "a plain word of a secret"])
def test_a_refused_key_stops_at_once_and_is_never_shown(
    secret: str,
    completer: CompleterOf,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    server.set(keys=["another"], latency=0.01)
    with caplog.at_level(logging.DEBUG), pytest.raises(EndpointError) as caught:
        completer(concurrency=4).complete(requests(500))
    assert "OPENAI_API_KEY" in str(caught.value)
    shown = str(caught.value) + repr(caught.value) + caplog.text
    for file in tmp_path.rglob("*"):
        shown += file.read_bytes().decode(errors="replace") if file.is_file() else ""
    assert secret not in shown
    assert server.counts()["paid"] == 0


def test_the_right_key_is_sent(completer: CompleterOf, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-right-one")
    server.set(keys=["sk-right-one"])
    assert completer(key_variable="OTHER_KEY").complete(requests(1))[0].error is None


def test_a_used_up_quota_stops_and_what_is_finished_is_kept(completer: CompleterOf, server: Server) -> None:
    server.set(quota=40)
    with pytest.raises(EndpointError, match="quota is used up"):
        completer(concurrency=4).complete(requests(100))
    assert server.counts()["paid"] <= 44
    server.set(keep=True, quota=None)
    completer().complete(requests(100))
    assert server.counts()["paid"] == server.counts()["different"] == 100


def test_openai_itself_needs_a_key(completer: CompleterOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is not set"):
        completer(base_url=None).complete(requests(1))


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "http://me:secret@host/v1", "http:///v1"])
def test_an_address_that_cannot_be_used_is_refused(address: str, completer: CompleterOf) -> None:
    with pytest.raises(ConfigError, match="address cannot be used") as caught:
        completer(base_url=address).complete(requests(1))
    assert "secret" not in str(caught.value)


def test_the_base_url_may_come_from_the_environment(
    completer: CompleterOf, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    assert completer(base_url=None).complete(requests(1))[0].error is None


def test_a_wrong_address_stops_at_once(completer: CompleterOf, server: Server) -> None:
    with pytest.raises(EndpointError, match="does not know the address or the model"):
        completer(base_url=server.url + "/v9").complete(requests(3))


def test_the_cap_on_calls_stops_and_resumes(completer: CompleterOf, server: Server) -> None:
    with completer(max_calls=60, concurrency=8) as capped:
        got: list[ChatResult] = []
        with pytest.raises(CapReached, match="max_calls 60"):
            got.extend(capped.stream(requests(100)))
        assert server.counts()["paid"] == 60
        assert got == capped.complete(requests(len(got)))  # what is finished costs nothing
    assert len(completer(max_calls=100).complete(requests(100))) == 100
    assert server.counts()["paid"] == 100


def test_the_cap_on_cost_is_never_exceeded(completer: CompleterOf, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("date: 2026-01-01\nmodels: {judge: {input: 1000, output: 1000}}")  # $0.003 a call here
    with completer(max_cost=0.5, prices=prices, concurrency=8) as capped:
        with pytest.raises(CapReached, match=r"max_cost \$0.50"):
            capped.complete(requests(1000))
        (account,) = capped.accounts()
    assert 0.4 < account.cost <= 0.5
    assert account.cost == pytest.approx(account.calls * 0.003)


def test_a_cap_on_cost_needs_a_price(completer: CompleterOf) -> None:
    with pytest.raises(ConfigError, match="no price of judge"):
        completer(max_cost=1.0).complete(requests(1))


def test_an_unknown_price_is_said_and_a_known_one_counted(completer: CompleterOf) -> None:
    with completer() as some:
        some.complete([*requests(4), *requests(4, model="gpt-4o-mini-2024-07-18")])
        known, unknown = some.accounts()
    assert (known.model, known.calls, known.unpriced) == ("gpt-4o-mini-2024-07-18", 4, 0)
    assert known.cost == pytest.approx(4 * (2 * 0.15 + 0.6) / 1e6)
    assert (unknown.calls, unknown.unpriced, unknown.cost) == (4, 4, 0.0)


def test_an_endpoint_that_counts_no_tokens_costs_the_most(completer: CompleterOf, server: Server) -> None:
    server.set(usage=False)
    with completer() as some:
        some.complete(requests(1, model="gpt-4o"))
        assert some.accounts()[0].cost > 2 * 2.5 / 1e6


def test_it_works_inside_a_running_event_loop_and_travels(completer: CompleterOf) -> None:
    travelled = pickle.loads(pickle.dumps(completer()))

    async def inside() -> int:
        with travelled:
            return len(travelled.complete(requests(10)))

    assert asyncio.run(inside()) == 10


def test_calls_under_way_when_all_is_closed_are_waited_for(completer: CompleterOf, server: Server) -> None:
    server.set(latency=0.2)
    with completer(concurrency=4) as some:
        stream = some.stream(iter(requests(100)))
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    counts = server.counts()
    assert 4 <= counts["paid"] <= 12
    assert completer().accounts()[0].calls == counts["paid"]


def test_a_journal_that_cannot_be_written_stops(completer: CompleterOf, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with completer() as some:
        some.complete(requests(1))
        monkeypatch.setattr(Journal, "write", full)
        with pytest.raises(StoreError, match="disk is full"):
            some.complete(requests(50))
        monkeypatch.undo()
        assert all(r.error is None for r in some.complete(requests(50)))


def test_errors_of_the_requests_reach_the_caller(completer: CompleterOf) -> None:
    def broken() -> Iterator[ChatRequest]:
        yield from requests(3)
        raise ZeroDivisionError

    with completer() as some:
        with pytest.raises(ZeroDivisionError):
            list(some.stream(broken()))
        assert len(some.complete(requests(3))) == 3


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_a_prefilled_answer_is_continued_or_missing(mode: str, completer: CompleterOf, server: Server) -> None:
    messages = (Message("user", "score"), Message("assistant", "It is"))
    (result,) = completer(mode=mode).complete([ChatRequest("judge", messages)])
    assert "endpoint.prefill" in (result.error or "")
    assert server.counts()["paid"] == 0
    assert completer(mode=mode, prefill=True).complete([ChatRequest("judge", messages)])[0].error is None


def test_a_completer_that_nobody_holds_any_more_ends(server: Server, tmp_path: Path) -> None:
    forgotten = OpenAICompleter(EndpointConfig(base_url=server.url), tmp_path / "calls.sqlite")
    forgotten.complete(requests(3))
    assert "truing-endpoint" in {thread.name for thread in threading.enumerate()}
    del forgotten
    assert "truing-endpoint" not in {thread.name for thread in threading.enumerate()}
    with OpenAICompleter(EndpointConfig(base_url=server.url), tmp_path / "calls.sqlite") as later:
        later.complete(requests(3))
    assert server.counts()["paid"] == 3


def test_hostile_text_survives(completer: CompleterOf, server: Server) -> None:
    texts = ["\ud800", "\x00", '"}]}', "🙂" * 1000, "x" * 100_000, "\u202e"]
    results = completer().complete([ChatRequest("judge", (Message("user", t),), 1) for t in texts])
    assert all(r.error is None for r in results)
    assert server.counts()["different"] == len(texts)


def test_the_missing_extra_gives_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "truing\[openai\]"'):
        OpenAICompleter(EndpointConfig())
