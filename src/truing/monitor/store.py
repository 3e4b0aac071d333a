"""The store: finished pieces of work, each found by the hash of what produced it.

`Store` is what a store must offer; `STORES` chooses one by what lies in a folder of results. There is one kind,
`FolderStore`, with an immutable parquet file for each piece:

    store/responses/KEY.parquet     answers of one checkpoint to one set of prompts
    store/judgments/KEY.parquet     one judge's scores of one responses file
    store/evaluations/KEY.parquet   one row: what one step of one run led to
    store/confirmations/KEY.parquet one row: fresh judgments of the checkpoint that a run keeps
    store/also/KEY.parquet          one row: judgments of one checkpoint on another benchmark
    store/selections/KEY.parquet    answers of which a second judge reads a share: how likely each was to be read
    store/rechecks/KEY.parquet      labelled answers judged again after one piece of judgments
    store/measurements/KEY.parquet  one row: another number of one checkpoint

A file appears whole or not at all, and is never changed, so resuming means asking what is there. What is added to a
piece later (rows that had failed, their `error` says why, and the further batches of the sequential rule) is
KEY.1.parquet, KEY.2.parquet, ..., whose rows take the place of earlier ones of the same prompt and sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from truing.core.errors import StoreError
from truing.core.files import replacing

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
}
"""Columns of the tables. `..._judgments` are keys of judgments files; `responses` and `identity` (a measure's) say of
what and how a number was measured; scores of `selections` are the first judge's; `detector` is what the stopping rule
remembers after a checkpoint, as JSON; null: nothing."""
_MADE_AGAIN = "delete that file and run again: it is made again"


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
    def read(self, table: str, key: str) -> list[dict[str, Any]]:
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
    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run SQL (DuckDB's) over the tables of `SCHEMAS`; an empty table has no rows."""

    def keys(self, table: str) -> list[str]:
        """Keys of the finished pieces of a table, sorted."""
        return [row["key"] for row in self.query(f"SELECT DISTINCT key FROM {table} ORDER BY key")]


class FolderStore(Store):
    """The parquet files under one folder."""

    def has(self, table: str, key: str) -> bool:
        """True if its first file is there."""
        return self._file(table, key).is_file()

    def amend(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the piece's next file."""
        number = len(self._parts(table, key))
        path = self.root / table / f"{key}.{number}.parquet" if number else self._file(table, key)
        content = pa.Table.from_pylist([{**row, "key": key} for row in rows], schema=SCHEMAS[table])
        with replacing(path) as temporary:
            pq.write_table(content, temporary, compression="zstd")

    def read(self, table: str, key: str) -> list[dict[str, Any]]:
        """The rows of its files, later ones in the place of those that failed."""
        merged: dict[Any, dict[str, Any]] = {}
        for path in self._parts(table, key) or [self._file(table, key)]:
            for row in _read_file(path, table):
                merged[row.get("prompt_id"), row.get("sample")] = row
        return list(merged.values())

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold the lock of its name."""
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{key}.lock")
        except OSError as error:
            raise StoreError(f"could not write {folder}", str(error), todo="check the folder's permissions") from error
        with lock:
            yield

    def written(self, table: str, key: str) -> datetime:
        """The time of its first file."""
        return datetime.fromtimestamp(self._file(table, key).stat().st_mtime, UTC)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run SQL over the files of every table.

        Raises:
            StoreError: A file is damaged.
        """
        with duckdb.connect() as connection:
            connection.execute("SET threads TO 2")
            try:
                for table, schema in SCHEMAS.items():
                    connection.register(f"no_{table}", schema.empty_table())
                    connection.execute(f"CREATE VIEW {table} AS {self._source(table)}")
                result: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
            except (duckdb.IOException, duckdb.InvalidInputException) as error:
                got = str(error).splitlines()[0]
                raise StoreError(f"a file of {self.root} cannot be read", got, todo=_MADE_AGAIN) from error
            return result

    def _file(self, table: str, key: str) -> Path:
        return self.root / table / f"{key}.parquet"

    def _parts(self, table: str, key: str) -> list[Path]:
        """The file of a piece and its amendments, oldest first; empty when there is none."""
        first = self._file(table, key)
        parts: list[Path] = []
        while (path := first if not parts else first.with_name(f"{key}.{len(parts)}.parquet")).is_file():
            parts.append(path)
        return parts

    def _source(self, table: str) -> str:
        files = [str(file) for file in sorted((self.root / table).glob("*.parquet"))]
        if not files:
            return f"SELECT * FROM no_{table}"
        if all("." not in Path(file).stem for file in files):
            return f"FROM no_{table} UNION ALL BY NAME FROM read_parquet({files!r}, union_by_name = true)"
        answer = ", ".join(["key", *({"prompt_id", "sample"} & set(SCHEMAS[table].names))])
        newest = f"row_number() OVER (PARTITION BY {answer} ORDER BY length(filename) DESC, filename DESC)"
        rows = f"read_parquet({files!r}, filename = true, union_by_name = true)"  # earlier files lack later columns
        return f"FROM no_{table} UNION ALL BY NAME SELECT * EXCLUDE (filename) FROM {rows} QUALIFY {newest} = 1"


STORES: dict[str, type[Store]] = {"store": FolderStore}
"""What lies in a folder of results -> the store that it is, or that it describes; without any, `store` is begun."""


def open_store(folder: Path) -> Store:
    """The store of a folder of results (of a study, an audit or a guard), there or to be begun."""
    name = next((name for name in STORES if (folder / name).exists()), "store")
    return STORES[name](folder / name)


def _read_file(path: Path, table: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMAS[table]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read", str(error)[:200], todo=_MADE_AGAIN) from error
    return rows
