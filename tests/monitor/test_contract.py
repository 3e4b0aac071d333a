"""What every row of `STORES` promises: its author adds a way to begin one to `BEGUN`."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import StoreError
from truing.monitor.store import SCHEMAS, STORES, Store, open_store

ROW = {"prompt_id": "p", "sample": 0, "text": "hi", "n_tokens": 1, "finished": True, "error": None, "refused": False}
FAILED = {**ROW, "text": None, "error": "timeout"}
BEGUN: dict[str, Callable[[Path], object]] = {
    "store": lambda mark: None,
    "store.url": lambda mark: mark.write_text(f"memory://results/{uuid.uuid4().hex}\n"),
}
"""What lies in a folder of results -> puts it there."""
VALUES: dict[str, Any] = {"string": "käse \x00", "int32": 3, "int64": 2**40, "double": 0.1, "bool": True}


def test_every_store_is_held_to_this() -> None:
    assert BEGUN.keys() == STORES.keys()


@pytest.fixture(params=BEGUN)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of results whose store is of this kind."""
    BEGUN[request.param](tmp_path / request.param)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Store:
    return open_store(folder)


def test_where_nothing_is_nothing_is_found(store: Store) -> None:
    for table in SCHEMAS:
        assert not store.has(table, "k")
        assert store.keys(table) == []
        assert store.query(f"SELECT count(*) AS n FROM {table}") == [{"n": 0}]
        with pytest.raises(StoreError):
            store.read(table, "k")
    assert store.compact() == 0


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_piece_is_read_as_it_was_written_by_every_process(store: Store, folder: Path, table: str) -> None:
    estimate = {field.name: VALUES[str(field.type)] for field in SCHEMAS["evaluations"].field("em_rate").type}
    row = {field.name: VALUES.get(str(field.type), estimate) for field in SCHEMAS[table]}
    one, other = {**row, "key": "k"}, {**dict.fromkeys(row), "key": "l"}
    store.write(table, "k", [one])
    store.write(table, "l", [other])
    for each in (store, open_store(folder)):
        assert (each.has(table, "k"), each.keys(table)) == (True, ["k", "l"])
        assert (each.read(table, "k"), each.read(table, "l")) == ([one], [other])
        assert each.query(f"SELECT * FROM {table} WHERE key = ?", ["k"]) == [one]


def test_a_finished_piece_is_never_changed(store: Store) -> None:
    store.write("responses", "k", [ROW])
    store.write("responses", "k", [{**ROW, "text": "other"}])
    assert store.read("responses", "k") == [{**ROW, "key": "k"}]


def test_what_is_added_takes_the_place_of_what_failed_and_not_of_what_did_not(store: Store, folder: Path) -> None:
    store.write("responses", "k", [ROW, *({**FAILED, "sample": sample} for sample in (1, 2))])
    begun = store.written("responses", "k")
    store.amend("responses", "k", [{**ROW, "sample": 2, "text": "late"}, FAILED])
    store.amend("responses", "k", [{**ROW, "sample": 1, "text": "later"}, {**ROW, "sample": 3, "text": "more"}])
    for each in (store, open_store(folder)):
        assert [row["text"] for row in each.read("responses", "k")] == ["hi", "later", "late", "more"]
        assert each.keys("responses") == ["k"]
        asked = each.query("SELECT text, error FROM responses ORDER BY sample")
        assert asked == [{"text": text, "error": None} for text in ("hi", "later", "late", "more")]
        each.compact()
        assert each.written("responses", "k") == begun


def test_of_two_that_claim_one_piece_one_waits(store: Store, folder: Path) -> None:
    seen, held, free = [], threading.Event(), threading.Event()

    def hold() -> None:
        with open_store(folder).claim("k"):
            held.set()
            free.wait()
            seen.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with store.claim("l"):
        seen.append("another piece")
    threading.Timer(0.2, free.set).start()
    with store.claim("k"):
        seen.append("second")
    thread.join()
    assert seen == ["another piece", "first", "second"]
