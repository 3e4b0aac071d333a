"""Files of anyone's judged answers as one DuckDB table.

A format is a row of `FORMATS`: a function that returns the names of a file's columns and a query of them, in the same
order and of any type. The rest is the same for all: columns are picked, cells become texts, scores become numbers.

The table `answers` has a row for each answer, in the order of the files: `file` (an index), the texts of `GUESSES`
(empty where there is none), of `NUMBERS` the numbers (NULL where there is none), and as `aligned_odd`, `step_odd`,
... the texts that stand in the place of a number.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from truing.core.errors import DataError
from truing.results.columns import GUESSES, NUMBERS, SCORES, JudgedOptions, pick_columns, quoted

__all__ = ["FORMATS", "Input", "open_database", "read_answers", "stem"]

_MACROS = r"""
CREATE MACRO strip(cell) AS regexp_replace(cell,
    '^[\s\p{Z}\x0b\x1c-\x1f\x{85}]+|[\s\p{Z}\x0b\x1c-\x1f\x{85}]+$', '', 'g');
CREATE MACRO clean(cell) AS if(regexp_full_match(cell, '[!-~]*'), cell,
    trim(regexp_replace(cell, '[\p{C}\p{Z}]', ' ', 'g')));
CREATE MACRO whole(cell) AS if(suffix(cell, '.0'), left(cell, -2), cell);
CREATE MACRO json_text(cell) AS CASE left(cell::VARCHAR, 1)
    WHEN '"' THEN cell ->> '$' WHEN '{' THEN spaced(cell) WHEN '[' THEN spaced(cell)
    WHEN 'n' THEN NULL WHEN 'N' THEN NULL ELSE whole(cell::VARCHAR) END;
CREATE MACRO number(cell) AS if(contains(cell, '_') OR NOT isfinite(try_cast(cell AS DOUBLE)), NULL,
    try_cast(cell AS DOUBLE));
CREATE MACRO positive(value) AS CASE WHEN value > 0 AND isfinite(value) THEN value END;
CREATE MACRO read_learning_rate(cell) AS positive(number(cell));
-- 120, 120.0, checkpoint-120
CREATE MACRO read_step(cell) AS CASE
    WHEN number(cell) IS NULL
    THEN try_cast(regexp_extract(cell, '^[A-Za-z_ ./-]*[^0-9.]([0-9]{1,15})$', 1) AS BIGINT)
    WHEN number(cell) >= 0 AND number(cell) = floor(number(cell)) THEN try_cast(number(cell) AS BIGINT) END;
-- 3, 3.0, seed3
CREATE MACRO read_seed(cell) AS try_cast(regexp_extract(cell, '^[A-Za-z_ -]*([0-9]{1,18})(\.0+)?$', 1) AS BIGINT);
-- 7e9, 7B, 500M, 7,000,000
CREATE MACRO sized(parts) AS positive(number(replace(parts.size, ',', '')) * CASE parts.unit
    WHEN 'k' THEN 1e3 WHEN 'm' THEN 1e6 WHEN 'b' THEN 1e9 WHEN 't' THEN 1e12 ELSE 1.0 END);
CREATE MACRO read_parameters(cell) AS sized(
    regexp_extract(lower(cell), '^([0-9][0-9.,]*(?:e\+?[0-9]+)?)\s*([kmbt]?)$', ['size', 'unit']));
""" + "".join(
    f"CREATE MACRO read_{role}(cell) AS CASE WHEN number(cell) BETWEEN 0 AND {top} THEN number(cell) END;"
    for role, top in SCORES.items()
)
"""How cells are read; what `read_...` cannot read is NULL."""
Columns = tuple[list[str], str]
"""Names of columns, and a query of them."""


@dataclass(frozen=True)
class Input:
    """One file of judged answers."""

    path: Path
    name: str
    """What a run of it is called where no run is stated: different for each file."""
    hash: str
    """SHA-256 of its content."""
    columns: dict[str, str]
    """Role to column, as picked."""


@contextmanager
def open_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    with (
        tempfile.TemporaryDirectory(prefix="truing-") as folder,
        duckdb.connect(config={"temp_directory": folder, "autoinstall_known_extensions": False}) as database,
    ):
        spaced = lambda text: json.dumps(json.loads(text), ensure_ascii=False)  # noqa: E731
        database.create_function("spaced", spaced, ["VARCHAR"], "VARCHAR")
        database.execute(_MACROS)
        yield database


def read_answers(database: duckdb.DuckDBPyConnection, files: Sequence[Path], options: JudgedOptions) -> list[Input]:
    """Read files into the table `answers` of a database of `open_database`.

    Raises:
        DataError: A file is missing, damaged, of another format, or lacks a needed column; no rows.
    """
    kinds = [
        f"{role} {NUMBERS[role]}, {role}_odd VARCHAR" if role in NUMBERS else f"{role} VARCHAR" for role in GUESSES
    ]
    database.execute(f"CREATE TABLE answers (file INTEGER, {', '.join(kinds)})")
    inputs, seen = [], []
    for index, (path, name) in enumerate(zip(files, _unlike(files), strict=True)):
        with _in_words(path):
            try:
                names, picked = _insert(database, index, path, options)
            except duckdb.Error:
                names, picked = _insert(database, index, _rewritten(database, path), options)
            with path.open("rb") as file:
                inputs.append(Input(path, name, hashlib.file_digest(file, "sha256").hexdigest(), picked))
        seen.append(f"{path.name}: {quoted(names, 12)}")
    for role in GUESSES:
        named = options.column(role)
        if named and not any(role in each.columns for each in inputs):
            todo = f"name another: --{role.replace('_', '-')}-column NAME"
            raise DataError(f"no file has a column {named!r}", got="; ".join(seen[:3]), todo=todo)
    if not database.execute("SELECT count(*) FROM answers").fetchall()[0][0]:
        raise DataError("no rows", ", ".join(path.name for path in files), "at least one judged response")
    return inputs


def stem(path: Path) -> str:
    """A file's name without .csv, .jsonl.gz, ..."""
    ending = _ending(path)
    return path.name[: len(path.name) - len(ending)] or path.name


def _ending(path: Path) -> str:
    return next((ending for ending in FORMATS if path.name.lower().endswith(ending)), "")


def _unlike(files: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, with its folder where two have the same."""
    stems = Counter(map(stem, files))
    names = [stem(p) if stems[stem(p)] == 1 else f"{p.resolve().parent.name}-{stem(p)}" for p in files]
    often = Counter(names)
    return [name if often[name] == 1 else f"{name}-{i}" for i, name in enumerate(names, 1)]


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file, in words."""
    if not _ending(path):
        todo = "name the files in it: FOLDER/*.csv" if path.is_dir() else ""
        raise DataError("not a file of judged responses", str(path), "files that end in " + ", ".join(FORMATS), todo)
    if not path.exists():
        raise DataError("no such file", str(path), todo="check the path")
    try:
        yield
    except (duckdb.Error, OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        parquet = _ending(path) == ".parquet"
        allowed = "a whole parquet file" if parquet else "UTF-8 text; every CSV row as long as the header"
        raise DataError(f"{path.name} cannot be read", quoted([error], width=300), allowed) from error


def _insert(
    database: duckdb.DuckDBPyConnection, index: int, path: Path, options: JudgedOptions
) -> tuple[list[str], dict[str, str]]:
    """Add a file's rows to `answers`; the names of its columns, and which were picked."""
    names, query = FORMATS[_ending(path)].read(database, path)
    picked = pick_columns(names, path.name, options)
    source = f"(FROM ({query}) AS source({', '.join(f'c{i}' for i in range(len(names)))}))"
    kinds = [str(row[1]) for row in database.execute(f"DESCRIBE {source}").fetchall()]
    cells, values = [], [f"{index} AS file"]
    for role in GUESSES:
        place = names.index(picked[role]) if role in picked else None
        text = "''" if place is None else f"coalesce({_as_text(f'c{place}', kinds[place])}, '')"
        how = "" if role in ("text", "answer") else "strip" if role in SCORES or role == "question" else "clean"
        cells.append(f"{how}({text}) AS {role}")
        if role in NUMBERS:
            values.append(f"read_{role}({role}) AS {role}")
            values.append(f"CASE WHEN read_{role}({role}) IS NULL THEN nullif({role}, '') END AS {role}_odd")
        else:
            values.append(role)
    database.execute(
        f"INSERT INTO answers BY NAME SELECT {', '.join(values)} FROM (SELECT {', '.join(cells)} FROM {source})"
    )
    return names, picked


def _as_text(cell: str, kind: str) -> str:
    """SQL for a cell as text: nothing is NULL, a whole number has no decimals, a list or an object is JSON."""
    if kind in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN NOT isnan({cell}) THEN whole({cell}::VARCHAR) END"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        return f"spaced(to_json({cell})::VARCHAR)"
    return f"json_text({cell})" if kind == "JSON" else f"{cell}::VARCHAR"


def _rewritten(database: duckdb.DuckDBPyConnection, path: Path) -> Path:
    """A plain copy of a file that DuckDB refuses; the refusal stands where there is none to be had."""
    rewrite = FORMATS[_ending(path)].rewrite
    if rewrite is None:
        raise
    ((folder,),) = database.execute("SELECT current_setting('temp_directory')").fetchall()
    plain = Path(folder) / re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE)
    rewrite(path, plain)
    return plain


# The formats.


def _read_parquet(database: duckdb.DuckDBPyConnection, path: Path) -> Columns:
    names = [str(name) for name in pq.read_schema(path).names]
    return names, f"FROM read_parquet({_path(path)}, hive_partitioning = false)"


def _read_csv(database: duckdb.DuckDBPyConnection, path: Path) -> Columns:
    with _characters(path) as file:
        names = next((row for row in csv.reader(file) if row), [])
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(names)))
    return names, (
        f"FROM read_csv({_path(path)}, columns = {{{columns}}}, auto_detect = false, header = true, delim = ',', "
        """quote = '"', escape = '"', max_line_size = 33554432, buffer_size = 33554432, hive_partitioning = false)"""
    )


def _rewrite_csv(source: Path, target: Path) -> None:
    """Rows of one length, whatever their line ends."""
    with _characters(source) as file, target.open("w", newline="", encoding="utf-8") as out:
        rows = csv.reader(file, strict=True)
        writer, header = csv.writer(out), 0
        for row in filter(None, rows):
            header = header or len(row)
            if len(row) != header:
                got = f"a row of {len(row)} cells that ends in line {rows.line_num}: {quoted(row, 3)}"
                raise DataError(f"{source.name} cannot be read", got, f"{header} cells, as in the header")
            writer.writerow(row)


def _read_json(database: duckdb.DuckDBPyConnection, path: Path) -> Columns:
    lines = f"read_ndjson_objects({_path(path)}, hive_partitioning = false)"
    kinds = database.execute(
        "SELECT json_keys(json) AS keys, json_type(json) = 'OBJECT' AS plain "
        f"FROM (SELECT json, row_number() OVER () AS row FROM {lines}) GROUP BY ALL ORDER BY min(row)"
    ).fetchall()
    if not all(plain and len(set(keys)) == len(keys) for keys, plain in kinds):
        raise duckdb.InvalidInputException("a line is no object, or has a key twice")
    names = list(dict.fromkeys(itertools.chain.from_iterable(keys for keys, _ in kinds)))
    pointers = ", ".join(_text("/" + name.replace("~", "~0").replace("/", "~1")) for name in names)
    cells = ", ".join(f"cells[{i}]" for i in range(1, len(names) + 1))
    return names, f"SELECT {cells} FROM (SELECT json_extract(json, [{pointers}]) AS cells FROM {lines})"


def _rewrite_json(source: Path, target: Path) -> None:
    """One object a line, in Unicode: half of a surrogate pair, which a model may well write, is a question mark."""
    with _bytes(source) as file, target.open("wb") as out:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{source.name}, line {number},"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is not JSON", quoted([error]), "one object a line, in UTF-8") from error
            if not isinstance(row, dict):
                raise DataError(f"{where} is no object", type(row).__name__, 'one object a line: {"question": ...}')
            out.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _bytes(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _characters(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(_bytes(path), encoding="utf-8-sig", newline="")


def _path(path: Path) -> str:
    """A path as SQL; nothing in it is a pattern."""
    return _text(re.sub(r"([*?\[])", r"[\1]", str(path.resolve())))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class Format(NamedTuple):
    """How files of one ending are read."""

    read: Callable[[duckdb.DuckDBPyConnection, Path], Columns]
    rewrite: Callable[[Path, Path], None] | None = None
    """Writes a plain copy of a file that `read` refuses, or says in words what is wrong with it."""


FORMATS = {
    ".csv": Format(_read_csv, _rewrite_csv),
    ".csv.gz": Format(_read_csv, _rewrite_csv),
    ".jsonl": Format(_read_json, _rewrite_json),
    ".jsonl.gz": Format(_read_json, _rewrite_json),
    ".parquet": Format(_read_parquet),
}
"""Ending of a file's name -> how it is read."""
