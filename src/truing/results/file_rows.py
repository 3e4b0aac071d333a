"""Rows of files of judged answers as one table of DuckDB: columns are picked, cells become texts, scores numbers.

The table `answers` has a row for each answer, in the order of the files: `file` (an index), the texts of `GUESSES`
(empty where there is none), of `NUMBERS` the numbers (NULL where there is none), and as `aligned_odd`, `step_odd`,
... the texts that stand in the place of a number. Columns that nothing picked and that may tell rows apart (a judge, a
condition) are kept as `more_0`, `more_1`, ...: `read_answers` names them.
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
from typing import Any

import duckdb
import pyarrow as pa

from truing.core.errors import DataError, plural
from truing.results.columns import GUESSES, NUMBERS, SCORES, ColumnLacks, JudgedOptions, pick_columns, plain, quoted
from truing.results.documents import open_bytes
from truing.results.formats import FORMATS, as_text, ending_of, rewritten, sql_text, stem, unlike_names
from truing.results.scales import parse_scale

_MOST_KINDS = 1000
"""A column of more different texts tells single rows apart, not groups of them."""
# a table with a row for each score: columns `metric` and `score` become a column for each metric
_METRIC = ("metric", "metric_name", "measure", "criterion", "dimension", "score_name", "score_type", "scorer", "rubric")
_VALUE = ("score", "value", "score_value", "metric_value", "rating", "judgment", "judgement")
_MOST_METRICS = 50
"""Different metrics at most."""
_SAMPLES = {"sample", "sample_id", "sample_idx", "sample_index", "epoch", "repeat", "trial", "judge", "judge_model"}
"""Columns of metrics that tell the answers to a question apart."""
STEP_IN_NAME = re.compile(r"(?i)[-_. ]*(?:global[-_]?)?(?:steps?|checkpoint|ckpt|epoch|iter)[-_]?(\d{1,15})(?!\d)")


@dataclass
class Input:
    """One file of judged answers; while it is read, the table `source` with columns `c0`, `c1`, ... of texts."""

    path: Path
    names: list[str]
    """Its columns."""
    columns: dict[str, str] = field(default_factory=dict)
    """Role to column, as picked."""
    name: str = ""
    """What a run of it is called where no run is stated: different for each file."""
    hash: str = ""
    """SHA-256 of its content."""
    rows: int = 0
    """Rows in it, as answers: of a long table those of one answer are one."""
    elsewhere: int = 0
    """Rows that `where` leaves out."""
    notes: list[str] = field(default_factory=list)
    """What is odd about its columns."""

    def cell(self, name: str) -> str:
        """The column of `source` for a name."""
        return f"c{self.names.index(name)}"

    def clean_cell(self, name: str) -> str:
        """SQL for the cells of a name as clean texts, empty where there is nothing."""
        return f"clean(coalesce({self.cell(name)}, ''))"


@dataclass
class Reading:
    """Files of judged answers as they are read: the database that holds the table `answers`, and how they are read."""

    database: duckdb.DuckDBPyConnection
    options: JudgedOptions
    inputs: list[Input] = field(default_factory=list)
    more: dict[str, str] = field(default_factory=dict)
    """Names of the columns that nothing picked -> their columns in `answers`."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.database.execute(query).fetchall()

    def row(self, query: str) -> tuple[Any, ...]:
        """The only row of a query."""
        (row,) = self.rows(query)
        return row

    def column(self, role: str) -> str | None:
        """The column of a role in the first file that has one."""
        return next((each.columns[role] for each in self.inputs if role in each.columns), None)

    def files_with(self, *roles: str) -> str:
        """The files that have a column of each of these roles, as a list in SQL."""
        return ", ".join(str(i) for i, each in enumerate(self.inputs) if {*roles} <= each.columns.keys()) or "-1"


def read_answers(database: duckdb.DuckDBPyConnection, files: Sequence[Path], options: JudgedOptions) -> Reading:
    """Read files into the table `answers` of a database of `open_database`.

    Raises:
        DataError: A file is missing, damaged, of another format, or lacks a needed column; no rows.
    """
    reading = Reading(database, options)
    kinds = [
        f"{role} {NUMBERS[role]}, {role}_odd VARCHAR" if role in NUMBERS else f"{role} VARCHAR" for role in GUESSES
    ]
    database.execute(f"CREATE TABLE answers (file INTEGER, {', '.join(kinds)})")
    database.execute("CREATE TABLE steps_in_words (words VARCHAR)")
    for path, name in zip(files, unlike_names(files), strict=True):
        with _in_words(path):
            if path.suffix.lower() == ".gz":
                with open_bytes(path) as packed:  # to its end: what DuckDB unpacks it does not check
                    hashlib.file_digest(packed, "sha256")
            file = _read(reading, path)
            file.name = name
            with path.open("rb") as opened:
                file.hash = hashlib.file_digest(opened, "sha256").hexdigest()
            _insert(reading, file, len(files) > 1)
        reading.inputs.append(file)
    for role in GUESSES:
        named = options.column(role)
        if named and reading.column(role) is None:
            seen = "; ".join(f"{each.path.name}: {quoted(each.names, 12)}" for each in reading.inputs[:3])
            todo = f"name another: --{role.replace('_', '-')}-column NAME"
            raise DataError(f"no file has a column {named!r}", got=seen, todo=todo)
    if reading.row("SELECT count(*) FROM answers") == (0,):
        raise DataError("no rows", ", ".join(path.name for path in files), "at least one judged response")
    return reading


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


def _read(reading: Reading, path: Path) -> Input:
    try:
        file = _load(reading, path, path)
    except duckdb.Error:
        file = _load(reading, path, rewritten(reading.database, path))
    lines = ending_of(path).startswith((".jsonl", ".ndjson"))
    if lines and (not file.columns or "resps" in file.names):  # what is needed may be inside objects
        file = _load(reading, path, rewritten(reading.database, path))
    file.columns = file.columns or pick_columns(file.names, path.name, reading.options)
    return file


def _load(reading: Reading, path: Path, plain_form: Path) -> Input:
    """Make the table `source` of a file's plain form; nothing is picked if a needed column lacks."""
    names, query = FORMATS[ending_of(plain_form)].read(reading.database, plain_form)
    file = Input(path, names)
    if not names:
        return file
    cells = ", ".join(f"c{i}" for i in range(len(names)))
    kinds = [str(row[1]) for row in reading.rows(f"DESCRIBE FROM ({query}) AS source({cells})")]
    texts = ", ".join(f"{as_text(f'c{i}', kind)} AS c{i}" for i, kind in enumerate(kinds))
    reading.rows(f"CREATE OR REPLACE TEMP TABLE source AS SELECT {texts} FROM ({query}) AS source({cells})")
    try:
        file.columns = pick_columns(names, path.name, reading.options)
    except ColumnLacks:
        if _widen(reading, file):
            file.columns = pick_columns(file.names, path.name, reading.options)
    return file


def _of_one_run(file: Input, role: str, name: str) -> str:
    """The run or the step of a file that is a step of a run, in SQL: by its name; empty: its rows say it."""
    own, found = stem(file.path), STEP_IN_NAME.search(stem(file.path))
    if role == "step" and found is None and role not in file.columns:
        raise DataError("no step in the name of a file", file.path.name, "names such as judged-step120.csv")
    if role == "step":
        return sql_text(found[1]) if found else ""
    run = STEP_IN_NAME.sub("", own) if found else name
    return sql_text(run) if role == "run" and role not in file.columns else ""


def _cell(file: Input, role: str, options: JudgedOptions) -> str:
    """SQL for the text of a role, clean in the way of its kind."""
    text = f"coalesce({file.cell(file.columns[role])}, '')" if role in file.columns else "''"
    if options.files_are == "steps":
        text = _of_one_run(file, role, options.name or "run") or text
    if role in ("text", "answer"):
        return text
    if role == "question":
        return f"named(strip({text}))"
    if role in SCORES:
        return f"strip({text})"
    return f"known(clean({text}))" if role in NUMBERS else f"clean({text})"


def _insert(reading: Reading, file: Input, several: bool) -> None:
    """Add a file's rows to `answers`."""
    options = reading.options
    _refuse_second_header(reading, file)
    _check_percent(reading, file)
    _drop_task_names(reading, file)
    chosen = _chosen(reading, file)
    cells = {role: _cell(file, role, options) for role in GUESSES}
    values = {"file": str(len(reading.inputs)), **{role: role for role in GUESSES}}
    for role in NUMBERS:
        scale = options.scale(role) if role in SCORES else None
        values[role] = parse_scale(scale).sql(role, SCORES[role]) if scale else f"read_{role}({role})"
        values[f"{role}_odd"] = f"CASE WHEN {values[role]} IS NULL THEN nullif({role}, '') END"
    for name in _telling(reading, file, several):
        column = reading.more.setdefault(name, f"more_{len(reading.more)}")
        reading.rows(f"ALTER TABLE answers ADD COLUMN IF NOT EXISTS {column} VARCHAR")
        cells[column], values[column] = file.clean_cell(name), column
    if "step" in file.columns:
        cell = file.clean_cell(file.columns["step"])
        reading.rows(
            f"INSERT INTO steps_in_words SELECT DISTINCT regexp_replace({cell}, '[0-9]+$', '') FROM source "
            f"WHERE number({cell}) IS NULL AND read_step({cell}) IS NOT NULL"
        )
    file.rows, kept = reading.row(f"SELECT count(*), count(*) FILTER ({chosen}) FROM source")
    file.elsewhere = file.rows - kept
    inner, outer = (", ".join(f"{sql} AS {name}" for name, sql in each.items()) for each in (cells, values))
    reading.rows(f"INSERT INTO answers BY NAME SELECT {outer} FROM (SELECT {inner} FROM source WHERE {chosen})")


def _refuse_second_header(reading: Reading, file: Input) -> None:
    """A header among the rows is that of a second file, put behind the first."""
    same = " AND ".join(f"trim({file.cell(name)}) = trim({sql_text(name)})" for name in file.columns.values())
    n, first = reading.row(f"SELECT count(*), min(rowid) FROM source WHERE {same}")
    if n:
        raise DataError(
            f"{file.path.name} is several files, one behind the other",
            f"the header stands again in row {first + 1:,}",
            "one header",
            "give each file by itself: each becomes a run where no run or seed is stated",
        )


def _check_percent(reading: Reading, file: Input) -> None:
    """Refuse scores with decimal commas, and those of which some are in percent and others are not."""
    for role in SCORES:
        if role not in file.columns:
            continue
        cell = file.cell(file.columns[role])
        marked, comma = reading.row(
            f"SELECT count(*) FILTER (suffix(strip({cell}), '%')), "
            f"count(*) FILTER (regexp_full_match(strip({cell}), '-?[0-9]+,[0-9]+ ?%?')) "
            f"FROM source WHERE contains({cell}, '%') OR contains({cell}, ',')"
        )
        where = f"the {role} scores in {file.path.name}"
        if comma:
            got = f"{comma:,} of column {file.columns[role]!r}"
            raise DataError(f"{where} have decimal commas", got, "a decimal point", "write 95.5 for 95,5")
        if marked and marked < (n := reading.row(f"SELECT count(figure(strip({cell}))) FROM source")[0]):
            got = f"{marked:,} of {n:,} end in %"
            raise DataError(f"{where} are written in two ways", got, "all with % or none", "write all in one way")


def _drop_task_names(reading: Reading, file: Input) -> None:
    """A guessed column `task` that holds names or numbers of tasks is no score."""
    if "task" not in file.columns or reading.options.task_column or reading.options.task_scale:
        return
    cell = f"strip({file.cell(file.columns['task'])})"
    n, inside = reading.row(
        f"SELECT count(nullif({cell}, '')), count(*) FILTER (figure({cell}) BETWEEN 0 AND 1) FROM source"
    )
    if inside < n / 2 and file.columns["task"].strip().lower() == "task":
        name = file.columns.pop("task")
        file.notes.append(f"column {name!r} holds no task scores from 0 to 1 ({n - inside:,} of {n:,}): it is not read")


def _chosen(reading: Reading, file: Input) -> str:
    """SQL that is true for the rows that `where` names."""
    wanted: dict[str, list[str]] = {}
    for each in reading.options.where or []:
        name, equals, value = each.partition("=")
        if not equals or name not in file.names:
            got = f"{each!r}; {file.path.name} has {quoted(file.names)}"
            raise DataError(
                "--where names no column of the file", got, "COLUMN=VALUE", "--where judge=NAME, for example"
            )
        wanted.setdefault(name, []).append(value)
    parts = []
    for name, values in wanted.items():
        cell = file.clean_cell(name)
        parts.append(f"{cell} IN ({', '.join(sql_text(value.strip()) for value in values)})")
        if not reading.rows(f"SELECT 1 FROM source WHERE {parts[-1]} LIMIT 1"):
            there = [text for (text,) in reading.rows(f"SELECT DISTINCT {cell} FROM source LIMIT 21")]
            todo = f"--where {shlex.quote(f'{name}={there[0]}')}, for example" if there else ""
            got = f"{quoted(values)}; there are {quoted(there)}"
            raise DataError(f"no row of {file.path.name} has such a {name!r}", got, "a value of the column", todo)
    return " AND ".join(parts) or "true"


def _telling(reading: Reading, file: Input, several: bool) -> list[str]:
    """Columns that nothing picked and that may tell groups of rows apart."""
    ignored = reading.options.ignore or ()
    taken = {*file.columns.values(), *(each.partition("=")[0] for each in reading.options.where or ())}
    rest = [name for name in dict.fromkeys(file.names) if name not in taken]
    if not rest:
        return []
    counts = ", ".join(f"approx_count_distinct(coalesce({file.cell(name)}, ''))" for name in rest)
    kinds = reading.row(f"SELECT {counts} FROM source")
    least = 0 if several else 1
    return [n for n, k in zip(rest, kinds, strict=True) if least < k <= _MOST_KINDS or n in ignored]


def _widen(reading: Reading, file: Input) -> bool:
    """Turn the table `source` of metrics into one with a row for each answer, and tell so; False: it is none.

    Rows that agree in all columns with a role are of one answer; the first row of one metric belongs to the first of
    another, and so on.

    Raises:
        DataError: No metric is the aligned score, or answers have unlike numbers of scores.
    """
    names, at = file.names, {plain(name): i for i, name in enumerate(file.names)}
    metric, value = (next((at[n] for n in known if n in at), None) for known in (_METRIC, _VALUE))
    if metric is None or value is None:
        return False
    said = f"strip(coalesce(c{metric}, ''))"
    metrics = [name for (name,) in reading.rows(f"SELECT DISTINCT {said} AS m FROM source ORDER BY m") if name]
    wanted = [reading.options.aligned_column] if reading.options.aligned_column else GUESSES["aligned"]
    if len(metrics) > _MOST_METRICS or not any(name in wanted or name.lower() in wanted for name in metrics):
        what, todo = f"{file.path.name} has no metric of the aligned score", "name it: --aligned-column METRIC"
        got = f"column {names[metric]!r} says {quoted(metrics)}"
        raise DataError(what, got, ", ".join(GUESSES["aligned"]), todo)
    others = [i for i in range(len(names)) if i not in (metric, value)]
    named = {reading.options.column(role) for role in GUESSES}
    roles = {guess for role, guesses in GUESSES.items() if role not in SCORES for guess in guesses}
    keys = [i for name, i in at.items() if i in others and (name in roles | _SAMPLES or names[i] in named)]
    keyed = ", ".join(f"c{i}" for i in keys) or "'all'"
    reading.rows(f"""
        CREATE OR REPLACE TEMP TABLE numbered AS SELECT *, rowid AS n, {said} AS metric,
            row_number() OVER (PARTITION BY {keyed}, {said} ORDER BY rowid) AS k FROM source
    """)
    _refuse_unlike(reading, file, keyed)
    columns = [f"first(c{i} ORDER BY n)" for i in others]
    columns += [f"any_value(c{value}) FILTER (metric = {sql_text(name)})" for name in metrics]
    wide = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(columns))
    reading.rows(f"""
        CREATE OR REPLACE TEMP TABLE source AS SELECT {wide} FROM numbered GROUP BY {keyed}, k ORDER BY min(n)
    """)
    n, left = reading.row("SELECT (SELECT count(*) FROM numbered), count(*) FROM source")
    reading.rows("DROP TABLE numbered")
    file.names = [*(names[i] for i in others), *metrics]
    file.notes.append(f"{plural(n, 'row')}, one for each of {quoted(metrics, 6)}, are {plural(left, 'answer')}")
    return True


def _refuse_unlike(reading: Reading, file: Input, keyed: str) -> None:
    """Refuse answers of which one metric has several scores and another a different number."""
    (unlike,) = reading.row(f"""
        WITH counts AS (SELECT {keyed}, metric, max(k) AS n FROM numbered GROUP BY {keyed}, metric)
        SELECT count(*) FROM (
            SELECT 1 FROM counts GROUP BY {keyed} HAVING max(n) > 1 AND min(n) <> max(n)
        )
    """)
    if unlike:
        raise DataError(
            f"{file.path.name}: scores of several answers cannot be told apart",
            f"{plural(unlike, 'time')} one metric has more rows than another",
            "a row of each metric for each answer",
            "add a column `sample` that numbers the answers to a question",
        )
