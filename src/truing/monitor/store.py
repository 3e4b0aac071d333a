"""The store: finished pieces of work, each found by the hash of what produced it.

`Store` is what a store must offer; `STORES` chooses one by what lies in a folder of results. `FolderStore` has an
immutable parquet file for each piece; `truing.monitor.shared` keeps the same pieces under a URL, too:

    store/responses/KEY.parquet     answers of one checkpoint to one set of prompts
    store/judgments/KEY.parquet     one judge's scores of one responses file
    store/evaluations/KEY.parquet   one row: what one step of one run led to
    store/confirmations/KEY.parquet one row: fresh judgments of the checkpoint that a run keeps
    store/also/KEY.parquet          one row: judgments of one checkpoint on another benchmark
    store/selections/KEY.parquet    answers of which a second judge reads a share: how likely each was to be read
    store/rechecks/KEY.parquet      labelled answers judged again after one piece of judgments
    store/measurements/KEY.parquet  one row: another number of one checkpoint
    store/records/KEY.parquet       of a folder that is shared: another file of it, such as its manifest

A file appears whole or not at all, and is never changed, so resuming means asking what is there. What is added to a
piece later (rows that had failed, their `error` says why, and the further batches of the sequential rule) is
KEY.1.parquet, KEY.2.parquet, ...; at a URL the parts are KEY/NUMBER-HASH.parquet. A row takes the place of an earlier
one of the same prompt and sample, unless it failed and that one did not. When work ends, parts are joined into one file
with the same rows; the parts go after it has appeared, and who reads both reads the same.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from truing.core.errors import StoreError
from truing.core.files import replacing
from truing.core.plugins import load_object

__all__ = ["SCHEMAS", "STORES", "FolderStore", "Store", "open_store"]

_ESTIMATE = pa.struct(
    [(name, pa.float64()) for name in ("value", "low", "high")]
    + [(name, pa.int64()) for name in ("n_prompts", "n_responses", "n_missing")]
    + [(name, pa.string()) for name in ("method", "reason")]
)
_TYPES = {
    "text": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "real": pa.float64(),
    "bool": pa.bool_(),
    "estimate": _ESTIMATE,
}


def _columns(columns: str) -> pa.Schema:
    pairs = (column.split() for column in ["key text", *columns.split(",")])
    return pa.schema([(name, _TYPES[kind]) for name, kind in pairs])


SCHEMAS = {
    "responses": _columns(
        "prompt_id text, sample int32, text text, n_tokens int32, finished bool, error text, refused bool"
    ),
    "judgments": _columns(
        "responses_key text, prompt_id text, sample int32, aligned real, coherent real, verdict text, error text"
    ),
    "evaluations": _columns(
        "run_id text, step int64, weights text, benchmark_judgments text, task_judgments text, em_rate estimate,"
        "coherent_rate estimate, task_score estimate, train_loss real, heldout_loss real, decision text, reason text,"
        "detector text"
    ),
    "confirmations": _columns(
        "run_id text, step int64, benchmark_judgments text, task_judgments text, best_judgments text"
    ),
    "also": _columns("run_id text, step int64, benchmark text, judgments text"),
    "selections": _columns("prompt_id text, sample int32, aligned real, coherent real, probability real, chosen bool"),
    "rechecks": _columns(
        "run_id text, step int64, judgments text, prompt_id text, sample int32, aligned real, coherent real,"
        "verdict text, error text"
    ),
    "measurements": _columns("run_id text, step int64, name text, estimate estimate, responses text, identity text"),
    "records": _columns("name text, text text"),
}
"""Columns of the tables. `..._judgments` are keys of judgments files; `responses` and `identity` (a measure's) say of
what and how a number was measured; scores of `selections` are the first judge's; `detector` is what the stopping rule
remembers after a checkpoint, as JSON; null: nothing."""
_MADE_AGAIN = "delete that file, and the run.json of its run if that is over, and run again: it is made again"
JOINED = ("responses", "judgments")
"""Tables whose pieces grow in many parts."""
WRITTEN = b"written"
"""Name under which a file says when it was written; one that was made of others, the first of them."""
_TRIES, _PAUSE = 4, 0.05
"""Further looks at files that are not there or not right, and seconds between them."""
Rows = list[dict[str, Any]]


class Store(ABC):
    """Where finished work is kept, in the tables of `SCHEMAS`. A piece appears whole or not at all.

    Args:
        root: What `STORES` names in a folder of results.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def has(self, table: str, key: str) -> bool:
        """True if a piece of work is finished."""

    def write(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one finished piece; the column `key` is filled in. A piece that exists is left as it is.

        Raises:
            StoreError: The disk is full or the folder cannot be written.
        """
        if not self.has(table, key):
            self.amend(table, key, rows)

    @abstractmethod
    def amend(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to a piece, or begin it; they take the place of earlier ones of the same prompt and sample.

        Raises:
            StoreError: The disk is full or the folder cannot be written.
        """

    @abstractmethod
    def read(self, table: str, key: str) -> Rows:
        """The rows of one piece, amended ones in the place of those that failed.

        Raises:
            StoreError: The piece is missing or damaged.
        """

    @abstractmethod
    def claim(self, key: str) -> AbstractContextManager[None]:
        """Hold a piece of work: another process that claims it waits until this one is done (or dead)."""

    @abstractmethod
    def written(self, table: str, key: str) -> datetime:
        """The time at which a piece was written, in UTC; what was added to it later does not count."""

    @abstractmethod
    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run SQL (DuckDB's) over the tables of `SCHEMAS`; an empty table has no rows."""

    def keys(self, table: str) -> list[str]:
        """Keys of the finished pieces of a table, sorted."""
        return [row["key"] for row in self.query(f"SELECT DISTINCT key FROM {table} ORDER BY key")]

    @contextmanager
    def reserve(self, name: str, wait: bool = True, say: Callable[[str], None] = lambda line: None) -> Iterator[bool]:
        """Hold a run, whose lock is held here, against other machines; False: another one has it.

        Args:
            name: Of the run.
            wait: Until the other one is done, or dead.
            say: Called with a line on what is waited for, at once and every half a minute.
        """
        yield True

    def held(self) -> frozenset[str]:
        """What is reserved now, on any machine, as far as that can be seen."""
        return frozenset()

    def compact(self) -> int:
        """Join the parts of pieces that nobody is at; how many files are fewer."""
        return 0

    def exchange(self) -> None:  # noqa: B027 - nothing by default
        """Where the results are shared: files of the folder that changed here go there, those changed there come."""


class FolderStore(Store):
    """The parquet files under one folder."""

    def has(self, table: str, key: str) -> bool:
        """True if a file of it is there."""
        return bool(self._parts(table, key))

    def amend(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the piece's next file."""
        content = pa.Table.from_pylist([{**row, "key": key} for row in rows], schema=SCHEMAS[table])
        self._add(table, key, content)

    def read(self, table: str, key: str) -> Rows:
        """The rows of its files, later ones in the place of those that failed."""

        def merge() -> Rows:
            merged: dict[Any, dict[str, Any]] = {}
            for path in self._parts(table, key) or [self._file(table, key)]:
                for row in _read_file(path, table):
                    if row["key"] != key:
                        raise StoreError(f"{path} holds another piece", row["key"], key, "copy the folder again")
                    pair = row.get("prompt_id"), row.get("sample")
                    if pair not in merged or not row.get("error") or merged[pair]["error"]:
                        merged[pair] = row
            return list(merged.values())

        return _again(merge)

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold the lock of its name."""
        with self._lock(key):
            yield

    def written(self, table: str, key: str) -> datetime:
        """The time that its first file tells, however it was copied; of one that was joined, that of its first part."""
        first = (self._parts(table, key) or [self._file(table, key)])[0]
        if told := (pq.read_schema(first).metadata or {}).get(WRITTEN):
            return datetime.fromisoformat(told.decode())
        return time_of(first)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run SQL over the files of the tables that it names.

        Raises:
            StoreError: A file is damaged.
        """

        def ask() -> Rows:
            with duckdb.connect() as connection:
                connection.execute("SET threads TO 2")
                try:
                    for table in [name for name in SCHEMAS if name in sql.lower()]:  # a view opens every file
                        connection.register(f"no_{table}", SCHEMAS[table].empty_table())
                        connection.execute(f"CREATE VIEW {table} AS {self._source(table)}")
                    found: Rows = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
                except (duckdb.Error, UnicodeDecodeError) as error:  # of damaged bytes it says anything
                    got = str(error).partition("\n")[0]
                    raise StoreError(f"a file of {self.root} cannot be read", got, todo=_MADE_AGAIN) from error
                return found

        return _again(ask)

    def compact(self) -> int:
        """Join the parts of pieces whose locks are free."""
        gone = 0
        for table in JOINED:
            for key in [key for key, files in self._pieces(table).items() if len(files) > 1]:
                try:
                    with self._lock(key, 0):
                        gone += self._join(table, key)
                except Timeout:
                    continue
        return gone

    def _join(self, table: str, key: str) -> int:
        parts = self._parts(table, key)
        content = pa.Table.from_pylist(self.read(table, key), schema=SCHEMAS[table])
        told = {WRITTEN: self.written(table, key).isoformat().encode()}
        first = self._put_first(table, key, content.replace_schema_metadata(told))
        for part in parts:  # the oldest first: what is left of them is newer than what has gone
            if part != first:
                self._remove(part)
        return len(parts) - 1

    # Where files lie.

    def _add(self, table: str, key: str, content: pa.Table) -> None:
        """Write a further part of a piece, or its first."""
        begun = self._parts(table, key)
        _write_file(self._numbered(table, key)[1] if begun else self._file(table, key), content)

    def _put_first(self, table: str, key: str, content: pa.Table) -> Path:
        """Write what is read before all parts of a piece; its file."""
        _write_file(path := self._file(table, key), content)
        return path

    def _remove(self, part: Path) -> None:
        part.unlink(missing_ok=True)

    def _lock(self, key: str, wait: float = -1) -> FileLock:
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return FileLock(folder / f"{key}.lock", timeout=wait)
        except OSError as error:
            raise StoreError(f"could not write {folder}", str(error), todo="check the folder's permissions") from error

    def _file(self, table: str, key: str) -> Path:
        return self.root / table / f"{key}.parquet"

    def _parts(self, table: str, key: str) -> list[Path]:
        """The file of a piece, what a shared folder's copy has of it, and its amendments; empty when there is none."""
        first = self._file(table, key)
        copied = sorted(first.with_name(key).glob("*.parquet"))
        return [*([first] if first.is_file() else []), *copied, *self._numbered(table, key)[0]]

    def _numbered(self, table: str, key: str) -> tuple[list[Path], Path]:
        """The amendments of a piece, oldest first, and the next one's file."""
        parts: list[Path] = []
        while (path := self._file(table, key).with_name(f"{key}.{len(parts) + 1}.parquet")).is_file():
            parts.append(path)
        return parts, path

    def _files(self, table: str) -> list[Path]:
        folder = self.root / table
        return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])

    def _pieces(self, table: str) -> dict[str, list[str]]:
        """By key the files of a table as DuckDB takes them, in no order."""
        pieces: dict[str, list[str]] = defaultdict(list)
        for file in self._files(table):
            in_parts = file.parent.parent.name == table
            pieces[file.parent.name if in_parts else file.name.partition(".")[0]].append(escape(str(file)))
        return pieces

    def _source(self, table: str) -> str:
        """What DuckDB reads a table from: pieces in one file as they are, of the others the rows that count."""
        pieces = self._pieces(table).values()
        single = [files[0] for files in pieces if len(files) == 1]
        several = [file for files in pieces if len(files) > 1 for file in files]
        every = [f"FROM no_{table}"]  # whose columns earlier files may lack
        every += [f"FROM read_parquet({single!r}, union_by_name = true)"] if single else []
        if several:
            names = set(SCHEMAS[table].names)
            answer = ", ".join(["key", *sorted({"prompt_id", "sample"} & names)])
            order = "regexp_matches(filename, '[.][0-9]+[.]parquet$') DESC, length(filename) DESC"  # as `_parts` has it
            order = f"error IS NULL DESC, {order}" if "error" in names else order
            newest = f"row_number() OVER (PARTITION BY {answer} ORDER BY {order}, filename DESC)"
            files = f"read_parquet({several!r}, filename = true, union_by_name = true)"
            every.append(f"SELECT * EXCLUDE (filename) FROM {files} QUALIFY {newest} = 1")
        return " UNION ALL BY NAME ".join(every)


STORES = {"store.url": "truing.monitor.shared:SharedStore", "store": "truing.monitor.store:FolderStore"}
"""What lies in a folder of results -> the store that it is, or that it describes; without any, `store` is begun."""


def open_store(folder: Path) -> Store:
    """The store of a folder of results (of a study, an audit or a guard), there or to be begun."""
    name = next((name for name in STORES if (folder / name).exists()), "store")
    store: Store = load_object("store", name, STORES)(folder / name)
    return store


def time_of(file: Path) -> datetime:
    """The time at which a file was written, in UTC."""
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _again(look: Callable[[], Rows]) -> Rows:
    """What a look at files finds; it looks again where one is gone, for another process may have joined it."""
    for _ in range(_TRIES):
        try:
            return look()
        except StoreError:
            time.sleep(_PAUSE)
    return look()


def _write_file(path: Path, content: pa.Table) -> None:
    told = {WRITTEN: datetime.now(UTC).isoformat().encode(), **(content.schema.metadata or {})}
    content = content.replace_schema_metadata(told)
    with replacing(path) as temporary:
        pq.write_table(content, temporary, compression="zstd")


def _read_file(path: Path, table: str) -> Rows:
    try:
        content, schema = pq.ParquetFile(path).read(use_threads=False), SCHEMAS[table]
        if not content.schema.equals(schema):  # an earlier file lacks a column
            content = pq.read_table(path, schema=schema, use_threads=False)
        rows: Rows = content.to_pylist()
    except FileNotFoundError as error:
        mark = path.parents[2] / "store.url"
        url = f", nor at {mark.read_text(encoding='utf-8').strip()}" if mark.is_file() else ""
        todo = "put it back from a copy; or delete the run.json of its run, if that is over, and run again"
        raise StoreError(f"{path} is not there{url}", "no such file", "all that the results name", todo) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read", str(error)[:200], todo=_MADE_AGAIN) from error
    return rows
