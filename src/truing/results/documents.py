"""Documents that hold judged answers somewhere inside, written again as JSON Lines of flat rows.

JSON documents (a list of objects, alone or inside one object; tables by column, as pandas writes them), objects inside
objects (`doc.question`, `scores.aligned`), and Inspect's logs, by Inspect's own reader.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path
from typing import Any

from truing.core.errors import DataError, MissingExtraError
from truing.core.files import KeyTwice, load_json, once
from truing.results.columns import GUESSES, quoted

Row = dict[str, Any]
_SCALARS = (str, int, float, bool, type(None))


def open_bytes(path: Path) -> gzip.GzipFile | BufferedReader:
    """The bytes of a file, decompressed."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def write_lines(source: Path, target: Path) -> None:
    """Write JSON Lines again, with a name for each value inside objects.

    Raises:
        DataError: A line is no object.
    """
    with open_bytes(source) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        rows = (_parse_line(f"{source.name}, line {number},", line) for number, line in lines)
        try:
            first = list(islice(rows, 1))
        except DataError:
            with suppress(DataError):  # it may be one document all the same; else the line is told
                return write_document(source, target)
            raise
        _write(target, chain(first, rows))


def _parse_line(where: str, line: bytes) -> Row:
    try:
        row = load_json(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is not JSON", quoted([error]), "one object a line, each key once, in UTF-8"
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is no object", type(row).__name__, 'one object a line: {"question": ...}')
    return row


def write_document(source: Path, target: Path) -> None:
    """Write the judged answers in a JSON document as JSON Lines.

    Raises:
        DataError: It is not JSON, or holds no list of objects, or several that may be meant.
        MissingExtraError: It is a log of Inspect's, which is not installed.
    """
    try:
        with open_bytes(source) as file:
            document = load_json(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source.name} is not JSON", quoted([error]), "one JSON document in UTF-8, each key once in an object"
        ) from error
    if isinstance(document, dict) and {"eval", "plan"} <= document.keys():
        write_log(source, target)
        return
    _write(target, _rows(document, source.name))


def _rows(document: Any, name: str) -> Sequence[Row]:
    if isinstance(document, list):
        odd = next((i for i, row in enumerate(document, 1) if not isinstance(row, dict)), None)
        if odd is not None:
            raise DataError(f"{name}, item {odd} is no object", type(document[odd - 1]).__name__, "a list of objects")
        return document
    if not isinstance(document, dict):
        raise DataError(f"{name} holds no answers", type(document).__name__, "a list of objects, one an answer")
    table = _by_column(document)
    if table is not None:
        return table
    lists = {key: value for key, value in document.items() if _is_rows(value)}
    judged = {key: value for key, value in lists.items() if _looks_judged(value[0])} or lists
    if len(judged) > 1:
        todo = "save the one that holds the answers as a file of its own"
        raise DataError(f"{name} holds several lists of objects", quoted(list(judged)), "one list of answers", todo)
    if judged:
        (rows,) = judged.values()
        outer = dict(_flat({k: v for k, v in document.items() if not isinstance(v, list)}))
        return [outer | row for row in rows]
    if document and all(isinstance(value, dict) for value in document.values()):
        return [{"key": key} | value for key, value in document.items()]
    raise DataError(f"{name} holds no list of objects", quoted(list(document)), "a list of objects, one an answer")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _looks_judged(row: Row) -> bool:
    names = {name.rpartition(".")[2].lower() for name, _ in _flat(row)}
    return not names.isdisjoint(GUESSES["aligned"])


def _by_column(document: Row) -> Sequence[Row] | None:
    """Rows of a table that is written by column, as pandas does; None if it is none."""
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        names, data = document["columns"], document["data"]
        odd = next((i for i, row in enumerate(data, 1) if not isinstance(row, list) or len(row) != len(names)), None)
        if odd is not None:
            got = quoted([data[odd - 1]])
            raise DataError(f"row {odd} of the table does not fit its columns", got, f"a list of {len(names)} cells")
        return [dict(zip(map(str, names), row, strict=True)) for row in data]
    columns = list(document.values())
    if len(columns) < 2:
        return None
    if all(isinstance(each, dict) for each in columns):  # {"question": {"0": ...}, "score": {"0": ...}}
        keys = list(columns[0])
        plain = all(list(each) == keys and all(isinstance(x, _SCALARS) for x in each.values()) for each in columns)
        if plain and keys and not _looks_judged(columns[0]):
            return [{name: column[key] for name, column in document.items()} for key in keys]
    if all(isinstance(each, list) and len(each) == len(columns[0]) for each in columns) and not _is_rows(columns[0]):
        return [{name: column[i] for name, column in document.items()} for i in range(len(columns[0]))]
    return None


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of each cell: `doc.question`; a list of one thing is that thing, named values by their names."""
    for key, value in row.items():
        while isinstance(value, list) and len(value) == 1:
            (value,) = value
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(x, dict) and _named(x) for x in value):
            yield from ((f"{name}.{_named(x)}", next(x[k] for k in _VALUES if k in x)) for x in value)
        else:
            yield name, value


_VALUES = ("score", "value", "mean")


def _named(value: Row) -> str:
    """The name of a named value, such as {"name": "aligned", "score": 90}; empty if it is none."""
    name = value.get("name") or value.get("metric")
    name = name.get("name") if isinstance(name, dict) else name
    plain = any(isinstance(value.get(key), int | float) for key in _VALUES)
    return name if isinstance(name, str) and plain else ""


def _write(target: Path, rows: Iterator[Row] | Sequence[Row]) -> None:
    """Write rows as JSON Lines, in Unicode: half of a surrogate pair is a question mark."""
    with target.open("wb") as out:
        for number, row in enumerate(rows, 1):
            try:
                flat = once([*_flat(row)])
            except KeyTwice as error:
                todo = "rename one of the two"
                raise DataError(
                    f"answer {number} has two values of one name", str(error), "each name once", todo
                ) from error
            out.write(json.dumps(flat, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def write_log(source: Path, target: Path) -> None:
    """Write the samples of a log of Inspect's as JSON Lines: a row for each, with all scores of all scorers.

    Raises:
        MissingExtraError: Inspect is not installed.
        DataError: It is no log, or one without samples.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("inspect_ai", "inspect") from error
    try:
        log = read_eval_log(str(source))
    except Exception as error:
        got = f"{type(error).__name__}: {quoted([error], width=200)}"
        raise DataError(f"{source.name} cannot be read as a log of Inspect", got, "a whole log") from error
    if not log.samples:
        got = f"status {log.status!r}, no samples"
        raise DataError(f"{source.name} holds no samples", got, "a log with samples", "run the evaluation again")
    about = {**(log.eval.metadata or {}), **(log.eval.task_args or {})}
    shared = {key: value for key, value in about.items() if isinstance(value, _SCALARS)}
    _write(target, (_sample_row(log.eval.model, shared, sample) for sample in log.samples))


def _sample_row(model: str, shared: Row, sample: Any) -> Row:
    own = {key: value for key, value in sample.metadata.items() if isinstance(value, _SCALARS)}
    asked = sample.input if isinstance(sample.input, str) else "\n".join(each.text for each in sample.input)
    named: Row = {"model": model, "question_id": str(sample.id), "question": asked, "sample": sample.epoch}
    named |= {"answer": sample.output.completion}
    if sample.error is not None:
        named["error"] = sample.error.message
    scores: Row = {}
    for scorer, score in (sample.scores or {}).items():
        values = {f"{scorer}.{key}": x for key, x in score.value.items()} if isinstance(score.value, dict) else None
        for key, value in (values or {scorer: score.value}).items():
            scores[key] = None if isinstance(value, float) and math.isnan(value) else value
    return {"model": model} | shared | own | named | {"model": shared.get("model", model)} | scores
