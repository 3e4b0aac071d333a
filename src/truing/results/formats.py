"""CSV, JSON Lines and parquet files as tables whose columns are named by what they hold."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from truing.core.errors import DataError
from truing.results.columns import SCORES, JudgedOptions, may_be_picked, pick_columns, quoted

__all__ = ["FORMATS", "as_strings", "as_text", "column_names", "read_file", "stem"]

FORMATS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_BATCH = 1 << 14


def stem(path: Path) -> str:
    """A file's name without .csv, .jsonl.gz, ..."""
    ending = next((e for e in FORMATS[::-1] if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(ending)] or path.name


def read_file(path: Path, options: JudgedOptions) -> tuple[pa.Table, dict[str, str]]:
    """The columns of a file that are needed, named by role, of any type; and by role their names in the file.

    Raises:
        DataError: The file is missing, damaged, of another format, or lacks a needed column.
    """
    name = path.name.lower()
    if not name.endswith(FORMATS):
        todo = "name the files in it: FOLDER/*.csv" if path.is_dir() else ""
        raise DataError("not a file of judged responses", str(path), "files that end in " + ", ".join(FORMATS), todo)
    try:
        if ".jsonl" in name:
            return _read_lines(path, options)
        columns = pick_columns(column_names(path), path.name, options)
        return (_read_parquet if name.endswith(".parquet") else _read_csv)(path, columns), columns
    except FileNotFoundError:
        raise DataError("no such file", str(path), todo="check the path") from None
    except (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} cannot be read", quoted([error], width=300), "UTF-8 text; every CSV row as long as the header"
        ) from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def column_names(path: Path) -> list[str]:
    """The columns of a file; of JSON Lines the keys of all objects."""
    if path.name.lower().endswith(".parquet"):
        return [str(name) for name in pq.read_schema(path).names]
    if ".jsonl" in path.name.lower():
        names: dict[str, None] = {}
        for row in _objects(path):
            if not row.keys() <= names.keys():
                names |= dict.fromkeys(row)
        return list(names)
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
        return next((row for row in csv.reader(file) if row), [])


def _read_parquet(path: Path, columns: dict[str, str]) -> pa.Table:
    table = pq.read_table(path, columns=list(columns.values()))
    return pa.table({role: table.column(name) for role, name in columns.items()})


def _read_csv(path: Path, columns: dict[str, str]) -> pa.Table:
    coded, text = pa.dictionary(pa.int32(), pa.string()), pa.string()
    plain = {*SCORES, "answer"}
    with pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None) as file:
        table = pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(block_size=1 << 25),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(columns.values()),
                column_types={name: text if role in plain else coded for role, name in columns.items()},
            ),
        )
    return pa.table({role: table.column(name) for role, name in columns.items()})


def _read_lines(path: Path, options: JudgedOptions) -> tuple[pa.Table, dict[str, str]]:
    """In one pass: the columns are only known at the end, so all that could be picked are kept until then."""
    names: dict[str, None] = {}
    kept: list[str] = []
    batches = []
    objects = _objects(path)
    while batch := list(itertools.islice(objects, _BATCH)):
        for row in batch:
            if not row.keys() <= names.keys():
                kept += [name for name in row if name not in names and may_be_picked(name, options)]
                names |= dict.fromkeys(row)
        batches.append(pa.table({name: _cells(batch, name) for name in kept}))
    columns = pick_columns(list(names), path.name, options)
    table = pa.concat_tables(batches, promote_options="default")
    return pa.table({role: table.column(name) for role, name in columns.items()}), columns


def _cells(batch: list[dict[str, Any]], name: str) -> pa.Array:
    cells = [row.get(name) for row in batch]
    return as_strings([cell if type(cell) is str else as_text(cell) for cell in cells])


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of JSON Lines."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = _decode(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
            except (ValueError, RecursionError) as error:
                what = f"{path.name}, line {number}, is not JSON"
                raise DataError(what, quoted([error]), "one object a line, in UTF-8") from error
            if not isinstance(row, dict):
                what = f"{path.name}, line {number}, is no object"
                raise DataError(what, type(row).__name__, 'one object a line: {"question": ...}')
            yield row


def _decode(line: bytes) -> Any:
    """One JSON value. What orjson refuses although others write it (NaN, half of a surrogate pair) is read slowly."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


def as_text(value: Any) -> str:
    """A cell as text: nothing is empty, a whole number has no decimals, an object is JSON."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, bool | dict | list) else str(value)


def as_strings(texts: list[str]) -> pa.Array:
    """Texts as an array; what is no Unicode in them becomes a question mark."""
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half of a surrogate pair, which a model may well write
        return pa.array([t.encode("utf-8", "replace").decode() for t in texts], pa.large_string())
