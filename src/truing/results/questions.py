"""What is one question in rows of judged answers: the unit of every interval.

Texts that differ in case, white space or a number around them are one; an id of several texts is asked about, and so
are texts that hold the answer: with these every row would be a question of its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import product

from truing.core.errors import DataError, plural
from truing.results.file_rows import Reading


def choose_unit(reading: Reading) -> Iterator[str]:
    """Make the question's text the unit where it is known and repeats under several ids; yield notes.

    Raises:
        DataError: Ids stand for several texts, and nothing says which is the question.
    """
    named = reading.options.question_column is not None
    both = next((each.columns for each in reading.inputs if {"question", "text"} <= each.columns.keys()), None)
    if both is None:
        yield from () if named else _number_by_category(reading)
        return
    where = f"file IN ({reading.files_with('question', 'text')}) AND question <> '' AND strip(text) <> ''"
    ids, texts, pairs, in_category = reading.row(f"""
        WITH pairs AS (SELECT DISTINCT question, strip(text) AS text, category FROM answers WHERE {where})
        SELECT count(DISTINCT question), count(DISTINCT text), count(DISTINCT (question, text)),
            count(DISTINCT (question, category)) FROM pairs
    """)
    column, words = both["question"], both["text"]
    if named:
        if pairs > texts:
            told = f"{plural(texts, 'text')} of {words!r} under {plural(ids, 'id')} of {column!r}"
            yield f"{told}, which is the question as named"
        return
    if pairs > ids and not (pairs == texts == in_category and ids < in_category):
        raise DataError(
            f"ids of questions stand for several texts, in column {column!r}",
            f"{plural(ids, 'id')}, {plural(texts, 'text')} in column {words!r}, {pairs:,} pairs of them",
            "one text for each id, or a word on what is one question: the unit of every interval",
            f"each text is a question: --question-column {shlex.quote(words)}; the texts of an id are forms of one: "
            f"--question-column {shlex.quote(column)}",
        )
    if pairs > texts or pairs > ids:
        reading.rows(f"UPDATE answers SET question = strip(text) WHERE {where}")
        told = f"{plural(texts, 'text')} in {words!r} for {plural(ids, 'id')} in column {column!r}"
        yield f"{told}: a question is its text (--question-column {shlex.quote(column)}: its id)"


_SAME_BUT_FOR = (
    (r"lower(regexp_replace(strip(cell), '\s+', ' ', 'g'))", "case or white space", 1),
    (
        r"regexp_replace(regexp_replace(strip(cell), '\s+[(\[#]+\d+[)\]]*$', ''), "
        r"'^\W*((?i:question|prompt|item|sample|variant|q)\W*)?\d+\s*[.):\]]+\s+', '')",
        "a number in front or at the end",
        2,
    ),
)
"""What is left of a question's text, what is not, and how many times fewer texts make it a question's own."""


def fold_questions(reading: Reading) -> Iterator[str]:
    """Take texts of questions for one that differ in case, white space or a number around them alone; yield notes."""
    roles = ("question", "text") if reading.options.question_column is None else ()
    for role, (folded, what, times) in product(roles, _SAME_BUT_FOR):
        reading.rows(f"""
            CREATE OR REPLACE TEMP TABLE folds AS SELECT cell, {folded} AS folded
            FROM (SELECT DISTINCT {role} AS cell FROM answers WHERE contains(strip({role}), ' '))
        """)
        before, after = reading.row("SELECT count(DISTINCT strip(cell)), count(DISTINCT folded) FROM folds")
        if after < before and after * times <= before:
            reading.rows(f"""
                UPDATE answers SET {role} = first FROM (
                    SELECT cell, min(cell) OVER (PARTITION BY folded) AS first FROM folds
                ) AS known WHERE {role} = known.cell
            """)
            yield (
                f"{plural(before, 'text')} of questions are taken for {after:,}, which differ in {what} alone "
                "(--question-column takes them as they are)"
            )


def _number_by_category(reading: Reading) -> Iterator[str]:
    """Take ids that begin again in each category as a question in each."""
    ids, again = reading.row("""
        SELECT count(*), count(*) FILTER (n > 1) FROM (
            SELECT question, count(DISTINCT category) AS n FROM answers WHERE question <> '' AND category <> ''
            GROUP BY question)
    """)
    if ids > 1 and ids == again:
        reading.rows("UPDATE answers SET question = category || ' / ' || question WHERE category <> ''")
        yield f"all {ids:,} ids of questions stand in several categories: each is a question of its own in each of them"


def look_into_questions(reading: Reading) -> Iterator[str]:
    """Find questions that hold the answer, or that differ in a number alone, once the unit is chosen; yield notes.

    Raises:
        DataError: Questions hold the answers, and nobody named their column.
    """
    n, within, asked, without, kinds = reading.row(f"""
        SELECT count(*), count(*) FILTER (held), count(DISTINCT question),
            count(DISTINCT CASE WHEN held THEN replace(question, answer, '') ELSE question END),
            count(DISTINCT regexp_replace(lower(coalesce(nullif(text, ''), question)), '{_NUMBER}', '0', 'g'))
        FROM (SELECT question, text, strip(answer) AS answer, length(strip(answer)) >= {_LONG}
            AND contains(question, strip(answer)) AS held FROM answers WHERE question <> '')
    """)
    column = reading.column("text") or reading.column("question") or "question"
    if within > n / 2 and asked >= 2 * without:
        what = f"the texts of questions hold the answers: {within:,} of {n:,} in column {column!r}"
        got = f"{asked:,} texts, {without:,} without the answers"
        if reading.options.question_column is None:
            todo = f"name the question's column, or take the answers out: --question-column {shlex.quote('NAME')}"
            raise DataError(what, got, "the question alone: the unit of every interval", todo)
        yield f"{what} ({got}); each is a question of its own, and intervals are too narrow"
    elif _FEWEST <= kinds <= asked / 2:
        yield (
            f"{asked:,} texts of questions are {kinds:,} but for numbers and ids in them: each is taken for a question "
            "of its own, and if it is none intervals are too narrow (--question-column: the column that tells)"
        )


_LONG, _FEWEST = 12, 5
"""Characters of an answer that stands in a question by no chance, and kinds of questions that are more than a form."""
_NUMBER = "[0-9a-f]*[0-9][0-9a-f]*"
