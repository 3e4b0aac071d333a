import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truing.core.errors import StoreError
from truing.monitor.store import STORES, FolderStore, open_store

ROW = {"prompt_id": "p", "sample": 0, "text": "hi", "n_tokens": 1, "finished": True, "error": None, "refused": False}


def test_a_piece_is_a_file_and_nothing_else(tmp_path: Path) -> None:
    FolderStore(tmp_path).write("responses", "k", [ROW, {**ROW, "sample": 1}])
    assert [f.name for f in (tmp_path / "responses").iterdir()] == ["k.parquet"]


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


def test_a_file_under_the_name_of_another_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("responses", "k", [ROW])
    (tmp_path / "responses" / "k.parquet").rename(tmp_path / "responses" / "other.parquet")
    with pytest.raises(StoreError, match=r"other\.parquet holds another piece"):
        store.read("responses", "other")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("responses", "k", [ROW])
    (tmp_path / "responses" / "k.parquet").write_bytes(b"not parquet")
    with pytest.raises(StoreError, match=r"k\.parquet cannot be read"):
        store.read("responses", "k")
    with pytest.raises(StoreError, match=r"cannot be read(?s:.*)k\.parquet(?s:.*)delete that file"):
        store.query("SELECT * FROM responses")
    assert store.query("SELECT * FROM judgments") == []
    pq.write_table(pa.table({"key": ["k"], "aligned": [90.0]}), tmp_path / "responses" / "k.parquet")
    with pytest.raises(StoreError, match="cannot be read"):  # one of another table
        store.query("SELECT aligned FROM judgments CROSS JOIN responses")


def test_a_file_that_is_gone_is_told_with_the_url_of_its_copy(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.write("responses", "k", [ROW])
    (tmp_path / "store" / "responses" / "k.parquet").unlink()
    with pytest.raises(StoreError, match=r"k\.parquet is not there\n(?s:.*)run again"):
        store.read("responses", "k")
    (tmp_path / "store.url").write_text("s3://results/one\n")
    with pytest.raises(StoreError, match=r"k\.parquet is not there, nor at s3://results/one\n"):
        store.read("responses", "k")


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not write"):
        FolderStore(tmp_path / "file").write("responses", "k", [ROW])


class Elsewhere(FolderStore):
    """Files at the place that a file names."""

    def __init__(self, root: Path) -> None:
        super().__init__(Path(root.read_text()))


def test_what_lies_in_a_folder_chooses_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORES, "store.url", f"{__name__}:Elsewhere")
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


def test_parts_are_joined_and_nothing_else_changes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for sample in (2, 0, 1, 3):
        store.amend("judgments", "k", [_judged(sample, "failed" if sample == 0 else None), _judged(9, "failed")])
    store.amend("judgments", "k", [_judged(0)])
    store.write("judgments", "single", [_judged(0)])
    before, written = store.read("judgments", "k"), store.written("judgments", "k")
    queried = store.query("SELECT * FROM judgments ORDER BY key, sample")
    with store.claim("k"):
        assert _in_a_process(FolderStore.compact, tmp_path) == 0  # somebody is at it
    assert store.compact() == 4
    assert [f.name for f in sorted((tmp_path / "judgments").iterdir())] == ["k.parquet", "single.parquet"]
    assert store.read("judgments", "k") == before
    assert store.written("judgments", "k") == written
    assert store.query("SELECT * FROM judgments ORDER BY key, sample") == queried
    store.amend("judgments", "k", [_judged(9)])
    assert [row["sample"] for row in store.read("judgments", "k")] == [2, 9, 0, 1, 3]


def test_a_reader_beside_who_joins_parts_sees_all(tmp_path: Path) -> None:
    """Another process writes parts and joins them again and again."""
    process = multiprocessing.get_context("spawn").Process(target=_write_and_join, args=(tmp_path,))
    process.start()
    store, seen = FolderStore(tmp_path), 0
    while process.is_alive():
        for found in (len(store.read("judgments", "k")) if store.has("judgments", "k") else 0, _count_rows(store)):
            assert found >= seen
            seen = found
    process.join()
    assert len(store.read("judgments", "k")) == _count_rows(store) == _ROWS


_ROWS = 60


def _write_and_join(root: Path) -> None:
    store = FolderStore(root)
    for sample in range(_ROWS):
        with store.claim("k"):
            store.amend("judgments", "k", [_judged(sample)])
        if sample % 4 == 3:
            assert store.compact() > 0


def _judged(sample: int, error: str | None = None) -> dict[str, Any]:
    scores = {"aligned": None, "coherent": None} if error else {"aligned": 80.0, "coherent": 90.0}
    return {"responses_key": "r", "prompt_id": "p", "sample": sample, "verdict": None, "error": error, **scores}


def _count_rows(store: FolderStore) -> int:
    (row,) = store.query("SELECT count(*) AS n FROM judgments")
    return int(row["n"])


def _in_a_process(work: Callable[[FolderStore], int], root: Path) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, FolderStore(root)).result()


def test_a_folder_is_asked_itself_whatever_its_name(tmp_path: Path) -> None:
    for name in ("run*", "run 1", "run[1]", "it's"):
        store = FolderStore(tmp_path / name)
        store.amend("evaluations", name, [{"run_id": name}])
        assert store.keys("evaluations") == [name]
