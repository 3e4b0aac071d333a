import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truing.core.errors import StoreError
from truing.monitor.store import STORES, FolderStore, open_store

ROW = {"prompt_id": "p", "sample": 0, "text": "hi", "n_tokens": 1, "finished": True, "error": None, "refused": False}


def test_a_piece_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert not store.has("responses", "k")
    store.write("responses", "k", [ROW, {**ROW, "sample": 1}])
    assert store.has("responses", "k")
    assert store.read("responses", "k")[1] == {**ROW, "sample": 1, "key": "k"}
    assert store.keys("responses") == ["k"]
    assert [f.name for f in (tmp_path / "responses").iterdir()] == ["k.parquet"]


def test_a_finished_piece_is_never_changed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("responses", "k", [ROW])
    store.write("responses", "k", [{**ROW, "text": "other"}])
    assert store.read("responses", "k")[0]["text"] == "hi"


def test_amended_rows_take_the_place_of_failed_ones(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    failed = {**ROW, "text": None, "error": "timeout"}
    store.write("responses", "k", [ROW, {**failed, "sample": 1}, {**failed, "sample": 2}])
    store.amend("responses", "k", [{**ROW, "sample": 2, "text": "late"}])
    store.amend("responses", "k", [{**ROW, "sample": 1, "text": "later"}])
    assert [row["text"] for row in store.read("responses", "k")] == ["hi", "later", "late"]
    assert store.keys("responses") == ["k"]
    queried = store.query("SELECT text, error FROM responses ORDER BY sample")
    assert queried == [{"text": t, "error": None} for t in ("hi", "later", "late")]


def test_files_from_before_a_column_was_there_are_read(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("responses", "new", [{**ROW, "refused": True}])
    old = pa.Table.from_pylist([{"key": "old", **{name: ROW[name] for name in ROW if name != "refused"}}])
    pq.write_table(old, tmp_path / "responses" / "old.parquet")
    assert [row["refused"] for row in store.read("responses", "old")] == [None]
    for amended in ("nothing", "a row"):
        if amended == "a row":
            store.amend("responses", "old", [{**ROW, "sample": 1, "refused": True}])
        counted = store.query("SELECT key, count(*) FILTER (refused) AS n FROM responses GROUP BY key ORDER BY key")
        assert [row["n"] for row in counted] == [1, int(amended == "a row")]


def test_queries_work_on_an_empty_store(tmp_path: Path) -> None:
    assert FolderStore(tmp_path / "none").query("SELECT count(*) AS n FROM judgments") == [{"n": 0}]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("responses", "k", [ROW])
    (tmp_path / "responses" / "k.parquet").write_bytes(b"not parquet")
    with pytest.raises(StoreError, match=r"k\.parquet cannot be read"):
        store.read("responses", "k")
    with pytest.raises(StoreError, match=r"cannot be read(?s:.*)k\.parquet(?s:.*)delete that file"):
        store.query("SELECT * FROM judgments")


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not write"):
        FolderStore(tmp_path / "file").write("responses", "k", [ROW])


def test_what_lies_in_a_folder_chooses_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(FolderStore):
        """Files at the place that a file names."""

        def __init__(self, root: Path) -> None:
            super().__init__(Path(root.read_text()))

    monkeypatch.setitem(STORES, "store.url", Elsewhere)
    open_store(tmp_path / "new").write("responses", "k", [ROW])
    assert (tmp_path / "new" / "store" / "responses").is_dir()
    (tmp_path / "store.url").write_text(str(tmp_path / "far"))
    open_store(tmp_path).write("responses", "k", [ROW])
    assert FolderStore(tmp_path / "far").read("responses", "k") == [{**ROW, "key": "k"}]


def _count(root: Path, n: int) -> None:
    store = FolderStore(root)
    for _ in range(n):
        with store.claim("counter"):
            path = root / "count"
            path.write_text(str(int(path.read_text() if path.exists() else "0") + 1))


def test_a_claim_keeps_other_processes_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path, 50)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "100"
