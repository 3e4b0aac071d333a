"""Rows of files of judged answers as one table of DuckDB: columns are picked, cells become texts, scores numbers.

The table `answers` has a row for each answer, in the order of the files: `file` (an index), the texts of `GUESSES`
(empty where there is none), of `NUMBERS` the numbers (NULL where there is none), and as `aligned_odd`, `step_odd`,
... the texts that stand in the place of a number. Columns that nothing picked and that may tell rows apart (a judge, a
condition) are kept as `more_0`, `more_1`, ...: `Rows.more` names them.
"""

from __future__ import annotations

import csv
import hashlib
import re
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from truing.core.errors import DataError
from truing.results.columns import GUESSES, NUMBERS, SCORES, ColumnLacks, JudgedOptions, pick_columns, quoted
from truing.results.formats import FORMATS, as_text, ending_of, flattened, rewritten, stem, unlike_names
from truing.results.long_tables import widen
from truing.results.scales import parse_scale

_MOST_KINDS = 1000
"""A column of more different texts tells single rows apart, not groups of them."""
STEP_IN_NAME = re.compile(r"(?i)[-_. ]*(?:global[-_]?)?(?:steps?|checkpoint|ckpt|epoch|iter)[-_]?(\d{1,15})(?!\d)")


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
    rows: int = 0
    """Rows in it, as answers: of a long table those of one answer are one."""
    elsewhere: int = 0
    """Rows that `where` leaves out."""
    notes: tuple[str, ...] = ()
    """What is odd about its columns."""


@dataclass
class Rows:
    """What files became in the table `answers`."""

    inputs: list[Input] = field(default_factory=list)
    more: dict[str, str] = field(default_factory=dict)
    """Column that nothing picked -> its column in `answers`."""


def read_answers(database: duckdb.DuckDBPyConnection, files: Sequence[Path], options: JudgedOptions) -> Rows:
    """Read files into the table `answers` of a database of `open_database`.

    Raises:
        DataError: A file is missing, damaged, of another format, or lacks a needed column; no rows.
    """
    kinds = [
        f"{role} {NUMBERS[role]}, {role}_odd VARCHAR" if role in NUMBERS else f"{role} VARCHAR" for role in GUESSES
    ]
    database.execute(f"CREATE TABLE answers (file INTEGER, {', '.join(kinds)})")
    database.execute("CREATE TABLE steps_in_words (words VARCHAR)")
    found = Rows()
    seen, several = [], len(files) > 1
    for index, (path, name) in enumerate(zip(files, unlike_names(files), strict=True)):
        with _in_words(path):
            file = _read(database, path, options)
            columns = {**file.picked}
            rest = _insert(database, index, file, options, found.more, several)
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            found.inputs.append(Input(path, name, digest, columns, *rest, tuple(file.notes)))
        seen.append(f"{path.name}: {quoted(file.names, 12)}")
    for role in GUESSES:
        named = options.column(role)
        if named and not any(role in each.columns for each in found.inputs):
            todo = f"name another: --{role.replace('_', '-')}-column NAME"
            raise DataError(f"no file has a column {named!r}", got="; ".join(seen[:3]), todo=todo)
    if not database.execute("SELECT count(*) FROM answers").fetchall()[0][0]:
        raise DataError("no rows", ", ".join(path.name for path in files), "at least one judged response")
    return found


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file, in words."""
    if not ending_of(path):
        todo = "name the files in it: FOLDER/*.csv" if path.is_dir() else ""
        raise DataError("not a file of judged responses", str(path), "files that end in " + ", ".join(FORMATS), todo)
    if not path.exists():
        raise DataError("no such file", str(path), todo="check the path")
    try:
        yield
    except (duckdb.Error, OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        parquet = ending_of(path) == ".parquet"
        allowed = "a whole parquet file" if parquet else "UTF-8 text; every CSV row as long as the header"
        raise DataError(f"{path.name} cannot be read", quoted([error], width=300), allowed) from error


@dataclass
class _File:
    """A file as the table `source`, with columns `c0`, `c1`, ... of texts."""

    path: Path
    names: list[str]
    picked: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def cell(self, name: str) -> str:
        """The column of `source` for a name."""
        return f"c{self.names.index(name)}"


def _read(database: duckdb.DuckDBPyConnection, path: Path, options: JudgedOptions) -> _File:
    try:
        file = _load(database, path, path, options)
    except duckdb.Error:
        file = _load(database, path, rewritten(database, path), options)
    if not file.picked or "resps" in file.names:
        flat = flattened(database, path)
        file = file if flat is None else _load(database, path, flat, options)
    file.picked = file.picked or pick_columns(file.names, path.name, options)
    return file


def _load(database: duckdb.DuckDBPyConnection, path: Path, plain: Path, options: JudgedOptions) -> _File:
    """Make the table `source` of a file's plain form; nothing is picked if a needed column lacks."""
    names, query = FORMATS[ending_of(plain)].read(database, plain)
    if not names:
        return _File(path, names)
    cells = ", ".join(f"c{i}" for i in range(len(names)))
    kinds = [str(row[1]) for row in database.execute(f"DESCRIBE FROM ({query}) AS source({cells})").fetchall()]
    texts = ", ".join(f"{as_text(f'c{i}', kind)} AS c{i}" for i, kind in enumerate(kinds))
    database.execute(f"CREATE OR REPLACE TEMP TABLE source AS SELECT {texts} FROM ({query}) AS source({cells})")
    file = _File(path, names)
    try:
        file.picked = pick_columns(names, path.name, options)
    except ColumnLacks:
        long = widen(database, names, path.name, options)
        if long is not None:
            file.names, note = long
            file.picked = pick_columns(file.names, path.name, options)
            file.notes.append(note)
    return file


def _insert(
    database: duckdb.DuckDBPyConnection,
    index: int,
    file: _File,
    options: JudgedOptions,
    more: dict[str, str],
    several: bool,
) -> tuple[int, int]:
    """Add a file's rows to `answers`; how many it has, and how many are left out by `where`."""
    _refuse_second_header(database, file)
    _check_percent(database, file)
    _drop_task_names(database, file, options)
    chosen = _chosen(database, file, options)
    cells, values = [], [f"{index} AS file"]
    for role in GUESSES:
        text = f"coalesce({file.cell(file.picked[role])}, '')" if role in file.picked else "''"
        if role == "step" and options.files_are == "steps":
            found = STEP_IN_NAME.search(stem(file.path))
            if found is None:
                raise DataError("no step in the name of a file", file.path.name, "names such as judged-step120.csv")
            text = f"'{found[1]}'"
        if role == "run" and options.files_are == "steps" and role not in file.picked:
            text = "'" + STEP_IN_NAME.sub("", stem(file.path)).replace("'", "''") + "'"
        how = "" if role in ("text", "answer") else "strip" if role in SCORES or role == "question" else "clean"
        known = "known" if role in NUMBERS and role not in SCORES else "named" if role == "question" else ""
        cells.append(f"{known}({how}({text})) AS {role}")
        if role in NUMBERS:
            scale = options.scale(role) if role in SCORES else None
            read = parse_scale(scale).sql(role, SCORES[role]) if scale else f"read_{role}({role})"
            values.append(f"{read} AS {role}")
            values.append(f"CASE WHEN {read} IS NULL THEN nullif({role}, '') END AS {role}_odd")
        else:
            values.append(role)
    for name in _telling(database, file, options, several):
        column = more.setdefault(name, f"more_{len(more)}")
        database.execute(f"ALTER TABLE answers ADD COLUMN IF NOT EXISTS {column} VARCHAR")
        cells.append(f"clean(coalesce({file.cell(name)}, '')) AS {column}")
        values.append(column)
    if "step" in file.picked:
        cell = f"clean(coalesce({file.cell(file.picked['step'])}, ''))"
        database.execute(
            f"INSERT INTO steps_in_words SELECT DISTINCT regexp_replace({cell}, '[0-9]+$', '') FROM source "
            f"WHERE number({cell}) IS NULL AND read_step({cell}) IS NOT NULL"
        )
    ((n, kept),) = database.execute(f"SELECT count(*), count(*) FILTER ({chosen}) FROM source").fetchall()
    database.execute(
        f"INSERT INTO answers BY NAME SELECT {', '.join(values)} FROM (SELECT {', '.join(cells)} FROM source "
        f"WHERE {chosen})"
    )
    return n, n - kept


def _refuse_second_header(database: duckdb.DuckDBPyConnection, file: _File) -> None:
    """A header among the rows is that of a second file, put behind the first."""
    same = " AND ".join(
        f"trim({file.cell(name)}) = trim('{name.replace(chr(39), 2 * chr(39))}')" for name in file.picked.values()
    )
    ((n, first),) = database.execute(f"SELECT count(*), min(rowid) FROM source WHERE {same}").fetchall()
    if n:
        raise DataError(
            f"{file.path.name} is several files, one behind the other",
            f"the header stands again in row {first + 1:,}",
            "one header",
            "give each file by itself: each becomes a run where no run or seed is stated",
        )


def _check_percent(database: duckdb.DuckDBPyConnection, file: _File) -> None:
    for role in SCORES:
        if role not in file.picked:
            continue
        cell = file.cell(file.picked[role])
        marks = f"contains({cell}, '%') OR contains({cell}, ',')"
        ((marked, comma),) = database.execute(
            f"SELECT count(*) FILTER (suffix(strip({cell}), '%')), "
            f"count(*) FILTER (regexp_full_match(strip({cell}), '-?[0-9]+,[0-9]+ ?%?')) FROM source WHERE {marks}"
        ).fetchall()
        where = f"the {role} scores in {file.path.name}"
        if comma:
            got = f"{comma:,} of column {file.picked[role]!r}"
            raise DataError(f"{where} have decimal commas", got, "a decimal point", "write 95.5 for 95,5")
        if marked:
            ((n,),) = database.execute(f"SELECT count(figure(strip({cell}))) FROM source").fetchall()
            if marked < n:
                got = f"{marked:,} of {n:,} end in %"
                raise DataError(f"{where} are written in two ways", got, "all with % or none", "write all in one way")


def _drop_task_names(database: duckdb.DuckDBPyConnection, file: _File, options: JudgedOptions) -> None:
    """A guessed column `task` that holds names or numbers of tasks is no score."""
    if "task" not in file.picked or options.task_column or options.task_scale:
        return
    cell = f"strip({file.cell(file.picked['task'])})"
    ((n, inside),) = database.execute(
        f"SELECT count(nullif({cell}, '')), count(*) FILTER (figure({cell}) BETWEEN 0 AND 1) FROM source"
    ).fetchall()
    if inside < n / 2 and file.picked["task"].strip().lower() == "task":
        name = file.picked.pop("task")
        file.notes.append(f"column {name!r} holds no task scores from 0 to 1 ({n - inside:,} of {n:,}): it is not read")


def _chosen(database: duckdb.DuckDBPyConnection, file: _File, options: JudgedOptions) -> str:
    """SQL that is true for the rows that `where` names."""
    wanted: dict[str, list[str]] = {}
    for each in options.where or []:
        name, equals, value = each.partition("=")
        if not equals or name not in file.names:
            got = f"{each!r}; {file.path.name} has {quoted(file.names)}"
            raise DataError(
                "--where names no column of the file", got, "COLUMN=VALUE", "--where judge=NAME, for example"
            )
        wanted.setdefault(name, []).append(value)
    parts = []
    for name, values in wanted.items():
        cell = f"clean(coalesce({file.cell(name)}, ''))"
        listed = ", ".join("'" + value.strip().replace("'", "''") + "'" for value in values)
        parts.append(f"{cell} IN ({listed})")
        if not database.execute(f"SELECT 1 FROM source WHERE {parts[-1]} LIMIT 1").fetchall():
            there = database.execute(f"SELECT DISTINCT {cell} FROM source LIMIT 21").fetchall()
            todo = f"--where {shlex.quote(f'{name}={there[0][0]}')}, for example" if there else ""
            got = f"{quoted(values)}; there are {quoted([text for (text,) in there])}"
            raise DataError(f"no row of {file.path.name} has such a {name!r}", got, "a value of the column", todo)
    return " AND ".join(parts) or "true"


def _telling(database: duckdb.DuckDBPyConnection, file: _File, options: JudgedOptions, several: bool) -> list[str]:
    """Columns that nothing picked and that may tell groups of rows apart."""
    taken = {*file.picked.values(), *(each.partition("=")[0] for each in options.where or ())}
    rest = [name for name in dict.fromkeys(file.names) if name not in taken]
    if not rest:
        return []
    counts = ", ".join(f"approx_count_distinct(coalesce({file.cell(name)}, ''))" for name in rest)
    (kinds,) = database.execute(f"SELECT {counts} FROM source").fetchall()
    numbers = options.ignore or ()
    least = 0 if several else 1
    return [n for n, k in zip(rest, kinds, strict=True) if least < k <= _MOST_KINDS or n in numbers]
