"""Addresses, keys, prices, pace, waiting and the journal: no network."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from truing.backends.endpoint.address import Access, endpoint_address, endpoint_model
from truing.backends.endpoint.calls import Pace
from truing.backends.endpoint.faults import backoff, retry_after, scrub
from truing.backends.endpoint.journal import Journal, Paid
from truing.backends.endpoint.pricing import load_prices
from truing.config import EndpointConfig
from truing.core.errors import ConfigError, EndpointError, StoreError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-proj-ab12****wxyz.", "Incorrect API key provided: [key]."),
        ("Bearer abc.def", "Bearer [key]"),
        ("http://me:pw@host/v1", "http://[key]host/v1"),
        ("my own word", "my [key] word"),
    ],
)
def test_keys_are_scrubbed(text: str, shown: str) -> None:
    assert scrub(text, "own") == shown


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Mon, 23 Nov 2026 10:00:05 GMT"}, 5.0),
        ({"retry-after": "Mon, 23 Nov 2026 09:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, 3600.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)) == seconds


def test_backoff_doubles_with_jitter_up_to_a_minute() -> None:
    for attempt in range(30):
        assert 0.5 * min(60, 0.5 * 2**attempt) <= backoff(attempt, 0.5) <= min(60, 0.5 * 2**attempt)


def test_the_pace_rises_by_addition_and_falls_by_multiplication() -> None:
    pace = Pace(256)
    for _ in range(1000):
        pace.succeeded()
    assert pace.limit == 256
    pace.congested(started=1.0, now=2.0)
    assert pace.limit == 179
    pace.congested(started=1.5, now=2.5)  # on its way at the cut: not another one
    assert pace.limit == 179
    for _ in range(179):
        pace.succeeded()
    assert 185 <= pace.limit <= 188
    for i in range(100):
        pace.congested(started=3.0 + i, now=3.5 + i)
    assert pace.limit == 1


def test_prices_by_name_date_and_base() -> None:
    prices = load_prices()
    assert prices.of("gpt-4o-2024-08-06") == prices.of("gpt-4o")
    assert prices.of("gpt-4o-2024-05-13") != prices.of("gpt-4o")
    assert prices.of("ft:gpt-4o-mini-2024-07-18:org::id") == prices.models["ft:gpt-4o-mini"]
    assert prices.of("my-own") is None
    assert prices.cost("my-own", (1, 0, 1)) is None
    assert prices.cost("gpt-4o", (1_000_000, 400_000, 100_000)) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25 + 1.0)
    assert prices.cost("gpt-4o", (0, 0, 100_000), batch=True) == pytest.approx(0.5)
    datetime.strptime(prices.date, "%Y-%m-%d").replace(tzinfo=UTC)


def test_a_users_prices_come_first(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("models: {gpt-4o: {input: 1, output: 2}, mine: {input: 3, output: 4}}")
    prices = load_prices(file)
    assert prices.cost("gpt-4o", (1_000_000, 0, 0)) == 1.0
    assert prices.cost("mine", (0, 0, 1_000_000)) == 4.0
    assert prices.of("gpt-4o-mini") is not None


@pytest.mark.parametrize(
    "text",
    [
        "models: [a]",
        "3",
        "models: {a: {input: 1}}",
        "models: {a: {input: -1, output: 1}}",
        "models: {a: {input: x, output: 1}}",
        "models: {a: {input: 1, output: 1, more: 1}}",
        "models: {a: 3}",
        "batch: half",
        "a: [",
    ],
)
def test_wrong_prices_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.yaml"):
        load_prices(file)


def test_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert endpoint_address(EndpointConfig()) == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1/")
    assert endpoint_address(EndpointConfig()) == "http://localhost:8000/v1"
    assert endpoint_address(EndpointConfig(base_url="http://[::1]:9/v1")) == "http://[::1]:9/v1"


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "calls.sqlite"
    file.write_text("hello " * 1000)
    with pytest.raises(StoreError, match="journal of calls"):
        Journal(file)


def test_the_journal_adds_up_and_is_all_or_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "calls.sqlite")
    journal.write([Paid("m", b"1", "[]", 2, 1, 0.5), Paid("m", cost=0.25), Paid("m", b"2", "[]", 2, 1, None)], "live")
    with pytest.raises(StoreError), journal.transaction() as db:
        [db.execute(sql) for sql in ("DELETE FROM calls", "no sql")]
    (account,) = journal.accounts()
    assert (account.calls, account.unconfirmed, account.unpriced) == (2, 1, 1)
    assert (account.prompt_tokens, account.completion_tokens, account.cost) == (4, 2, 0.5)
    assert account.unconfirmed_cost == 0.25
    assert set(journal.find([b"1", b"2", b"3"])) == {b"1", b"2"}
    journal.close()


def test_the_key_is_named_when_it_is_missing_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(EndpointError, match="MY_KEY is not set"):
        Access.of(EndpointConfig(key_variable="MY_KEY"))
    assert Access.of(EndpointConfig(base_url="http://localhost:1/v1", key_variable="MY_KEY")).key == ""
    monkeypatch.setenv("MY_KEY", "sk-secret-1234")
    access = Access.of(EndpointConfig(key_variable="MY_KEY"))
    assert access.key == "sk-secret-1234"
    assert "secret" not in repr(access)


def test_a_catalogue_name_stands_for_the_dated_id() -> None:
    assert endpoint_model("gpt-4o") == endpoint_model("gpt-4o-2024-08-06") == "gpt-4o-2024-08-06"
    assert endpoint_model("qwen3-8b") == "qwen3-8b"
    assert endpoint_model("ft:gpt-4o:org::id") == "ft:gpt-4o:org::id"
