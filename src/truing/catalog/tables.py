"""Plain values in files of training data: JSON Lines, JSON, CSV, Parquet, Arrow, and folders of these.

A folder is one that Hugging Face's `save_to_disk` wrote, or one of data files, as on the hub. One split is read at a
time: a folder with several is refused until one is named, as `FOLDER/train`. What a file holds is read here;
what it means is said by `truing.catalog.rows`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from truing.catalog.files import read_csv, read_lines, read_text
from truing.core.errors import DataError
from truing.core.files import load_json

Values = Iterator[tuple[str, Any]]
"""Place (file and line, item or row) and value of each row."""
_SHARD = re.compile(r"(?<=.)-\d{5}-of-\d{5}\Z")
"""What follows the name of a split in that of one of its files."""


def read_table(path: Path) -> Values:
    """Place and value of each row of a file or folder; nothing is said of their form yet.

    Raises:
        DataError: It is not there, damaged, of no known kind, or holds several splits.
    """
    for file in data_files(path):
        yield from ENDINGS[ending(file)](file)


def ending(path: Path) -> str:
    """The ending of a file's name that tells its kind, without `.gz`; empty if it is of no known kind."""
    found = Path(path.name.lower().removesuffix(".gz")).suffix
    return found if found in ENDINGS else ""


def data_files(path: Path) -> Sequence[Path]:
    """The files of one split, in order.

    Raises:
        DataError: There are none, or several splits.
    """
    if path.is_file():
        if not ending(path):
            raise DataError(f"{path} is of no known kind", path.suffix or "no ending", ", ".join(ENDINGS))
        return [path]
    if path.is_dir():
        splits = _splits(path)
        if len(splits) == 1:
            return next(iter(splits.values()))
        if not splits:
            held = ", ".join(sorted(each.name for each in path.iterdir())[:8]) or "nothing"
            allowed = "a folder of save_to_disk, or of files: " + ", ".join(ENDINGS)
            raise DataError(f"{path} holds no data", held, allowed, "name a file")
        names = ", ".join(f"{path / name}" for name in splits)
        raise DataError(f"{path} holds several splits", names, "one split", "name one of these")
    if path.parent.is_dir():
        splits = _splits(path.parent)
        if path.name in splits:
            return splits[path.name]
    raise DataError("no such dataset file", str(path), "a file or folder of training data")


def _splits(folder: Path) -> dict[str, list[Path]]:
    """Split -> its files: those of the folder itself, of `data` in it, or of the folders that `save_to_disk` wrote."""
    if (folder / "dataset_dict.json").is_file():
        return {each.name: _arrow_files(each) for each in sorted(folder.iterdir()) if (each / "state.json").is_file()}
    if (folder / "state.json").is_file():
        return {folder.name: _arrow_files(folder)}
    if (folder / "data").is_dir() and not any(ending(file) for file in folder.iterdir() if _is_data(file)):
        folder = folder / "data"
    splits: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if _is_data(file):
            stem = file.name.lower().removesuffix(".gz").removesuffix(ending(file))
            splits.setdefault(_SHARD.sub("", stem), []).append(file)
    return splits


def _is_data(file: Path) -> bool:
    cards = ("dataset_info.json", "dataset_infos.json", "state.json", "config.json")
    return file.is_file() and bool(ending(file)) and file.name not in cards and not file.name.startswith(".")


def _arrow_files(folder: Path) -> list[Path]:
    try:
        listed = json.loads(read_text(folder / "state.json"))["_data_files"]
        files = [folder / Path(str(entry["filename"])).name for entry in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder / 'state.json'} names no data files", f"{type(error).__name__}: {error}") from error
    if lost := next((file for file in files if not file.is_file()), None):
        raise DataError(f"{lost} is not there", "state.json names it", "the whole folder of save_to_disk")
    return files


def _json(path: Path) -> Values:
    """A JSON array, a mapping with one list in it, or JSON Lines under another name."""
    text = read_text(path)
    try:
        value = load_json(text)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":
            yield from read_lines(path)  # one object a line
            return
        raise DataError(f"{path} is not JSON", str(error), "an array of rows, or one row a line") from error
    if isinstance(value, dict):
        lists = {name: each for name, each in value.items() if isinstance(each, list)}
        tables = {name: each for name, each in lists.items() if each and all(isinstance(row, dict) for row in each)}
        if "messages" in value or "conversations" in value:
            value = [value]  # one row alone
        elif len(tables) == 1:
            (value,) = tables.values()
    if not isinstance(value, list):
        raise DataError(f"{path} is not a list of rows", type(value).__name__, "an array of rows, or one row a line")
    yield from ((f"{path}, item {i}", row) for i, row in enumerate(value, start=1))


def _csv(path: Path) -> Values:
    """A table of texts; a cell that holds a JSON list or object is that."""
    columns, rows = read_csv(path)
    for i, row in enumerate(rows, start=1):
        where, cells = f"{path}, row {i}", list(row.values())
        if len(cells) != len(columns) or None in cells:  # a longer row has its rest under None
            got = f"{sum(cell is not None for cell in cells)} of {len(columns)}, or more"
            todo = "quote texts that hold delimiters or line ends"
            raise DataError(f"{where} has another number of cells than the header", got, ", ".join(columns), todo)
        yield where, {name: _cell(cell or "") for name, cell in row.items()}


def _cell(text: str) -> Any:
    if text.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return load_json(text)
    return text


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(1024)


def _arrow(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow stream, as `save_to_disk` writes, or of an Arrow file."""
    with pa.memory_map(str(path)) as source:
        try:
            batches: Iterator[pa.RecordBatch] = iter(pa.ipc.open_stream(source))
        except pa.ArrowInvalid:
            whole = pa.ipc.open_file(source)
            batches = (whole.get_batch(i) for i in range(whole.num_record_batches))
        yield from batches


def _rows_of(path: Path, kind: str, batches: Iterator[pa.RecordBatch]) -> Values:
    try:
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
    except (pa.ArrowException, OSError, ValueError) as error:
        got = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as {kind}", got, kind, "copy or save it again") from error


ENDINGS: dict[str, Callable[[Path], Values]] = {
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": lambda path: _rows_of(path, "a Parquet file", _parquet(path)),
    ".arrow": lambda path: _rows_of(path, "an Arrow file", _arrow(path)),
}
"""Ending of a file's name -> how its rows are read."""
