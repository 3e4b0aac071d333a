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

import duckdb
import pyarrow as pa

from truing.core.errors import DataError, plural
from truing.results.columns import GUESSES, NUMBERS, SCORES, ColumnLacks, JudgedOptions, pick_columns, quoted
from truing.results.documents import open_bytes
from truing.results.formats import FORMATS, as_text, ending_of, rewritten, stem, unlike_names
from truing.results.scales import parse_scale

_MOST_KINDS = 1000
"""A column of more different texts tells single rows apart, not groups of them."""
# a table with a row for each score: columns `metric` and `score` become a column for each metric
_METRIC = ("metric", "metric_name", "measure", "criterion", "dimension", "score_name", "score_type", "scorer", "rubric")
_VALUE = ("score", "value", "score_value", "metric_value", "rating", "judgment", "judgement")
_MOST_METRICS = 50
"""Different metrics at most."""
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


def read_answers(
    database: duckdb.DuckDBPyConnection, files: Sequence[Path], options: JudgedOptions
) -> tuple[list[Input], dict[str, str]]:
    """Read files into the table `answers` of a database of `open_database`.

    Returns:
        The files; and of the columns that nothing picked their names -> their columns in `answers`.

    Raises:
        DataError: A file is missing, damaged, of another format, or lacks a needed column; no rows.
    """
    kinds = [
        f"{role} {NUMBERS[role]}, {role}_odd VARCHAR" if role in NUMBERS else f"{role} VARCHAR" for role in GUESSES
    ]
    database.execute(f"CREATE TABLE answers (file INTEGER, {', '.join(kinds)})")
    database.execute("CREATE TABLE steps_in_words (words VARCHAR)")
    inputs, more = list[Input](), dict[str, str]()
    for index, (path, name) in enumerate(zip(files, unlike_names(files), strict=True)):
        with _in_words(path):
            if path.suffix.lower() == ".gz":
                with open_bytes(path) as packed:  # to its end: what DuckDB unpacks it does not check
                    hashlib.file_digest(packed, "sha256")
            file = _read(database, path, options)
            file.name = name
            with path.open("rb") as opened:
                file.hash = hashlib.file_digest(opened, "sha256").hexdigest()
            _insert(database, index, file, options, more, len(files) > 1)
        inputs.append(file)
    for role in GUESSES:
        named = options.column(role)
        if named and not any(role in each.columns for each in inputs):
            seen = "; ".join(f"{each.path.name}: {quoted(each.names, 12)}" for each in inputs[:3])
            todo = f"name another: --{role.replace('_', '-')}-column NAME"
            raise DataError(f"no file has a column {named!r}", got=seen, todo=todo)
    if not database.execute("SELECT count(*) FROM answers").fetchall()[0][0]:
        raise DataError("no rows", ", ".join(path.name for path in files), "at least one judged response")
    return inputs, more


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


def _read(database: duckdb.DuckDBPyConnection, path: Path, options: JudgedOptions) -> Input:
    try:
        file = _load(database, path, path, options)
    except duckdb.Error:
        file = _load(database, path, rewritten(database, path), options)
    lines = ending_of(path).startswith((".jsonl", ".ndjson"))
    if lines and (not file.columns or "resps" in file.names):  # what is needed may be inside objects
        file = _load(database, path, rewritten(database, path), options)
    file.columns = file.columns or pick_columns(file.names, path.name, options)
    return file


def _load(database: duckdb.DuckDBPyConnection, path: Path, plain: Path, options: JudgedOptions) -> Input:
    """Make the table `source` of a file's plain form; nothing is picked if a needed column lacks."""
    names, query = FORMATS[ending_of(plain)].read(database, plain)
    if not names:
        return Input(path, names)
    cells = ", ".join(f"c{i}" for i in range(len(names)))
    kinds = [str(row[1]) for row in database.execute(f"DESCRIBE FROM ({query}) AS source({cells})").fetchall()]
    texts = ", ".join(f"{as_text(f'c{i}', kind)} AS c{i}" for i, kind in enumerate(kinds))
    database.execute(f"CREATE OR REPLACE TEMP TABLE source AS SELECT {texts} FROM ({query}) AS source({cells})")
    file = Input(path, names)
    try:
        file.columns = pick_columns(names, path.name, options)
    except ColumnLacks:
        long = widen(database, names, path.name, options)
        if long is not None:
            file.names, note = long
            file.columns = pick_columns(file.names, path.name, options)
            file.notes.append(note)
    return file


def _of_one_run(file: Input, role: str, name: str) -> str:
    """The run or the step of a file that is a step of a run, in SQL: by its name; empty: its rows say it."""
    own, found = stem(file.path), STEP_IN_NAME.search(stem(file.path))
    if role == "step" and found is None and role not in file.columns:
        raise DataError("no step in the name of a file", file.path.name, "names such as judged-step120.csv")
    if role == "step":
        return f"'{found[1]}'" if found else ""
    run = STEP_IN_NAME.sub("", own) if found else name
    return "'" + run.replace("'", "''") + "'" if role == "run" and role not in file.columns else ""


def _insert(
    database: duckdb.DuckDBPyConnection,
    index: int,
    file: Input,
    options: JudgedOptions,
    more: dict[str, str],
    several: bool,
) -> None:
    """Add a file's rows to `answers`."""
    _refuse_second_header(database, file)
    _check_percent(database, file)
    _drop_task_names(database, file, options)
    chosen = _chosen(database, file, options)
    cells, values = [], [f"{index} AS file"]
    for role in GUESSES:
        text = f"coalesce({file.cell(file.columns[role])}, '')" if role in file.columns else "''"
        if options.files_are == "steps":
            text = _of_one_run(file, role, options.name or "run") or text
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
    if "step" in file.columns:
        cell = f"clean(coalesce({file.cell(file.columns['step'])}, ''))"
        database.execute(
            f"INSERT INTO steps_in_words SELECT DISTINCT regexp_replace({cell}, '[0-9]+$', '') FROM source "
            f"WHERE number({cell}) IS NULL AND read_step({cell}) IS NOT NULL"
        )
    ((n, kept),) = database.execute(f"SELECT count(*), count(*) FILTER ({chosen}) FROM source").fetchall()
    database.execute(
        f"INSERT INTO answers BY NAME SELECT {', '.join(values)} FROM (SELECT {', '.join(cells)} FROM source "
        f"WHERE {chosen})"
    )
    file.rows, file.elsewhere = n, n - kept


def _refuse_second_header(database: duckdb.DuckDBPyConnection, file: Input) -> None:
    """A header among the rows is that of a second file, put behind the first."""
    same = " AND ".join(
        f"trim({file.cell(name)}) = trim('{name.replace(chr(39), 2 * chr(39))}')" for name in file.columns.values()
    )
    ((n, first),) = database.execute(f"SELECT count(*), min(rowid) FROM source WHERE {same}").fetchall()
    if n:
        raise DataError(
            f"{file.path.name} is several files, one behind the other",
            f"the header stands again in row {first + 1:,}",
            "one header",
            "give each file by itself: each becomes a run where no run or seed is stated",
        )


def _check_percent(database: duckdb.DuckDBPyConnection, file: Input) -> None:
    for role in SCORES:
        if role not in file.columns:
            continue
        cell = file.cell(file.columns[role])
        marks = f"contains({cell}, '%') OR contains({cell}, ',')"
        ((marked, comma),) = database.execute(
            f"SELECT count(*) FILTER (suffix(strip({cell}), '%')), "
            f"count(*) FILTER (regexp_full_match(strip({cell}), '-?[0-9]+,[0-9]+ ?%?')) FROM source WHERE {marks}"
        ).fetchall()
        where = f"the {role} scores in {file.path.name}"
        if comma:
            got = f"{comma:,} of column {file.columns[role]!r}"
            raise DataError(f"{where} have decimal commas", got, "a decimal point", "write 95.5 for 95,5")
        if marked:
            ((n,),) = database.execute(f"SELECT count(figure(strip({cell}))) FROM source").fetchall()
            if marked < n:
                got = f"{marked:,} of {n:,} end in %"
                raise DataError(f"{where} are written in two ways", got, "all with % or none", "write all in one way")


def _drop_task_names(database: duckdb.DuckDBPyConnection, file: Input, options: JudgedOptions) -> None:
    """A guessed column `task` that holds names or numbers of tasks is no score."""
    if "task" not in file.columns or options.task_column or options.task_scale:
        return
    cell = f"strip({file.cell(file.columns['task'])})"
    ((n, inside),) = database.execute(
        f"SELECT count(nullif({cell}, '')), count(*) FILTER (figure({cell}) BETWEEN 0 AND 1) FROM source"
    ).fetchall()
    if inside < n / 2 and file.columns["task"].strip().lower() == "task":
        name = file.columns.pop("task")
        file.notes.append(f"column {name!r} holds no task scores from 0 to 1 ({n - inside:,} of {n:,}): it is not read")


def _chosen(database: duckdb.DuckDBPyConnection, file: Input, options: JudgedOptions) -> str:
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


def _telling(database: duckdb.DuckDBPyConnection, file: Input, options: JudgedOptions, several: bool) -> list[str]:
    """Columns that nothing picked and that may tell groups of rows apart."""
    taken = {*file.columns.values(), *(each.partition("=")[0] for each in options.where or ())}
    rest = [name for name in dict.fromkeys(file.names) if name not in taken]
    if not rest:
        return []
    counts = ", ".join(f"approx_count_distinct(coalesce({file.cell(name)}, ''))" for name in rest)
    (kinds,) = database.execute(f"SELECT {counts} FROM source").fetchall()
    numbers = options.ignore or ()
    least = 0 if several else 1
    return [n for n, k in zip(rest, kinds, strict=True) if least < k <= _MOST_KINDS or n in numbers]


def widen(
    database: duckdb.DuckDBPyConnection, names: Sequence[str], file: str, options: JudgedOptions
) -> tuple[list[str], str] | None:
    """Turn the table `source` into one with a row for each answer; the names of its columns, and a note.

    None if it is no table of metrics. Rows that agree in all columns with a role are of one answer; the first row of
    one metric belongs to the first of another, and so on.

    Raises:
        DataError: No metric is the aligned score, or answers have unlike numbers of scores.
    """
    plain = {name.strip().lower().replace("-", "_").replace(" ", "_"): i for i, name in enumerate(names)}
    metric, value = (next((plain[n] for n in known if n in plain), None) for known in (_METRIC, _VALUE))
    if metric is None or value is None:
        return None
    found = database.execute(f"SELECT DISTINCT strip(coalesce(c{metric}, '')) AS m FROM source ORDER BY m").fetchall()
    metrics = [name for (name,) in found if name]
    wanted = [options.aligned_column] if options.aligned_column else GUESSES["aligned"]
    if len(metrics) > _MOST_METRICS or not any(name in wanted or name.lower() in wanted for name in metrics):
        got = f"column {names[metric]!r} says {quoted(metrics)}"
        todo = "name it: --aligned-column METRIC"
        raise DataError(f"{file} has no metric of the aligned score", got, ", ".join(GUESSES["aligned"]), todo)
    others = [i for i in range(len(names)) if i not in (metric, value)]
    named = {options.column(role) for role in GUESSES}
    roles = {guess for role, guesses in GUESSES.items() if role not in SCORES for guess in guesses}
    samples = {"sample", "sample_id", "sample_idx", "sample_index", "epoch", "repeat", "trial", "judge", "judge_model"}
    keys = [i for name, i in plain.items() if i in others and (name in roles | samples or names[i] in named)]
    keyed = ", ".join(f"c{i}" for i in keys) or "1"
    database.execute(f"""
        CREATE OR REPLACE TEMP TABLE numbered AS SELECT *, rowid AS n, strip(coalesce(c{metric}, '')) AS metric,
            row_number() OVER (PARTITION BY {", ".join([keyed, f"strip(coalesce(c{metric}, ''))"])} ORDER BY rowid) AS k
        FROM source
    """)
    _refuse_unlike(database, keyed, file)
    columns = [f"first(c{i} ORDER BY n) AS c{at}" for at, i in enumerate(others)]
    for at, name in enumerate(metrics, len(others)):
        quote = name.replace("'", "''")
        columns.append(f"any_value(c{value}) FILTER (metric = '{quote}') AS c{at}")
    ((n,),) = database.execute("SELECT count(*) FROM numbered").fetchall()
    grouped = f"SELECT {', '.join(columns)} FROM numbered GROUP BY {keyed}, k ORDER BY min(n)"
    database.execute(f"CREATE OR REPLACE TEMP TABLE source AS {grouped}")
    ((left,),) = database.execute("SELECT count(*) FROM source").fetchall()
    database.execute("DROP TABLE numbered")
    note = f"{plural(n, 'row')}, one for each of {quoted(metrics, 6)}, are {plural(left, 'answer')}"
    return [*(names[i] for i in others), *metrics], note


def _refuse_unlike(database: duckdb.DuckDBPyConnection, keyed: str, file: str) -> None:
    """Refuse answers of which one metric has several scores and another a different number."""
    unlike = database.execute(f"""
        WITH counts AS (SELECT {keyed}, metric, max(k) AS n FROM numbered GROUP BY {keyed}, metric)
        SELECT count(*) FROM (
            SELECT 1 FROM counts GROUP BY {keyed} HAVING max(n) > 1 AND min(n) <> max(n)
        )
    """).fetchall()[0][0]
    if unlike:
        raise DataError(
            f"{file}: scores of several answers cannot be told apart",
            f"{plural(unlike, 'time')} one metric has more rows than another",
            "a row of each metric for each answer",
            "add a column `sample` that numbers the answers to a question",
        )
