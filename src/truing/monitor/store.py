"""The store: one immutable parquet file per finished piece of work, found by the hash of what produced it.

    store/responses/KEY.parquet     answers of one checkpoint to one set of prompts
    store/judgments/KEY.parquet     one judge's scores of one responses file
    store/evaluations/KEY.parquet   one row: what one step of one run led to
    store/confirmations/KEY.parquet one row: fresh judgments of the checkpoint that a run keeps
    store/also/KEY.parquet          one row: judgments of one checkpoint on another benchmark

A file appears whole or not at all, and is never changed, so resuming means asking what is there. What is added to a
piece later (rows that had failed, their `error` says why, and the further batches of the sequential rule) is
KEY.1.parquet, KEY.2.parquet, ..., whose rows take the place of earlier ones of the same prompt and sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from truing.core.errors import StoreError
from truing.core.files import replacing

__all__ = ["SCHEMAS", "Store"]

_ESTIMATE = pa.struct(
    [
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n_prompts", pa.int64()),
        ("n_responses", pa.int64()),
        ("n_missing", pa.int64()),
        ("method", pa.string()),
        ("reason", pa.string()),
    ]
)
SCHEMAS: dict[str, pa.Schema] = {
    "responses": pa.schema(
        [
            ("key", pa.string()),
            ("prompt_id", pa.string()),
            ("sample", pa.int32()),
            ("text", pa.string()),
            ("n_tokens", pa.int32()),
            ("finished", pa.bool_()),
            ("error", pa.string()),
        ]
    ),
    "judgments": pa.schema(
        [
            ("key", pa.string()),
            ("responses_key", pa.string()),
            ("prompt_id", pa.string()),
            ("sample", pa.int32()),
            ("aligned", pa.float64()),
            ("coherent", pa.float64()),
            ("verdict", pa.string()),
            ("error", pa.string()),
        ]
    ),
    "evaluations": pa.schema(
        [
            ("key", pa.string()),
            ("run_id", pa.string()),
            ("step", pa.int64()),
            ("weights", pa.string()),
            ("benchmark_judgments", pa.string()),
            ("task_judgments", pa.string()),
            ("em_rate", _ESTIMATE),
            ("coherent_rate", _ESTIMATE),
            ("task_score", _ESTIMATE),
            ("train_loss", pa.float64()),
            ("heldout_loss", pa.float64()),
            ("decision", pa.string()),
            ("reason", pa.string()),
            ("detector", pa.string()),
        ]
    ),
    "confirmations": pa.schema(
        [
            ("key", pa.string()),
            ("run_id", pa.string()),
            ("step", pa.int64()),
            ("benchmark_judgments", pa.string()),
            ("task_judgments", pa.string()),
            ("best_judgments", pa.string()),
        ]
    ),
    "also": pa.schema(
        [
            ("key", pa.string()),
            ("run_id", pa.string()),
            ("step", pa.int64()),
            ("benchmark", pa.string()),
            ("judgments", pa.string()),
        ]
    ),
}
"""Columns of the tables. `..._judgments` are keys of judgments files; `detector` is the state of the sequential rule
after a checkpoint as JSON, null with the fixed rule."""


class Store:
    """The parquet files under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, table: str, key: str) -> bool:
        """Whether a piece of work is finished."""
        return self._file(table, key).is_file()

    def write(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one finished piece; the column `key` is filled in. A piece that exists is left as it is.

        Raises:
            StoreError: The disk is full or the folder cannot be written.
        """
        if self.has(table, key):
            return
        self._write(self._file(table, key), table, key, rows)

    def amend(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to a piece; they take the place of earlier ones of the same prompt and sample.

        Raises:
            StoreError: The disk is full or the folder cannot be written.
        """
        number = len(self._parts(table, key))
        self._write(self.root / table / f"{key}.{number}.parquet", table, key, rows)

    def read(self, table: str, key: str) -> list[dict[str, Any]]:
        """The rows of one piece, amended ones in the place of those that failed.

        Raises:
            StoreError: The piece is missing or damaged.
        """
        merged: dict[Any, dict[str, Any]] = {}
        for path in self._parts(table, key) or [self._file(table, key)]:
            for row in _read_file(path, table):
                merged[row.get("prompt_id"), row.get("sample")] = row
        return list(merged.values())

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold a piece of work: another process that claims it waits until this one is done (or dead)."""
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{key}.lock")
        except OSError as error:
            raise StoreError(f"could not write {folder}", str(error), todo="check the folder's permissions") from error
        with lock:
            yield

    def keys(self, table: str) -> list[str]:
        """Keys of the finished pieces of a table, sorted."""
        return sorted(file.stem for file in (self.root / table).glob("*.parquet") if "." not in file.stem)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run SQL over the tables of `SCHEMAS`; an empty table has no rows."""
        with duckdb.connect() as connection:
            connection.execute("SET threads TO 2")
            for table, schema in SCHEMAS.items():
                connection.register(f"no_{table}", schema.empty_table())
                connection.execute(f"CREATE VIEW {table} AS {self._source(table)}")
            result: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
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
            return f"SELECT * FROM read_parquet({files!r})"
        newest = "row_number() OVER (PARTITION BY key, prompt_id, sample ORDER BY length(filename) DESC, filename DESC)"
        return f"SELECT * EXCLUDE (filename) FROM read_parquet({files!r}, filename = true) QUALIFY {newest} = 1"

    def _write(self, path: Path, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        content = pa.Table.from_pylist([{**row, "key": key} for row in rows], schema=SCHEMAS[table])
        with replacing(path) as temporary:
            pq.write_table(content, temporary, compression="zstd")


def _read_file(path: Path, table: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMAS[table]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} cannot be read", str(error)[:200], todo="delete that file and run again: it is made anew"
        ) from error
    return rows
