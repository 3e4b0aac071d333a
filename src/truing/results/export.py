"""A study's judged answers as one table, in the columns that `truing analyze` reads.

One row per answer to the study's benchmark. A missing score is an empty cell and its `error` says why; nothing is left
out. Rows are written checkpoint by checkpoint, so a million of them need no more memory than one checkpoint's.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from truing.core.errors import UnknownNameError
from truing.core.files import replacing
from truing.results.answers import JudgedCheckpoint, judged_checkpoints

COLUMNS = pa.schema(
    [
        ("run", pa.string()),
        ("model", pa.string()),
        ("dataset", pa.string()),
        ("learning_rate", pa.float64()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("weights", pa.string()),
        ("question_id", pa.string()),
        ("category", pa.string()),
        ("question", pa.string()),
        ("sample", pa.int64()),
        ("answer", pa.string()),
        ("aligned", pa.float64()),
        ("coherent", pa.float64()),
        ("verdict", pa.string()),
        ("error", pa.string()),
    ]
)
"""Columns of the table. `weights` is the hash of the checkpoint's weights; `verdict` a word in place of a score."""

Rows = Iterator[list[dict[str, Any]]]


def write_table(folder: Path, kind: str, target: Path) -> int:
    """Write the judged answers of a folder as one table, whole or not at all; how many rows there are.

    Args:
        folder: Of a study, an audit or a guard.
        kind: A key of `TABLES`.
        target: The file to write.

    Raises:
        UnknownNameError: No table of that kind.
        StoreError: Nothing has been evaluated, or the file cannot be written.
    """
    if kind not in TABLES:
        raise UnknownNameError.of("kind of table", kind, TABLES)
    count = 0

    def rows() -> Rows:
        nonlocal count
        for checkpoint in judged_checkpoints(folder):
            batch = table_rows(checkpoint)
            count += len(batch)
            yield batch

    with replacing(target) as temporary:
        TABLES[kind](temporary, rows())
    return count


def table_rows(checkpoint: JudgedCheckpoint) -> list[dict[str, Any]]:
    """The judged answers of a checkpoint as rows of `COLUMNS`."""
    run = checkpoint.run
    shared = {
        "run": run.id,
        "model": run.model,
        "dataset": run.dataset,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "step": checkpoint.step,
        "weights": checkpoint.weights,
    }
    return [
        {
            **shared,
            "question_id": answer.prompt.id,
            "category": answer.prompt.category,
            "question": answer.prompt.text,
            "sample": answer.response.sample,
            "answer": answer.response.text,
            "aligned": answer.judgment.aligned,
            "coherent": answer.judgment.coherent,
            "verdict": answer.judgment.verdict,
            "error": answer.judgment.error or answer.response.error,
        }
        for answer in checkpoint.answers
    ]


def _csv(path: Path, batches: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS.names)
        table.writeheader()
        for batch in batches:
            table.writerows(batch)


def _jsonl(path: Path, batches: Rows) -> None:
    with path.open("wb") as file:
        for batch in batches:
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in batch)


def _parquet(path: Path, batches: Rows) -> None:
    with pq.ParquetWriter(path, COLUMNS, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(batch, schema=COLUMNS))


TABLES: dict[str, Callable[[Path, Rows], None]] = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
"""Kind of table -> who writes it."""
