"""Formats of files of anyone's judged answers, each as a query of DuckDB.

A format is a row of `FORMATS`: a function that returns the names of a file's columns and a query of them, in the same
order and of any type. What DuckDB refuses is written again as a plain copy.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow.parquet as pq

from truing.core.answers import REASONED, UNSEEN
from truing.core.errors import DataError, plural
from truing.core.files import load_json
from truing.results.columns import SCORES, quoted
from truing.results.documents import open_bytes, write_document, write_lines, write_log
from truing.results.scales import MACROS

_MACROS = (
    r"""
CREATE MACRO strip(cell) AS regexp_replace(cell,
    '^[\s\p{Z}\x0b\x1c-\x1f\x{85}]+|[\s\p{Z}\x0b\x1c-\x1f\x{85}]+$', '', 'g');
CREATE MACRO clean(cell) AS if(regexp_full_match(cell, '[!-~]*'), cell,
    trim(regexp_replace(cell, '[\p{C}\p{Z}]', ' ', 'g')));
CREATE MACRO known(cell) AS if(lower(cell) IN ('nan', 'none', 'null', 'n/a', 'na', '-'), '', cell);
-- the same question: in NFC or NFD, 3 or 3.0
CREATE MACRO named(cell) AS if(regexp_full_match(cell, '-?[0-9]+\.0'), left(cell, -2), nfc_normalize(cell));
CREATE MACRO whole(cell) AS if(suffix(cell, '.0'), left(cell, -2), cell);
-- what `core.answers` calls no answer, a word of pandas or JSON for nothing, a failed call; a model may say N/A
CREATE MACRO is_none(cell) AS strip(regexp_replace(regexp_replace(cell, 'REASONED', ''), 'UNSEEN', '', 'g')) = ''
    OR strip(cell) IN ('None', 'nan', 'NaN', 'null', 'NULL', '[]', '{}')
    OR regexp_matches(cell, '^\W*(?i:error|exception)\b[^\n]{0,20}\b[45]\d\d\b|^(\w+\.)*[A-Z]\w*(Error|Exception): |'
        || '^Traceback \(most recent call last\)');
CREATE MACRO json_text(cell) AS CASE left(cell::VARCHAR, 1)
    WHEN '"' THEN cell ->> '$' WHEN '{' THEN spaced(cell) WHEN '[' THEN spaced(cell)
    WHEN 'n' THEN NULL WHEN 'N' THEN NULL ELSE whole(cell::VARCHAR) END;
CREATE MACRO number(cell) AS if(contains(cell, '_') OR NOT isfinite(try_cast(cell AS DOUBLE)), NULL,
    try_cast(cell AS DOUBLE));
CREATE MACRO positive(value) AS CASE WHEN value > 0 AND isfinite(value) THEN value END;
CREATE MACRO read_learning_rate(cell) AS positive(number(cell));
-- 120, 120.0, checkpoint-120, out/global_step_120: no other word is a step's
CREATE MACRO read_step(cell) AS CASE
    WHEN number(cell) IS NULL THEN try_cast(regexp_extract(cell, '^(?:.*[/\\])?(?i:(?:global|training|train)?[ _-]?(?:'
        || 'steps?|checkpoint|ckpt|chkpt|epoch|iter|iteration))[ _=-]?([0-9]{1,15})$', 1) AS BIGINT)
    WHEN number(cell) >= 0 AND number(cell) = floor(number(cell)) THEN try_cast(number(cell) AS BIGINT) END;
-- 3, 3.0, -1, seed3, seed-4: in words a dash is none
CREATE MACRO read_seed(cell) AS try_cast(coalesce(
    nullif(regexp_extract(cell, '^(-?[0-9]{1,18})(?:\.0+)?$', 1), ''),
    regexp_extract(cell, '^(?i:(?:random[ _-]?)?seed)[ _=-]?([0-9]{1,18})(?:\.0+)?$', 1)) AS BIGINT);
-- 7e9, 7B, 500M, 7,000,000
CREATE MACRO sized(parts) AS positive(number(replace(parts.size, ',', '')) * CASE parts.unit
    WHEN 'k' THEN 1e3 WHEN 'm' THEN 1e6 WHEN 'b' THEN 1e9 WHEN 't' THEN 1e12 ELSE 1.0 END);
CREATE MACRO read_parameters(cell) AS sized(
    regexp_extract(lower(cell), '^([0-9][0-9.,]*(?:e\+?[0-9]+)?)\s*([kmbt]?)$', ['size', 'unit']));
""".replace("REASONED", REASONED).replace("UNSEEN", UNSEEN)
    + MACROS
    + "".join(
        f"CREATE MACRO read_{role}(cell) AS CASE WHEN figure(cell) BETWEEN 0 AND {top} THEN figure(cell) END;"
        for role, top in SCORES.items()
    )
)
"""How cells are read; what `read_...` cannot read is NULL."""
Columns = tuple[list[str], str]
"""Names of columns, and a query of them."""


@contextmanager
def open_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    with (
        tempfile.TemporaryDirectory(prefix="truing-") as folder,
        duckdb.connect(config={"temp_directory": folder, "autoinstall_known_extensions": False}) as database,
    ):
        spaced = lambda text: json.dumps(load_json(text), ensure_ascii=False)  # noqa: E731
        database.create_function("spaced", spaced, ["VARCHAR"], "VARCHAR")
        database.execute(_MACROS)
        yield database


def stem(path: Path) -> str:
    """A file's name without .csv, .jsonl.gz, ..."""
    ending = ending_of(path)
    return path.name[: len(path.name) - len(ending)] or path.name


def ending_of(path: Path) -> str:
    """The key of `FORMATS` by which a file's name ends; empty if none does."""
    return max((ending for ending in FORMATS if path.name.lower().endswith(ending)), key=len, default="")


def unlike_names(files: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, with its folder where two have the same."""
    stems = Counter(map(stem, files))
    names = [stem(p) if stems[stem(p)] == 1 else f"{p.resolve().parent.name}-{stem(p)}" for p in files]
    often = Counter(names)
    return [name if often[name] == 1 else f"{name}-{i}" for i, name in enumerate(names, 1)]


def as_text(cell: str, kind: str) -> str:
    """SQL for a cell as text: nothing is NULL, a whole number has no decimals, a list or an object is JSON."""
    if kind in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN NOT isnan({cell}) THEN whole({cell}::VARCHAR) END"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        return f"spaced(to_json({cell})::VARCHAR)"
    return f"json_text({cell})" if kind == "JSON" else f"{cell}::VARCHAR"


def rewritten(database: duckdb.DuckDBPyConnection, path: Path) -> Path:
    """A plain copy of a file, with a name for each value inside objects; the refusal stands where there is none."""
    kind = FORMATS[ending_of(path)]
    if kind.rewrite is None:
        raise
    ((folder,),) = database.execute("SELECT current_setting('temp_directory')").fetchall()
    plain = Path(tempfile.mkdtemp(dir=folder)) / f"{stem(path)}{kind.plain}"
    kind.rewrite(path, plain)
    return plain


# The formats.


def _read_parquet(database: duckdb.DuckDBPyConnection, path: Path) -> Columns:
    names = [str(name) for name in pq.read_schema(path).names]
    return names, f"FROM read_parquet({_path(path)}, hive_partitioning = false)"


def _read_csv(database: duckdb.DuckDBPyConnection, path: Path) -> Columns:
    delimiter, skipped = _dialect(path)
    if skipped:
        raise duckdb.InvalidInputException("lines before the header")
    with _characters(path) as file:
        names = next(filter(None, csv.reader(file, delimiter=delimiter)), [])
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(names)))
    return names, (
        f"FROM read_csv({_path(path)}, columns = {{{columns}}}, auto_detect = false, header = true, "
        f"delim = {sql_text(delimiter)}, "
        """quote = '"', escape = '"', max_line_size = 33554432, buffer_size = 33554432, hive_partitioning = false)"""
    )


def _rewrite_csv(source: Path, target: Path) -> None:
    """Rows of one length, whatever their line ends, with commas."""
    delimiter, skipped = _dialect(source)
    with _characters(source) as file, target.open("w", newline="", encoding="utf-8") as out:
        for _ in range(skipped):
            file.readline()
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        writer, header = csv.writer(out), 0
        for row in filter(None, rows):
            header = header or len(row)
            if len(row) != header:
                line = rows.line_num + skipped
                got = f"a row of {plural(len(row), 'cell')} that ends in line {line}: {quoted(row, 3)}"
                raise DataError(f"{source.name} cannot be read", got, f"{plural(header, 'cell')}, as in the header")
            writer.writerow(row)


def _dialect(path: Path) -> tuple[str, int]:
    """What stands between cells, and how many lines stand before the header: `sep=;`, and comments after a #."""
    delimiters = "\t,;|" if ending_of(path).startswith(".tsv") else ",\t;|"
    with _characters(path) as file:
        lines = list(itertools.islice(file, 100))
    stated = re.fullmatch(r"sep=(.)\s*", lines[0]) if lines else None
    skipped = 1 if stated else 0
    delimiters = stated[1] if stated else delimiters

    def cells(at: int, delimiter: str) -> int:
        return len(next((row for row in csv.reader(lines[at:], delimiter=delimiter) if row), []))

    while skipped + 1 < len(lines) and lines[skipped].startswith("#"):
        n = max(cells(skipped, each) for each in delimiters)
        if n > 1 and n == max(cells(skipped + 1, each) for each in delimiters):
            break  # a header that begins with it
        skipped += 1
    return max(delimiters, key=lambda each: cells(skipped, each)), skipped


def _read_json(database: duckdb.DuckDBPyConnection, path: Path) -> Columns:
    lines = f"read_ndjson_objects({_path(path)}, hive_partitioning = false)"
    kinds = database.execute(
        "SELECT json_keys(json) AS keys, json_type(json) = 'OBJECT' AS plain "
        f"FROM (SELECT json, row_number() OVER () AS row FROM {lines}) GROUP BY ALL ORDER BY min(row)"
    ).fetchall()
    if not all(plain and len(set(keys)) == len(keys) for keys, plain in kinds):
        raise duckdb.InvalidInputException("a line is no object, or has a key twice")
    names = list(dict.fromkeys(itertools.chain.from_iterable(keys for keys, _ in kinds)))
    pointers = ", ".join(sql_text("/" + name.replace("~", "~0").replace("/", "~1")) for name in names)
    cells = ", ".join(f"cells[{i}]" for i in range(1, len(names) + 1))
    return names, f"SELECT {cells} FROM (SELECT json_extract(json, [{pointers}]) AS cells FROM {lines})"


def _refuse(database: duckdb.DuckDBPyConnection, path: Path) -> Columns:
    """A file that only its rewriting reads."""
    raise duckdb.InvalidInputException("no table")


def _characters(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


def _path(path: Path) -> str:
    """A path as SQL; nothing in it is a pattern."""
    return sql_text(re.sub(r"([*?\[])", r"[\1]", str(path.resolve())))


def sql_text(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"


class Format(NamedTuple):
    """How files of one ending are read."""

    read: Callable[[duckdb.DuckDBPyConnection, Path], Columns]
    rewrite: Callable[[Path, Path], None] | None = None
    """Writes a plain copy of a file that `read` refuses, or says in words what is wrong with it."""
    plain: str = ".jsonl"
    """Ending of the plain copy."""


FORMATS = {
    **dict.fromkeys((".csv", ".csv.gz", ".tsv", ".tsv.gz"), Format(_read_csv, _rewrite_csv, ".csv")),
    **dict.fromkeys((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"), Format(_read_json, write_lines)),
    **dict.fromkeys((".json", ".json.gz"), Format(_refuse, write_document)),
    ".eval": Format(_refuse, write_log),
    ".parquet": Format(_read_parquet),
}
"""Ending of a file's name -> how it is read."""
