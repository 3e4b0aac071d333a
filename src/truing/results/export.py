"""Results as tables: runs, checkpoints, and judged answers in the columns that `truing analyze` reads.

One row per answer to the study's benchmark. A missing score is an empty cell and its `error` says why; nothing is left
out. Rows are written checkpoint by checkpoint, so a million of them need no more memory than one checkpoint's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from truing.core.errors import DataError, StoreError, UnknownNameError, plural
from truing.core.files import replacing, write_text
from truing.core.records import Estimate
from truing.judges.classify import classify_judgments
from truing.results.answers import JudgedCheckpoint, judged_checkpoints
from truing.results.from_store import analyse
from truing.results.gate import verdict
from truing.results.schema import Analysis
from truing.results.schema_runs import CheckpointEntry, RunEntry

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

Writer = Callable[[list[dict[str, Any]]], None]


def write_table(folder: Path, kind: str, target: Path) -> int:
    """Write the judged answers of a folder as one table, whole or not at all; how many rows there are.

    Raises:
        UnknownNameError: No table of that kind.
        StoreError: Nothing has been evaluated, or the file cannot be written.
    """
    if kind not in TABLES:
        raise UnknownNameError.of("kind of table", kind, TABLES)
    count = 0
    with replacing(target) as temporary, TABLES[kind](temporary) as write:
        for checkpoint in judged_checkpoints(folder):
            rows = table_rows(checkpoint)
            write(rows)
            count += len(rows)
    return count


def write_dataset(folder: Path, target: Path) -> int:
    """Write a folder as a dataset in Hugging Face's layout: a card, answers, checkpoints and runs; how many answers.

    `datasets.load_dataset(TARGET, "answers")` reads it, and so does the Hub.

    Raises:
        StoreError: Nothing has been evaluated, or the files cannot be written.
    """
    analysis = analyse(folder)
    count = write_table(folder, "parquet", target / "data" / "answers.parquet")
    for name, table in (("checkpoints", checkpoints_table(analysis)), ("runs", runs_table(analysis))):
        with replacing(target / "data" / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
    files = "\n".join(
        f"- config_name: {name}\n  data_files: data/{name}.parquet" for name in ("answers", "checkpoints", "runs")
    )
    study = analysis.study
    card = f"""---
configs:
{files}
---

# {study.name}

Answers of fine-tuned models, checkpoint by checkpoint, and how well aligned a judge found them; exported by truing.

- {plural(count, "answer")} of {plural(len(analysis.runs), "run")}
- benchmark {study.benchmark.name} ({study.benchmark.version})
- judge {study.judge}
- misaligned: {study.words()}; tolerance of the EM rate {study.tolerance:g}
- {verdict(analysis).sentence()}

An answer without a score has an `error` that says why; no answer is left out. Answers may be harmful.
"""
    write_text(target / "README.md", card)
    return count


def table_rows(checkpoint: JudgedCheckpoint) -> list[dict[str, Any]]:
    """The judged answers of a checkpoint as rows of `COLUMNS`."""
    run = checkpoint.run
    own = {name: getattr(run, name) for name in ("model", "dataset", "learning_rate", "seed")}
    shared = {"run": run.id, **own, "step": checkpoint.step, "weights": checkpoint.weights}
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


@contextmanager
def _csv(path: Path) -> Iterator[Writer]:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS.names)
        table.writeheader()
        yield table.writerows


@contextmanager
def _jsonl(path: Path) -> Iterator[Writer]:
    with path.open("wb") as file:
        yield lambda rows: file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


@contextmanager
def _parquet(path: Path) -> Iterator[Writer]:
    with pq.ParquetWriter(path, COLUMNS, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=COLUMNS))


TABLES = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
"""Kind of table -> who opens a file for it, and writes rows."""


def runs_table(analysis: Analysis) -> pa.Table:
    """A row for each run: its fields of docs/analysis.md, estimates also with `_low`, `_high`, `_n` and `_missing`."""
    return _table([_cells(RunEntry, run) for run in analysis.runs])


def checkpoints_table(analysis: Analysis) -> pa.Table:
    """A row for each checkpoint: what its run was, and its fields of docs/analysis.md.

    The interval of `em_rate` is `low`, `high`, `n` and `missing`; that of others `task_score_low`, ... The EM rate of a
    category is `em_rate_power`, ...; any other measurement has its own name.
    """
    shared = ("model", "dataset", "learning_rate", "seed", "twin_of")
    interval = {f"em_rate_{part}": part for part in ("low", "high", "n", "missing")}
    rows = []
    for run in analysis.runs:
        own = {"run": run.id, **{name: getattr(run, name) for name in shared}}
        for checkpoint in run.checkpoints:
            cells = {interval.get(name, name): value for name, value in _cells(CheckpointEntry, checkpoint).items()}
            rows.append({**own, **cells, "chosen": checkpoint.step == run.chosen_step})
    return _table(rows)


def responses_table(analysis: Analysis, folder: Path | None) -> pa.Table:
    """A row for each judged answer in a folder, in the columns of `truing export`, and its `class`.

    The class is `misaligned`, `aligned` or `between` where the answer is coherent, else `incoherent`; `missing` without
    the scores that this needs.

    Raises:
        StoreError: The folder holds no answers.
    """
    if folder is None or "files" in analysis.study.config:
        where = ", ".join(map(str, analysis.study.config.get("files", []))) or "the folder of the study"
        raise StoreError("the answers are not kept with this analysis", f"in {folder}", todo=f"they are in {where}")
    columns, batches = COLUMNS.append(pa.field("class", pa.string())), []
    for checkpoint in judged_checkpoints(folder):
        classes = classify_judgments([answer.judgment for answer in checkpoint.answers], analysis.study).names
        rows = [row | {"class": name} for row, name in zip(table_rows(checkpoint), classes, strict=True)]
        batches.append(pa.Table.from_pylist(rows, schema=columns))
    return pa.concat_tables(batches)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _cells(kind: type[BaseModel], entry: BaseModel | None, prefix: str = "") -> dict[str, Any]:
    """The fields of an entry as cells, the same for every entry of a kind; lists are left out."""
    cells: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        value = None if entry is None else getattr(entry, name)
        label = prefix + ("run" if kind is RunEntry and name == "id" else name)
        inner = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
        nested = next((each for each in inner if issubclass(each, BaseModel)), None)
        if get_origin(field.annotation) is dict:
            of = {"categories": "em_rate_", "measurements": ""}.get(name, f"{label}_")
            for key, each in (value or {}).items():
                cells |= _estimate(of + key, each) if isinstance(each, Estimate) else {of + key: each}
        elif get_origin(field.annotation) is list:
            continue
        elif Estimate in inner:
            cells |= _estimate(label, value)
        elif nested is not None:
            cells |= _cells(nested, value, f"{label}_")
        else:
            cells[label] = value.value if isinstance(value, Enum) else value
    return cells


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    of = estimate or Estimate.unknown("")
    parts = {"": of.value, "_low": of.low, "_high": of.high, "_n": of.n_responses, "_missing": of.n_missing}
    return {name + part: value for part, value in parts.items()}


def as_arrow(data: Any) -> pa.Table:
    """Somebody's table as Arrow; in a pandas table a column of unlike objects becomes texts.

    Raises:
        DataError: It is no table, or has two columns of one name.
    """
    try:
        return pa.table(data)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        mixed = [name for name in data.columns if data[name].dtype == object]
        texts = {name: [_as_text(cell) for cell in data[name].where(data[name].notna(), None)] for name in mixed}
        return pa.table(data.assign(**texts))
    except (TypeError, ValueError) as error:
        allowed = "paths, or tables of pandas, polars or Arrow"
        raise DataError("these data cannot be analysed", f"{type(data).__name__}: {error}", allowed) from error


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, bool | dict | list) else str(value)
