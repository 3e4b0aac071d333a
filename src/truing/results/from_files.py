"""From files of anyone's judged answers to the `Source` of an analysis.

DuckDB reads, groups and joins; `classify` says what an answer is; no step loops over rows. Whatever is odd about the
data is told in the notes, with counts.

Shapes: N answers with a question, C checkpoints, P questions of the benchmark, Q questions with a task score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from truing.config import MisalignedRule
from truing.core.errors import DataError, plural
from truing.core.files import content_key
from truing.core.records import Benchmark, Prompt
from truing.judges.classify import classify, count
from truing.judges.preflight import load_preflight
from truing.results import counted, questions, readings
from truing.results.columns import NUMBERS, SCORES, JudgedOptions, quoted
from truing.results.file_rows import Reading, read_answers
from truing.results.file_runs import NOT_STATED, FileRun, choose_base, find_runs
from truing.results.formats import FORMATS, open_database, stem
from truing.results.judge import JudgeEntry
from truing.results.scales import check_scales
from truing.results.schema import SampleEntry
from truing.results.schema_runs import StudyEntry
from truing.stats.rates import Counts, IntArray

__all__ = ["JudgedOptions", "read_judged"]

NO_QUESTION = "(no question)"
_MOST_CELLS = 100_000_000
_MOST_SAMPLES = 400
_EMPTY = (
    "the answer is empty, a word for nothing, a failed call or reasoning alone "
    "(--ignore its column if the file does not hold all answers)"
)
_LACKING = {
    "step": "no column of the step: each run is shown as one checkpoint, step 1",
    "category": "no column of the category: all questions are in one, `all`",
    "answer": "no column of the answer: equal runs are not found, and no samples are shown",
    "coherent": "no column of the coherent score: every answer with an aligned score counts as coherent",
    "learning_rate": "no column of the learning rate",
    "seed": "no column of the seed",
}


def read_judged(files: Sequence[Path], options: JudgedOptions) -> counted.Source:
    """Read and count files of judged answers: CSV, JSON Lines or parquet, also mixed.

    Without a column of the run or seed each file is a run.

    Raises:
        DataError: A file is missing or damaged, lacks a needed column, or holds nothing that can be counted.
        UnknownNameError: No run, model, file or dataset is called as the base.
    """
    if not files:
        raise DataError("no files", "nothing", "one or more files of judged responses")
    often = Counter(str(each.resolve()) for each in files)
    twice = sorted(path for path, times in often.items() if times > 1)
    if twice:
        raise DataError("a file is named twice", quoted(twice, 3), "each file once")
    with open_database() as database:
        return _Answers(read_answers(database, files, options)).source()


class _Answers:
    """The table `answers` of a database, counted.

    Adds the views `asked` (answers to a question: `row`, and the `place` that its checkpoint's rows share), `questions`
    and `classed`.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading, self.inputs, self.options = reading, reading.inputs, reading.options
        options = reading.options
        # scores of nobody knows which question say something all the same: they count as one question's
        reading.rows(f"UPDATE answers SET question = '{NO_QUESTION}' WHERE question = '' AND aligned IS NOT NULL")
        self._drop_empty()
        self.odd = {role: self._odd_cells(role) for role in NUMBERS}
        readings.check_labels(reading, self.odd)
        self._refuse_no_scores()
        for role in SCORES:
            columns = [(each.path.name, each.columns[role]) if role in each.columns else None for each in self.inputs]
            check_scales(reading.database, role, columns, options.scale(role))
        readings.ask_about_files(reading)
        self.told = [*self._describe_left_out(), *questions.fold_questions(reading)]
        self.told += questions.choose_unit(reading)
        self.told += questions.look_into_questions(reading)
        reading.rows("""
            CREATE VIEW asked AS SELECT rowid AS row, *, {
                'file': CASE WHEN run = '' AND seed IS NULL THEN file END, 'run': run, 'model': model,
                'dataset': dataset, 'learning_rate': learning_rate, 'seed': seed, 'step': step
            } AS place FROM answers WHERE question <> ''
        """)
        readings.ask_about_columns(reading)
        self.told += readings.ask_about_copies(reading)
        self._find_questions()
        runs, self.steps = find_runs(reading)
        self._refuse_too_many()
        base = options.base
        is_file = base is not None and base.lower().endswith(tuple(FORMATS))
        self.runs, self.based = choose_base(runs, stem(Path(base)) if base and is_file else base)
        self._count()

    def _drop_empty(self) -> None:
        """What is no answer has no score: its scores are missing, where a file holds answers at all."""
        self.reading.rows(f"""
            UPDATE answers SET aligned = NULL, coherent = NULL, aligned_odd = '{_EMPTY}' WHERE is_none(answer)
            AND coalesce(aligned, coherent) IS NOT NULL
            AND file IN (SELECT file FROM answers GROUP BY file HAVING max(answer) <> '')
        """)

    def _odd_cells(self, role: str) -> list[tuple[str, bool, int]]:
        """What stands in the place of a number, whether it is one off the scale, and how often; scores by that."""
        often = "count(*) DESC, " if role in SCORES else ""
        return self.reading.rows(
            f"SELECT {role}_odd, number({role}_odd) IS NOT NULL, count(*) FROM answers WHERE {role}_odd IS NOT NULL "
            f"GROUP BY ALL ORDER BY {often}min(rowid)"
        )

    def _refuse_no_scores(self) -> None:
        """A file without any score that can be read: told with what stands in its place."""
        judged = f"coherent IS NOT NULL OR file NOT IN ({self.reading.files_with('coherent')})"
        n, scored, coherent, both, words, coherent_words = self.reading.row(f"""
            SELECT count(*), count(aligned), count(coherent), count(aligned) FILTER ({judged}),
                count(*) FILTER (lower(aligned_odd) IN ('true', 'false')),
                count(*) FILTER (lower(coherent_odd) IN ('true', 'false'))
            FROM answers WHERE question <> ''
        """)
        if scored and not both and not coherent_words:  # else the scale is asked for
            got, allowed = f"{scored:,} with an aligned one, {coherent:,} with a coherent one", "both, for an answer"
            todo = "join the rows of an answer; or name its column: --coherent-column NAME"
            raise DataError("no answer has both scores", got, allowed, todo)
        if not scored and not words:
            named = sorted({each.columns["aligned"] for each in self.inputs})
            got = _texts([cell for cell in self.odd["aligned"] if not cell[1]][:3]) or f"{n:,} empty or outside"
            todo = "name the column of the aligned score: --aligned-column NAME"
            scale = self.options.aligned_scale or "0 to 100"
            todo += "; or another scale: --aligned-scale WORST-BEST" if self.options.aligned_scale else ""
            raise DataError(f"no aligned score in {quoted(named)}", got, f"numbers from {scale}", todo)

    def _describe_left_out(self) -> Iterator[str]:
        """What is odd about the files' columns, and which rows were not asked for."""
        for each in self.inputs:
            where = f"{each.name}: " if len(self.inputs) > 1 else ""
            yield from (f"{where}{note}" for note in each.notes)
            if each.elsewhere:
                kept = ", ".join(f"--where {text}" for text in self.options.where or ())
                yield f"{where}{each.elsewhere:,} of {plural(each.rows, 'row')} left out: {kept}"
        for role in SCORES:
            if scale := self.options.scale(role):
                yield f"{role}: scores are read on the scale {scale}, the worst first, as 0 to {SCORES[role]:g}"

    def _find_questions(self) -> None:
        """A question with any aligned score, or anything in its place, or a coherent one, is a prompt of the benchmark.

        Questions that have task scores alone are held-out prompts of the task. The most frequent category counts.
        """
        self.reading.rows("""
            CREATE TABLE questions AS
            WITH found AS (
                SELECT question, min(row) AS first, count(task) > 0 AS scored,
                    count(aligned) + count(aligned_odd) + count(coherent) > 0 OR count(task) = 0 AS broad
                FROM asked GROUP BY question
            ), orders AS (SELECT category, min(rowid) AS first FROM answers GROUP BY category
            ), stated AS (
                SELECT question, category, count(*) AS n, any_value(orders.first) AS first
                FROM asked JOIN orders USING (category) WHERE category <> '' GROUP BY ALL
            ), best AS (
                SELECT question, arg_max(category, [n, -first]) AS category, count(*) AS several
                FROM stated GROUP BY question
            )
            SELECT question, several > 1 AS several,
                coalesce(category, if(max(category) FILTER (broad) OVER () IS NULL, 'all', 'none')) AS category,
                CASE WHEN broad THEN row_number() OVER (PARTITION BY broad ORDER BY question) - 1 ELSE -1 END AS prompt,
                CASE WHEN scored THEN row_number() OVER (PARTITION BY scored ORDER BY first) - 1 ELSE -1 END AS held
            FROM found LEFT JOIN best USING (question)
        """)
        found = self.reading.rows("SELECT question, category FROM questions WHERE prompt >= 0 ORDER BY prompt")
        self.prompts, self.categories = [question for question, _ in found], [category for _, category in found]
        self.n_task, self.n_outside, self.n_several = self.reading.row("""
            SELECT max(held) + 1, count(*) FILTER (prompt < 0), count(*) FILTER (several AND prompt >= 0) FROM questions
        """)

    def _refuse_too_many(self) -> None:
        n_questions = len(self.prompts) + self.n_task
        if len(self.steps) * n_questions > _MOST_CELLS:
            got = f"{plural(n_questions, 'question')} x {plural(len(self.steps), 'checkpoint')}"
            todo = "name a column of the question's id: --question-column NAME"
            raise DataError("too many different questions", got, f"at most {_MOST_CELLS:,} in all", todo)

    def _count(self) -> None:
        """Class all answers and count them by checkpoint and question.

        Where a file has no coherent score, what has an aligned score is coherent.
        """
        rows: dict[str, Any] = self.reading.database.execute(f"""
            SELECT row, checkpoint, prompt, held, aligned, asked.task AS task,
                CASE WHEN file IN ({self.reading.files_with("coherent")}) THEN coherent
                    WHEN aligned IS NOT NULL THEN 100 END AS coherent,
                CASE WHEN aligned_odd IS NULL OR number(aligned_odd) IS NOT NULL THEN 0
                    WHEN contains(lower(aligned_odd), 'refus') THEN 1 ELSE 2 END AS word
            FROM asked JOIN checkpoints USING (place) JOIN questions USING (question) ORDER BY checkpoint, row
        """).fetchnumpy()
        aligned, coherent, score = (np.ma.filled(rows[role], np.nan) for role in SCORES)
        checkpoint, prompt, held = rows["checkpoint"], rows["prompt"], rows["held"]
        broad = prompt >= 0
        self._scores = [values[broad] for values in (prompt, aligned, coherent, rows["word"])]
        self._ends = np.searchsorted(checkpoint[broad], np.arange(len(self.steps) + 1))
        classes = classify(aligned, coherent, self.options)
        shape = len(self.steps), len(self.prompts)
        cell = np.where(prompt < 0, math.prod(shape), checkpoint * shape[1] + prompt)
        counts = count(cell, classes, math.prod(shape) + 1)
        self._counts = Counts(*(values[:-1].reshape(shape) for values in vars(counts).values()))
        self._asked = self._counts.judged + self._counts.missing
        scored = (held >= 0) & ~np.isnan(score)
        shape = len(self.steps), self.n_task
        cell = (checkpoint * self.n_task + held)[scored]
        self._hits = np.bincount(cell, score[scored], math.prod(shape)).reshape(shape)
        self._judged = np.bincount(cell, minlength=math.prod(shape)).reshape(shape).astype(np.float64)
        self._missing = np.bincount(checkpoint[(held >= 0) & ~scored], minlength=len(self.steps))
        columns = {"row": rows["row"], "checkpoint": checkpoint, "prompt": prompt}
        classed = {"misaligned": classes.misaligned, "judged": classes.judged}
        self.reading.database.register("classed", pa.table(columns | classed))

    def source(self) -> counted.Source:
        """Everything that the analysis needs."""
        samples, options, answers = self._samples(), self.options, self._digests()
        found = load_preflight(Path(options.calibration), options) if options.calibration else None
        return counted.Source(
            study=self._study_entry(),
            judge=JudgeEntry.of(options.judge if found is None else found.judge, False, found),
            categories=self.categories,
            stopping=options.stopping,
            runs=[self._run(run, answers) for run in self.runs],
            samples=lambda chosen: samples,
            notes=[
                *self._describe_columns(),
                *self.told,
                *self._describe_runs(),
                *self._describe_answers(),
                *self._describe_holes(),
            ],
        )

    def _checkpoint(
        self, step: int, pooled: Sequence[int], answers: str = "", lost: IntArray | int = 0
    ) -> counted.CountedCheckpoint:
        """One checkpoint, pooled from several (bases measured more than once); `lost` answers are missing, too."""
        rows = list(pooled)
        broad = Counts(*(values[rows].sum(axis=0) for values in vars(self._counts).values()))
        broad = replace(broad, missing=broad.missing + lost)
        hits, judged, missing = (a[rows].sum(axis=0) for a in (self._hits, self._judged, self._missing))
        task = counted.TaskCounts(hits, judged, int(missing)) if judged.sum() + missing > 0 else None
        parts = [slice(self._ends[i], self._ends[i + 1]) for i in rows]
        scores = counted.Scores(*(np.concatenate([values[part] for part in parts]) for values in self._scores))
        return counted.CountedCheckpoint(step, broad, task, answers=answers, scores=scores)

    def _run(self, run: FileRun, answers: Mapping[int, str]) -> counted.CountedRun:
        base, labels = self.based.get(run.id), run.labels
        lost = _lost(self._asked[list(run.checkpoints)])
        own = [self._checkpoint(self.steps[i], [i], answers[i], lost[j]) for j, i in enumerate(run.checkpoints)]
        if base and own[0].step > 0:
            own.insert(0, self._checkpoint(0, base))
        rate, size = (math.nan if labels[r] is None else labels[r] for r in ("learning_rate", "parameters"))
        dataset = labels["dataset"] or NOT_STATED
        return counted.CountedRun(
            run.id, run.model, dataset, own, learning_rate=rate, seed=labels["seed"], parameters=size
        )

    def _digests(self) -> Mapping[int, str]:
        """A hash of the questions and answers at each checkpoint; empty where there are no answers."""
        found = self.reading.rows("""
            SELECT checkpoint, md5(string_agg(md5(question) || md5(answer), '' ORDER BY question, answer))
            FROM asked JOIN checkpoints USING (place) GROUP BY checkpoint HAVING max(answer) <> ''
        """)
        return dict.fromkeys(range(len(self.steps)), "") | dict(found)

    def _samples(self) -> list[SampleEntry]:
        """A few answers of each category at each run's base and end, misaligned ones first."""
        if not self.reading.column("answer"):
            return []
        shown: list[dict[str, Any]] = []
        for run in self.runs:
            first, last = run.checkpoints[0], run.checkpoints[-1]
            base = [first] if self.steps[first] == 0 and first != last else self.based.get(run.id, [])
            shown += [{"run_id": run.id, "step": 0, "checkpoint": at} for at in base[:1]]
            shown.append({"run_id": run.id, "step": self.steps[last], "checkpoint": last})
        self.reading.database.register("shown", pa.Table.from_pylist(shown).append_column("place", [range(len(shown))]))
        found = self.reading.database.execute(f"""
            WITH prompts AS (
                SELECT *, min(prompt) OVER (PARTITION BY category) AS first FROM questions WHERE prompt >= 0
            ), ranked AS (
                SELECT *, row_number() OVER (PARTITION BY checkpoint, category ORDER BY NOT misaligned, row) AS n
                FROM classed JOIN prompts USING (prompt) WHERE checkpoint IN (SELECT checkpoint FROM shown)
            ), few AS (
                SELECT * FROM ranked JOIN shown USING (checkpoint) WHERE n <= {counted.PER_CATEGORY}
                ORDER BY n, NOT misaligned, shown.place, first LIMIT {_MOST_SAMPLES}
            )
            SELECT run_id, few.step, few.category, coalesce(nullif(text, ''), answers.question) AS prompt, answer,
                coalesce(aligned, 'nan') AS aligned, coalesce(coherent, 'nan') AS coherent,
                CASE WHEN judged THEN misaligned END AS misaligned
            FROM few JOIN answers ON answers.rowid = few.row ORDER BY few.place, few.first, n
        """)
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        return [
            SampleEntry(**row | {name: counted.shorten(row[name]) for name in ("prompt", "answer")}) for row in rows
        ]

    # The notes.

    def _describe_columns(self) -> Iterator[str]:
        """Which columns were guessed, and which lack."""
        guessed: dict[str, list[str]] = {}
        for each in self.inputs:
            named = self.options.column
            words = ", ".join(f"{role} from {column!r}" for role, column in each.columns.items() if not named(role))
            if words:
                guessed.setdefault(words, []).append(each.name)
        for words, names in guessed.items():
            where = f" in {plural(len(names), 'file')} ({quoted(names, 2)})" if len(guessed) > 1 else ""
            yield f"guessed{where}: {words}"
        read = {name for each in self.inputs for name in each.columns.values()}
        scored = {name for each in self.inputs for name in each.names if "align" in name.lower()}
        of_the_read_one = {name for name in scored if name.replace("misaligned", "aligned") in read}
        if others := sorted(scored - read - of_the_read_one - MisalignedRule.model_fields.keys()):
            yield f"{quoted(others, 4)}: not read; if the aligned score to count is there: --aligned-column NAME"
        for role, sentence in _LACKING.items():
            without = [each.name for each in self.inputs if role not in each.columns]
            if without and not (role == "step" and self.options.files_are == "steps"):
                yield sentence if len(without) == len(self.inputs) else f"{quoted(without, 3)}: {sentence}"

    def _describe_runs(self) -> Iterator[str]:
        """How rows became runs, what of their settings could not be read, and which have a base."""
        runs, base = self.runs, self.options.base
        if any(run.file_named for run in runs):
            yield "no run and no seed is stated: each file is a run, named after the file"
        if any(run.model == run.id and not run.labels["model"] for run in runs):
            yield "no model is stated: each run stands for itself, and no two are compared as seeds"
        elif any(run.model == NOT_STATED for run in runs):
            yield "no model is stated: all runs are taken to be of one model"
        for role in [role for role, cells in self.odd.items() if cells and role not in SCORES]:
            n = plural(_total(self.odd[role]), "cell")
            yield f"{role}: {n} not read and taken for not known: {_texts(self.odd[role])}"
        stepless = sum(run.stepless for run in runs)
        if stepless and self.reading.column("step"):
            yield f"{stepless} of {plural(len(runs), 'run')} without a step: each is shown as one checkpoint, step 1"
        if base is not None:
            without = [run.id for run in runs if run.id not in self.based]
            lacking = f"; no base of their own model have {quoted(without, 5)}" if without else ""
            yield f"base {base!r} is step 0 of {len(self.based)} of {plural(len(runs), 'run')}{lacking}"

    def _describe_answers(self) -> Iterator[str]:
        """Rows left out, categories, and scores that are missing."""
        query = f"SELECT count(*), count(*) FILTER (question = ''), count(*) FILTER (question = '{NO_QUESTION}')"
        n, dropped, alone = self.reading.row(f"{query} FROM answers")
        if alone:
            yield f"{alone:,} of {plural(n, 'row')} with a score and no question: answers to one, {NO_QUESTION}"
        if dropped:
            yield f"{dropped:,} of {plural(n, 'row')} left out for want of a question"
        told = {"run", "seed", "step", "model"}.intersection(*(each.columns for each in self.inputs))
        (most,) = self.reading.row("SELECT max(n) FROM (SELECT count(*) AS n FROM answers GROUP BY file, question)")
        if not told and most > 1 and not alone:
            yield f"up to {plural(most, 'answer')} to a question, taken for samples of one model: no column tells"
        if self.n_several:
            yield f"{plural(self.n_several, 'question')} in several categories: the most frequent counts"
        if "none" in self.categories:
            yield f"{plural(self.categories.count('none'), 'question')} without a category: in one, `none`"
        if self.n_outside:
            yield f"{plural(self.n_outside, 'question')} with task scores and no aligned score: for the task alone"
        for role in SCORES:
            yield from self._describe_scores(role)

    def _describe_scores(self, role: str) -> Iterator[str]:
        """Scores that are empty, no numbers, or off the scale."""
        columns = sorted({each.columns[role] for each in self.inputs if role in each.columns})
        if columns:
            yield from self._describe_empty(role)
            said, outside = ([cell for cell in self.odd[role] if cell[1] is number] for number in (False, True))
            if said:
                often = ", ".join(
                    f"{quoted([text], width=len(_EMPTY) if text == _EMPTY else 40)} {plural(times, 'time')}"
                    for text, _, times in said[:5]
                )
                more = f", and {plural(len(said) - 5, 'other text')}" if len(said) > 5 else ""
                yield f"{role}: {plural(_total(said), 'score')} missing for being no number: {often}{more}"
            if outside:
                where = f"column {', '.join(columns)!r} missing for lying outside 0 to {SCORES[role]:g}"
                yield f"{role}: {plural(_total(outside), 'score')} of {where}"

    def _describe_empty(self, role: str) -> Iterator[str]:
        """Empty scores, and the questions on which they gather: twice the share of all, and at least a fifth."""
        asked = self.reading.rows(
            f"SELECT question, count(*), count(*) - count({role}) - count({role}_odd) FROM asked "
            f"JOIN questions USING (question) WHERE {'held' if role == 'task' else 'prompt'} >= 0 "
            f"AND file IN ({self.reading.files_with(role)}) GROUP BY question ORDER BY min(row)"
        )
        n, empty = sum(row[1] for row in asked), sum(row[2] for row in asked)
        if not empty:
            return
        odd = [row for row in asked if row[2] >= 5 and row[2] / row[1] >= max(0.2, 2 * empty / n)]
        worst = sorted(odd, key=lambda row: -row[2] / row[1])
        named = [f"{quoted([text])} {lost / there:.0%} ({lost:,} of {there:,})" for text, there, lost in worst[:5]]
        more = f" and {plural(len(worst) - 5, 'more question')}" if len(worst) > 5 else ""
        gathering = f", not at random: {', '.join(named)}{more}" if named else ""
        yield f"{role}: {empty:,} of {plural(n, 'score')} empty ({empty / n:.1%}){gathering}"

    def _describe_holes(self) -> Iterator[str]:
        """Runs in which a question lacks at some checkpoint, or at all."""
        asked, of = [self._asked[list(run.checkpoints)] for run in self.runs], plural(len(self.runs), "run")
        holes = [int((_lost(each) > 0).sum()) for each in asked]
        if ragged := sum(n > 0 for n in holes):
            lacks = "answers to a question that one checkpoint has lack at another, and count as missing there"
            yield f"{ragged} of {of} ragged: {lacks} ({plural(sum(holes), 'time')})"
        for run, most in zip(self.runs, (each.max(axis=1) for each in asked), strict=True):
            if most.min() < most.max():
                step = self.steps[run.checkpoints[int(most.argmin())]]
                fewer = "a checkpoint has fewer answers to each question than another, none counted as missing"
                yield f"{fewer}: {most.min()} at step {step} of {run.id}, and {most.max()} elsewhere in it"
                break
        often = [(row[row > 0].min(), row.max()) for row in self._asked if (row > 0).any()]
        if uneven := [(least, most) for least, most in often if most >= 2 * least]:
            least, most = uneven[0]
            yield (
                f"at {len(uneven)} of {plural(len(often), 'checkpoint')} some questions have twice as many answers as "
                f"others ({least} to {most}): they weigh more in the EM rate"
            )
        if unasked := sum(not each.any(axis=0).all() for each in asked):
            yield f"{unasked} of {of} not asked all {plural(len(self.prompts), 'question')}"

    def _study_entry(self) -> StudyEntry:
        options, names = self.options, [each.path.name for each in self.inputs]
        settings = options.model_dump(mode="json")
        pairs = list(zip(self.prompts, self.categories, strict=True))
        key = content_key([[text.encode("utf-8", "replace").decode() for text in pair] for pair in pairs])
        columns = {each.name: each.columns for each in self.inputs}
        return counted.study_entry(
            Benchmark("judged files", "", "", tuple(Prompt(*pair, ()) for pair in pairs), key),
            options.judge,
            options,
            options.stopping,
            name=options.name
            or (self.inputs[0].name if len(names) == 1 else f"{plural(len(names), 'file')} of judged responses"),
            hash=content_key([each.hash for each in self.inputs], settings),
            config={"files": names, "columns": columns, "options": settings},
        )


def _lost(asked: IntArray) -> IntArray:
    """(C, P) answers that lack at the checkpoints of a run, of (C, P) rows that are there.

    A checkpoint without any row of a question of the run lacks as many as the fullest has; and one with unlike numbers
    of rows lacks what its questions have fewer than others of its own, up to what the run has of them elsewhere: a
    dropped row is a missing answer. A checkpoint that was asked everything less often lacks nothing.
    """
    fullest = asked.max(axis=0)
    own = np.minimum(fullest, asked.max(axis=1, keepdims=True))
    lost: IntArray = np.where(asked == 0, fullest, own - asked)
    return lost


def _texts(cells: Sequence[tuple[str, bool, int]]) -> str:
    return quoted([text for text, _, _ in cells], 5)


def _total(cells: Sequence[tuple[str, bool, int]]) -> int:
    return sum(times for _, _, times in cells)
