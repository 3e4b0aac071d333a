"""The Batch API as a mode: half the price, partial failures, caps, restarts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.backends.conftest import CompleterOf, Server
from tests.support.chat_requests import requests
from truing.backends.endpoint import batches
from truing.core.errors import CapReached, EngineError


def test_a_batch_gives_what_live_calls_give(completer: CompleterOf, server: Server) -> None:
    with completer(mode="batch") as slow:
        results = slow.complete([*requests(40), *requests(10)])
        (account,) = slow.accounts()
    assert (account.mode, account.calls) == ("batch", 40)
    assert server.counts()["paid"] == 40
    assert results[:10] == results[40:]
    assert completer().complete(requests(40)) == results[:40]  # one journal for both modes
    assert server.counts()["paid"] == 40


def test_half_the_price_and_one_batch_per_model(completer: CompleterOf, server: Server) -> None:
    both = [*requests(3, model="gpt-4o"), *requests(3, model="judge")]
    with completer(mode="batch") as slow:
        slow.complete(both)
        known, unknown = slow.accounts()
    assert known.cost == pytest.approx(0.5 * 3 * (2 * 2.5 + 10) / 1e6)
    assert unknown.unpriced == 3
    assert server.counts()["batches"] == 2


def test_lines_that_fail_are_sent_again(completer: CompleterOf, server: Server) -> None:
    server.set(batch_failures=0.3, batch_polls=0)
    results = completer(mode="batch", attempts=12).complete(requests(100))
    assert all(r.error is None for r in results)
    counts = server.counts()
    assert counts["paid"] == counts["different"] == 100
    assert counts["batches"] > 1


def test_lines_that_keep_failing_are_missing_and_owed(completer: CompleterOf, server: Server) -> None:
    server.set(batch_failures=0.5, batch_polls=0)
    results = completer(mode="batch", attempts=1).complete(requests(60))
    missing = [r for r in results if r.error]
    assert 10 < len(missing) < 50
    assert all("server had an error" in (r.error or "") for r in missing)
    server.set(keep=True, batch_failures=0.0)
    assert all(r.error is None for r in completer(mode="batch").complete(requests(60)))
    assert server.counts()["paid"] == 60


def test_an_expired_batch_keeps_what_it_finished(completer: CompleterOf, server: Server) -> None:
    server.set(batch_status="expired", batch_failures=0.2, batch_polls=0)
    results = completer(mode="batch", attempts=1).complete(requests(50))
    assert 25 < sum(r.error is None for r in results) < 50


def test_a_refused_batch_stops(completer: CompleterOf, server: Server) -> None:
    server.set(batch_status="failed", batch_failures=1.0, batch_polls=0)
    with pytest.raises(EngineError, match="refuses batch"):
        completer(mode="batch").complete(requests(5))


def test_pieces_stay_within_bounds(completer: CompleterOf, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_LINES", 10)
    assert len(completer(mode="batch").complete(requests(35))) == 35
    assert server.counts()["batches"] == 4


def test_too_many_tokens_in_batches_means_to_wait(
    completer: CompleterOf, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_LINES", 10)
    server.set(batch_limit=1, batch_polls=2)
    assert all(r.error is None for r in completer(mode="batch").complete(requests(30)))
    counts = server.counts()
    assert counts["paid"] == 30
    assert counts["batches"] > 3


def test_the_cap_holds_for_batches_and_lets_go(completer: CompleterOf, server: Server) -> None:
    with pytest.raises(CapReached, match="max_calls 30"):
        completer(mode="batch", max_calls=30).complete(requests(50))
    assert server.counts()["paid"] == 30
    assert len(completer(mode="batch", max_calls=50).complete(requests(50))) == 50
    assert server.counts()["paid"] == 50


def test_a_journal_in_memory_will_do(server: Server) -> None:
    from truing.backends.openai import OpenAICompleter
    from truing.config import EndpointConfig

    with OpenAICompleter(EndpointConfig(base_url=server.url, mode="batch", poll=0.01)) as some:
        assert len(some.complete(requests(5))) == 5


@pytest.mark.parametrize("step", ["file_id", "batch_id", "done"])
def test_stopped_right_after_a_step_that_was_not_noted(
    step: str, completer: CompleterOf, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if killed between the endpoint's answer and the journal: the batch is found again, not made twice."""
    note, end = batches.Batches._note, batches.Batches._end

    def cut(self: batches.Batches, sql: str, *parameters: Any) -> None:
        if f"SET {step}" in sql:
            raise EngineError("cut")
        note(self, sql, *parameters)

    def cut_end(self: batches.Batches, piece: str, paid: Any) -> None:
        if step == "done":
            raise EngineError("cut")
        end(self, piece, paid)

    with monkeypatch.context() as patched, completer(mode="batch") as first:
        patched.setattr(batches.Batches, "_note", cut)
        patched.setattr(batches.Batches, "_end", cut_end)
        with pytest.raises(EngineError):
            first.complete(requests(20))
    assert all(r.error is None for r in completer(mode="batch").complete(requests(30)))
    counts = server.counts()
    assert counts["paid"] == counts["different"] == 30
    assert counts["batches"] == 2  # that of the first 20, and the rest
