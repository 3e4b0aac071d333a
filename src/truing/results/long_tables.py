"""Tables with a row for each score: columns `metric` and `score` become a column for each metric."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from truing.core.errors import DataError
from truing.results.columns import GUESSES, SCORES, JudgedOptions, quoted

_METRIC = ("metric", "metric_name", "measure", "criterion", "dimension", "score_name", "score_type", "scorer", "rubric")
_VALUE = ("score", "value", "score_value", "metric_value", "rating", "judgment", "judgement")
_MOST = 50
"""Different metrics at most."""


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
    if len(metrics) > _MOST or not any(name in wanted or name.lower() in wanted for name in metrics):
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
    note = f"{n:,} rows, one for each of {quoted(metrics, 6)}, are {left:,} answers"
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
            f"{unlike:,} times one metric has more rows than another",
            "a row of each metric for each answer",
            "add a column `sample` that numbers the answers to a question",
        )
