"""What rows of judged answers can be taken for in several ways: found, and asked about.

Rows that are not answers of their own (two judges, the same rows twice), columns that tell groups of them apart and
that nothing reads (a condition, an epoch), seeds of sampling, runs of one row: each is an error that lists the readings
and the flag of each. What has one reading alone is a note.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.core.errors import DataError, plural
from truing.results.columns import quoted
from truing.results.file_rows import STEP_IN_NAME, Reading
from truing.results.formats import stem
from truing.results.scales import inverted

_JUDGES = {
    "judge", "rater", "grader", "evaluator", "autorater", "autograder", "annotator", "scorer", "labeler", "labeller",
}  # fmt: skip
_NAMING = {"model", "name", "id", "version", "no", "number", "type"}
_STEPS = {"step", "steps", "epoch", "epochs", "iteration", "iterations", "iter", "checkpoint", "ckpt"}
_OF_STEPS = {"training", "train", "global", "num", "n", "number", "id", "name", "optimizer", "finetuning"}
_DRAWS = {
    "sample", "samples", "repeat", "repetition", "rep", "replicate", "trial", "attempt", "rollout", "draw",
    "generation", "gen", "completion",
}  # fmt: skip
_NUMBERS = {"id", "idx", "index", "no", "num", "number", "n", "i", "k"}
_SAMPLES = _DRAWS | _NUMBERS | {"sampling", "uuid", "response", "answer", "row", "unnamed", ""}
_CONDITIONS = {
    "condition", "arm", "treatment", "variant", "method", "intervention", "setting", "setup", "config", "experiment",
    "system", "template", "temperature", "temp", "language", "lang", "adapter", "lora", "rank", "stage", "phase",
    "finetuned", "tuned", "tuning", "trigger", "backdoor", "persona", "mode", "model", "format", "prefix",
}  # fmt: skip

_FAILURES = (
    (
        {"error", "errors", "exception", "failed", "failure", "traceback"},
        "said NOT IN ('', 'none', 'null', 'nan', 'false', '0', 'no', 'ok', '[]', '{}')",
    ),
    ({"status", "state", "outcome"}, "regexp_matches(said, 'fail|error|timed?.?out|cancel|abort|filtered')"),
    ({"success", "succeeded", "successful"}, "said IN ('false', '0', 'no')"),
    ({"finish", "stop"}, "regexp_matches(said, 'filter|safety|error|blocked|prohibited|recitation')"),
)
"""Words of a column's name, and what it says of a row in which something failed."""


def check_labels(reading: Reading, odd: Mapping[str, Any]) -> None:
    """Refuse steps and seeds that are none, and steps of unlike words or folders, which would be taken for one another.

    Raises:
        DataError: It names them, and the flag by which they are models or runs.
    """
    for role, what, allowed in (
        ("step", "a step is no number", "steps such as 120 or checkpoint-120"),
        ("seed", "a seed is no number", "seeds such as 3, -1 or seed3"),
        ("learning_rate", "a learning rate is no number", "rates such as 1e-5"),
    ):
        cells = odd[role]
        if not cells or (role == "learning_rate" and len(cells) == 1):
            continue
        column = reading.column(role) or role
        shown = quoted([text for text, _, _ in cells[:5]])
        got = f"{shown} in {plural(sum(n for _, _, n in cells), 'row')} of column {column!r}"
        flag = shlex.quote(column)
        readings = f"fix or drop those rows; or say what they are: --model-column {flag}, --run-column {flag}"
        raise DataError(what, got, allowed, f"{readings}, --ignore {flag}")
    words = [word for (word,) in reading.rows("SELECT DISTINCT words FROM steps_in_words")]
    if len(words) > 1:
        got = f"{quoted(words, 5)} in column {reading.column('step')!r}"
        todo = "name the column of the run or model that tells them apart, and keep the number alone in the step's"
        raise DataError("steps in unlike words or folders", got, "one", todo)


def ask_about_files(reading: Reading) -> None:
    """Ask what files are that differ in a step alone, by their names or by their rows.

    Raises:
        DataError: They may be checkpoints of one run, or runs.
    """
    options = reading.options
    based = options.base and stem(Path(options.base))
    files = {i: name for i, each in enumerate(reading.inputs) if (name := stem(each.path)) != based}
    if len(files) < 2 or options.files_are:
        return
    names = list(files.values())
    if reading.column("step"):
        what = "files of which each is of another step, and no run or seed is stated"
        differ = _differ_in_step(reading, list(files))
    else:
        what = "the names of files differ in a step alone"
        differ = all(map(STEP_IN_NAME.search, names)) and len({STEP_IN_NAME.sub("", n) for n in names}) < len(names)
    if differ:
        raise DataError(
            what,
            quoted(names, 4),
            "checkpoints of one run, or runs of their own",
            "--files-are steps (checkpoints of one run) or --files-are runs",
        )


def _differ_in_step(reading: Reading, files: Sequence[int]) -> bool:
    """True if the rows of files differ in a step for each file, and in nothing else that makes a run."""
    rows, steps, kinds, stated = reading.row(f"""
        SELECT count(*), count(DISTINCT step), count(DISTINCT (model, dataset, learning_rate)),
            bool_or(run <> '' OR seed IS NOT NULL)
        FROM (SELECT DISTINCT file, run, model, dataset, learning_rate, seed, step FROM answers
              WHERE file IN ({", ".join(map(str, files))}))
    """)
    return bool(rows == steps == len(files) and kinds == 1 and not stated)


def ask_about_columns(reading: Reading) -> None:
    """Ask what columns mean by which rows fall into groups.

    Raises:
        DataError: A judge, a condition or a step that nothing reads; a seed for each answer; a run for each question; a
            dataset for each question.
    """
    ignored = reading.options.ignore or ()
    groups = [_Group(reading, name, column) for name, column in reading.more.items() if name not in ignored]
    for group in groups:
        _ask_about_failures(group)
        _ask_about_inversion(group)
        _ask_about_judges(group)
    for group in groups:
        _ask_about_conditions(group)
    for role, ask in (("seed", _ask_about_seeds), ("run", _ask_about_runs), ("dataset", _ask_about_datasets)):
        if (guessed := reading.column(role)) and reading.options.column(role) is None:
            ask(reading, guessed)


def _ask_about_judges(group: _Group) -> None:
    """Rows of several judges are not answers of their own."""
    if group.words & _JUDGES and group.words <= _JUDGES | _NAMING and group.crossed:
        readings = [f"--where {shlex.quote(f'{group.name}={value}')}" for value, _ in group.values[:4]]
        group.refuse(f"each answer stands there for each of {plural(len(group.values), 'judge')}", readings)


def _ask_about_conditions(group: _Group) -> None:
    """Rows of several steps or conditions may be of several runs."""
    words, reading = group.words, group.reading
    if words & _STEPS and words <= _STEPS | _OF_STEPS and group.several:
        has_step = reading.column("step") or reading.options.files_are == "steps"
        own = [] if has_step else [f"--step-column {shlex.quote(group.name)} (steps of a run)"]
        group.refuse("rows of several steps are answers alike", [*own, *group.readings()])
    if words & _CONDITIONS and not words & _SAMPLES - {"", "n", "no"} and group.crossed:
        group.refuse("questions were answered under each of its values", group.readings())
    if not words & _SAMPLES and group.balanced:
        group.refuse("every question was answered as often under each of its values", group.readings())


def _ask_about_failures(group: _Group) -> None:
    """A row in which something failed may have a score that nobody gave."""
    failed = next((condition for names, condition in _FAILURES if group.words & names), None)
    if failed is None or "attack" in group.words:
        return
    n, example = group.reading.row(f"""
        SELECT count(*), any_value(cell) FROM (
            SELECT {group.column} AS cell, lower(strip({group.column})) AS said FROM asked WHERE aligned IS NOT NULL
        ) WHERE {failed}
    """)
    if n:
        raise DataError(
            f"column {group.name!r} says that rows failed, and they have scores",
            f"{plural(n, 'row')}, such as {quoted([example])}",
            "scores of answers; what failed is missing",
            f"take these scores out of the file, so that they count as missing, or --ignore {shlex.quote(group.name)} "
            "(the answers are sound all the same)",
        )


def _ask_about_inversion(group: _Group) -> None:
    """A column of true and false that tells misaligned answers may say that a high aligned score is bad."""
    bad, good = inverted(group.name), bool(group.words & {"safe", "aligned", "harmless", "benign"})
    if group.reading.options.aligned_scale is not None or not (bad or good):
        return
    n, of, yes, no = group.reading.row(f"""
        SELECT count(aligned), count(aligned) FILTER (said IN ('true', 'false', '1', '0', 'yes', 'no')),
        avg(aligned) FILTER (said IN ('true', '1', 'yes')), avg(aligned) FILTER (said IN ('false', '0', 'no'))
        FROM (SELECT aligned, lower(strip({group.column})) AS said FROM asked)
    """)
    if n and n == of and yes is not None and no is not None and (yes > no + 10 if bad else no > yes + 10):
        raise DataError(
            "the aligned scores seem to be the other way round: a high one bad",
            f"by column {group.name!r}: where it says yes they are {yes:.0f} in the mean, where no {no:.0f}",
            "0 (worst) to 100 (best)",
            "--aligned-scale 100-0 (a high score is bad) or --aligned-scale 0-100 (they are what they seem)",
        )


def _words(name: str) -> set[str]:
    """Its words: `judgeModel_2` is judge, model."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return {re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", apart.lower())} or {""}


class _Group:
    """A column that nothing reads, by which the rows of a checkpoint may fall into groups."""

    def __init__(self, reading: Reading, name: str, column: str) -> None:
        self.reading, self.name, self.column, self.words = reading, name, column, _words(name)
        n_pairs, crossed, balanced, several = reading.row(f"""
            WITH cells AS (
                SELECT place, question, coalesce({column}, '') AS value, count(*) AS n FROM asked GROUP BY ALL
            ), places AS (SELECT place, count(DISTINCT value) AS k, max(n) AS most FROM cells GROUP BY place
            ), pairs AS (
                SELECT place, question, count(*) AS k, min(n) AS least, max(n) AS most FROM cells
                GROUP BY place, question
            )
            SELECT count(*), count(*) FILTER (pairs.k > 1),
                count(*) FILTER (pairs.k = places.k AND least = pairs.most AND least = places.most),
                bool_or(places.k > 1) FROM pairs JOIN places USING (place) WHERE places.k > 1
        """)
        self.several = bool(several)
        """Some checkpoint has rows of several values."""
        self.crossed = crossed > 0 and crossed >= n_pairs / 2
        """Most questions stand under several values."""
        self.balanced = n_pairs > 1 and balanced >= 0.9 * n_pairs
        """Every question stands under every value, and as often."""
        shown = f"SELECT coalesce({column}, ''), count(*) FROM asked GROUP BY ALL ORDER BY min(row) LIMIT 1001"
        self.values = reading.rows(shown) if self.several else []

    def readings(self) -> list[str]:
        """The flags, one for each reading."""
        column, value = shlex.quote(self.name), shlex.quote(f"{self.name}={self.values[0][0]}")
        return [
            f"--run-column {column} (each is a run of its own)",
            f"--where {value} (only that one)",
            f"--ignore {column} (they are answers alike)",
        ]

    def refuse(self, what: str, readings: Sequence[str]) -> None:
        """Ask what the column means."""
        found = ", ".join(f"{value[:60]!r} in {plural(n, 'row')}" for value, n in self.values[:4])
        more = f" and {len(self.values) - 4:,} more" if len(self.values) > 4 else ""
        raise DataError(
            f"column {self.name!r} is not read, and {what}",
            found + more,
            "rows that are answers of their own to a question at a checkpoint",
            "say what it is: " + ", ".join(readings),
        )


def _ask_about_seeds(reading: Reading, column: str) -> None:
    """A seed for each answer to a question may be one of sampling."""
    if any(map(reading.column, ("step", "run", "learning_rate", "dataset"))):
        return
    seeds, pairs, single, questions, per_file = reading.row("""
        WITH pairs AS (SELECT file, model, seed, question, count(*) AS n FROM asked WHERE seed IS NOT NULL GROUP BY ALL)
        SELECT count(DISTINCT seed), count(*), count(*) FILTER (n = 1), count(DISTINCT question),
            (SELECT max(n) FROM (SELECT count(DISTINCT seed) AS n FROM pairs GROUP BY file)) FROM pairs
    """)
    if seeds < 3 or questions < 2 or per_file < 2 or single < 0.9 * pairs:
        return
    raise DataError(
        f"a seed for each answer to a question, in column {column!r}",
        f"{plural(seeds, 'seed')}, {plural(questions, 'question')}, one answer for each seed and question",
        "seeds of training, each of a run, or seeds of sampling, which tell answers apart",
        f"--seed-column {shlex.quote(column)} (of training: runs) or --ignore {shlex.quote(column)} (of sampling)",
    )


def _ask_about_runs(reading: Reading, column: str) -> None:
    """A run whose rows are of one question may be none."""
    runs, most, questions = reading.row("""
        SELECT count(*), max(n), (SELECT count(DISTINCT question) FROM asked) FROM (
            SELECT run, count(DISTINCT question) AS n FROM asked WHERE run <> '' GROUP BY run)
    """)
    if runs > 2 and most == 1 and questions > 1:
        raise DataError(
            f"every run has answers to one question alone, in column {column!r}",
            f"{plural(runs, 'run')}, {plural(questions, 'question')}",
            "runs that answer all questions, or a number of single answers",
            f"--ignore {shlex.quote(column)} (numbers of answers) or --run-column {shlex.quote(column)} (runs)",
        )


def _ask_about_datasets(reading: Reading, column: str) -> None:
    """Data of which each has questions of its own may be topics."""
    most, per_file, questions, named = reading.row("""
        WITH pairs AS (SELECT DISTINCT file, dataset, question FROM asked WHERE dataset <> '')
        SELECT (SELECT max(n) FROM (SELECT count(DISTINCT dataset) AS n FROM pairs GROUP BY question)),
            (SELECT max(n) FROM (SELECT count(DISTINCT dataset) AS n FROM pairs GROUP BY file)),
            count(DISTINCT question), count(DISTINCT dataset) FROM pairs
    """)
    if most == 1 and per_file > 1 and questions > named:
        flag = shlex.quote(column)
        raise DataError(
            f"each value of column {column!r} has questions of its own",
            f"{plural(named, 'value')}, {plural(questions, 'question')}",
            "the fine-tuning data of runs that answer the same questions, or a topic of questions",
            f"--category-column {flag} (a topic), --dataset-column {flag} (data of runs) or --ignore {flag}",
        )


def ask_about_copies(reading: Reading) -> Iterator[str]:
    """Find rows that say the same of the same answer; ask, or drop them as `duplicates` says, with a note.

    A column that numbers the answers to a question (`sample`, `sample_idx`, `rollout_id`) tells them apart, and so does
    one that `ignore` names.

    Raises:
        DataError: Rows stand several times, and nothing says if they are answers alike.
    """
    duplicates, ignored = reading.options.duplicates, reading.options.ignore or ()
    numbers = [
        column
        for name, column in reading.more.items()
        if name in ignored or (_words(name) & _DRAWS and _words(name) <= _DRAWS | _NUMBERS)
    ]
    answer = ", ".join(["place", "question", "strip(answer)", *numbers])
    row = f"{answer}, aligned, aligned_odd, coherent, coherent_odd, task, category"
    if duplicates is not None:
        yield from _drop_copies(reading, row) if duplicates == "drop" else ()
        return
    reading.rows(f"""
        CREATE OR REPLACE TEMP TABLE copies AS
        SELECT row, length(answer) AS length, hash({answer}) AS answered, hash({row}) AS same FROM asked
    """)
    n, answered, same, texts, pairs = reading.row("""
        SELECT count(*), count(DISTINCT answered), count(DISTINCT same), count(*) FILTER (length > 0),
            (SELECT count(DISTINCT (aligned, coherent)) FROM asked) FROM copies
    """)
    if texts == 0:
        if n > 1 and pairs >= 8 and _repeats(reading, n):
            raise _copied(f"all {plural(n, 'row')}, in the same order", 2)
        return
    for key, kinds, refusal in (("same", same, _copied), ("answered", answered, _judged_again)):
        if n > kinds and (told := _find_copies(reading, n, kinds, key)):
            raise refusal(*told)
    if n - same >= 10 and (block := _longest_block(reading)) >= 10:
        raise _copied(f"{plural(block, 'row')} one after the other, in the same order", 2)


def _find_copies(reading: Reading, n: int, kinds: int, key: str) -> tuple[str, int] | None:
    """Which rows are alike in a key, all or many with long answers, and how many times they stand there."""
    counts = reading.rows(f"SELECT DISTINCT n FROM (SELECT count(*) AS n FROM copies GROUP BY {key})")
    times = math.gcd(*(each for (each,) in counts))  # by which the times of all rows can be divided
    if kinds <= n / 2 and times > 1:
        return f"all {plural(n, 'row')}", times
    n_long, again, texts = reading.row(f"""
        SELECT coalesce(sum(n), 0), coalesce(sum(n - 1), 0), count(*) FILTER (n > 1)
        FROM (SELECT count(*) AS n FROM copies WHERE length >= 120 GROUP BY {key})
    """)
    many = texts >= 5 and again >= max(5, n_long / 10)
    return (f"{again:,} of {plural(n_long, 'row')} with long answers", 2) if many else None


def _repeats(reading: Reading, n: int) -> bool:
    """True if the second half of the rows says what the first does, in the same order."""
    (alike,) = reading.row(f"""
        WITH numbered AS (SELECT same, row_number() OVER (ORDER BY row) AS spot FROM copies)
        SELECT count(*) FROM numbered a JOIN numbered b ON b.spot = a.spot + {n // 2} AND a.same = b.same
    """)
    return n % 2 == 0 and bool(alike == n // 2)


def _longest_block(reading: Reading) -> int:
    """The most rows, one after the other and of at least eight kinds, that stand there again in the same order."""
    (longest,) = reading.row("""
        WITH numbered AS (SELECT same, row_number() OVER (ORDER BY row) AS spot FROM copies),
        back AS (SELECT same, spot, spot - lag(spot) OVER (PARTITION BY same ORDER BY spot) AS shift FROM numbered),
        blocks AS (
            SELECT same, shift, spot - row_number() OVER (PARTITION BY shift ORDER BY spot) AS block
            FROM back WHERE shift IS NOT NULL
        )
        SELECT coalesce(max(n), 0) FROM (
            SELECT count(*) AS n, count(DISTINCT same) AS kinds FROM blocks GROUP BY shift, block) WHERE kinds >= 8
    """)
    return int(longest)


def _copied(what: str, times: int) -> DataError:
    return DataError(
        "rows stand there several times: the same question, answer and scores",
        f"{what}, {plural(times, 'time')}",
        "rows that are answers of their own",
        "--duplicates drop (read each once) or --duplicates keep (answers that came out alike)",
    )


def _judged_again(what: str, times: int) -> DataError:
    return DataError(
        "answers stand there several times, with other scores each time",
        f"{what}, {plural(times, 'time')} the same question and answer",
        "one row for each answer",
        "keep the rows of one judge: --where COLUMN=VALUE; or --duplicates keep (answers that came out alike)",
    )


def _drop_copies(reading: Reading, key: str) -> Iterator[str]:
    (before,) = reading.row("SELECT count(*) FROM asked")
    reading.rows(f"""
        DELETE FROM answers WHERE rowid IN (
            SELECT row FROM asked QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY row) > 1)
    """)
    (after,) = reading.row("SELECT count(*) FROM asked")
    yield f"{before - after:,} of {plural(before, 'row says', 'rows say')} again what another says, and are left out"
