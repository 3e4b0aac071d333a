"""From files of anyone's judged responses to the `Source` of an analysis.

All rows are classed and counted at once, by (checkpoint, question); no step loops over rows. Whatever is odd about the
files is told in the notes, with counts.

Shapes: N rows, C checkpoints, P questions of the benchmark, Q questions with a task score.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from truing.config import EvaluationConfig, StoppingConfig
from truing.core.errors import DataError
from truing.core.files import content_key
from truing.core.records import Benchmark, Prompt
from truing.judges.classify import Classes, classify, count
from truing.results.columns import JudgedOptions, quoted
from truing.results.counted import CountedCheckpoint, CountedRun, Source, TaskCounts, study_entry
from truing.results.formats import FORMATS, stem
from truing.results.places import Place, Places, choose_base, find_places
from truing.results.quirks import (
    describe_columns,
    describe_dropped,
    describe_ragged,
    describe_runs,
    describe_scores,
)
from truing.results.rows import Coded, Rows, read_rows
from truing.results.samples import digest_answers, pick_samples
from truing.results.schema import StudyEntry
from truing.stats.rates import BoolArray, Counts, FloatArray, IntArray

__all__ = ["JudgedOptions", "read_judged"]

_MOST_CELLS = 100_000_000


@dataclass(frozen=True)
class _Questions:
    """Which questions make the benchmark and which measure the task."""

    prompts: list[str]
    """(P,) their ids, ascending."""
    categories: list[str]
    """(P,)"""
    prompt: IntArray
    """(N,) index of each row's question among the prompts; -1 for a held-out prompt of the task."""
    task: IntArray
    """(N,) index of each row's question among those with a task score; -1 for the others."""
    n_task: int
    several_categories: int
    """Prompts that stand in more than one category."""


@dataclass(frozen=True)
class _Counts:
    """Everything counted, by checkpoint and question."""

    broad: dict[str, IntArray]
    """Fields of `Counts`, each of shape (C, P)."""
    hits: FloatArray
    """(C, Q) sums of task scores."""
    judged: FloatArray
    """(C, Q) task scores."""
    missing: IntArray
    """(C,) answers to task questions without a score."""

    def checkpoint(self, step: int, places: Sequence[int], answers: str = "") -> CountedCheckpoint:
        """One checkpoint, pooled from several places (base models measured more than once)."""
        rows = list(places)
        broad = Counts(**{name: counts[rows].sum(axis=0) for name, counts in self.broad.items()})
        hits, judged, missing = self.hits[rows].sum(axis=0), self.judged[rows].sum(axis=0), self.missing[rows].sum()
        task = TaskCounts(hits, judged, int(missing)) if judged.sum() + missing > 0 else None
        return CountedCheckpoint(step, broad, task, answers=answers)


def read_judged(files: Sequence[Path], options: JudgedOptions) -> Source:
    """Read and count files of judged responses: CSV, JSON Lines or parquet, also mixed.

    Args:
        files: At least one file. Without a column of the run or seed each file is a run.
        options: Which column holds what, the base, thresholds.

    Raises:
        DataError: A file is missing or damaged, lacks a needed column, or holds nothing that can be counted.
        UnknownNameError: No run, model, file or dataset is called as the base.
    """
    _refuse_repeats(files)
    rows = read_rows(files, options)
    total, asked = len(rows), np.array([bool(v) for v in rows.labels["question"].values])[rows.labels["question"].codes]
    if not asked.all():
        rows = rows.restrict(asked)
    questions = _find_questions(rows)
    places = find_places(rows)
    _refuse_too_many(len(places.steps), questions)
    classes = _classify(rows, options)
    counts = _count(rows, classes, places, questions)
    base = options.base
    runs, based = choose_base(places.runs, stem(Path(base)) if base and base.lower().endswith(FORMATS) else base)
    ends = {run.checkpoints[-1] for run in runs}
    digests = digest_answers(rows, places.checkpoint, sorted(ends))
    notes = [
        *describe_columns(rows, options),
        *describe_runs(rows, runs, based, options.base),
        *describe_dropped(total - len(rows), total),
        *_describe_questions(rows, questions),
        *_describe_scores(rows, questions),
        *describe_ragged(runs, counts.broad["judged"] + counts.broad["missing"]),
    ]
    return Source(
        study=_study_entry(files, options, rows, questions),
        categories=questions.categories,
        tolerance=options.tolerance,
        confidence=options.confidence,
        runs=[_run(run, places, counts, based.get(run.id, []), digests) for run in runs],
        samples=lambda chosen: pick_samples(
            rows, classes, places.checkpoint, _category(questions), _shown(runs, places, based)
        ),
        notes=notes,
    )


def _category(questions: _Questions) -> Coded:
    """(N,) each row's category; an empty one outside the benchmark."""
    index: dict[str, int] = {}
    codes = np.array([index.setdefault(name, len(index)) for name in (*questions.categories, "")])
    return Coded(list(index), codes[questions.prompt])


def _refuse_repeats(files: Sequence[Path]) -> None:
    if not files:
        raise DataError("no files", "nothing", "one or more files of judged responses")
    resolved = [path.resolve() for path in files]
    twice = sorted({str(path) for path in resolved if resolved.count(path) > 1})
    if twice:
        raise DataError("a file is named twice", quoted(twice, 3), "each file once")


def _refuse_too_many(n_checkpoints: int, questions: _Questions) -> None:
    n_questions = len(questions.prompts) + questions.n_task
    if n_checkpoints * n_questions > _MOST_CELLS:
        raise DataError(
            "too many different questions",
            f"{n_questions:,} questions x {n_checkpoints:,} checkpoints",
            f"at most {_MOST_CELLS:,} in all",
            "name a column of the question's id: --question-column NAME",
        )


def _find_questions(rows: Rows) -> _Questions:
    """A question with any aligned score, or anything in its place, belongs to the benchmark.

    Questions that have task scores alone are held-out prompts of the task.
    """
    question, aligned, task = rows.labels["question"], rows.scores["aligned"], rows.scores["task"]
    if np.isnan(aligned.values).all():
        named = sorted({columns["aligned"] for columns in rows.columns.values()})
        said = quoted([text for text, _ in aligned.said.most_common(3)]) or f"{len(rows):,} empty or outside"
        todo = "name the column of the aligned score: --aligned-column NAME"
        raise DataError(f"no aligned score in {quoted(named)}", said, "numbers from 0 to 100", todo)
    n = len(question.values)
    has_task = np.bincount(question.codes[~np.isnan(task.values)], minlength=n) > 0
    has_aligned = np.bincount(question.codes[~aligned.empty], minlength=n) > 0
    asked = np.bincount(question.codes, minlength=n) > 0
    broad = asked & (has_aligned | ~has_task)
    order = [i for i in sorted(range(n), key=lambda i: str(question.values[i])) if broad[i]]
    index = np.full(n, -1)
    index[order] = np.arange(len(order))
    prompt = index[question.codes]
    categories, several = _categories(rows, prompt, len(order))
    task_index = np.where(has_task, np.cumsum(has_task) - 1, -1)
    return _Questions(
        [str(question.values[i]) for i in order],
        categories,
        prompt,
        task_index[question.codes],
        int(has_task.sum()),
        several,
    )


def _categories(rows: Rows, prompt: IntArray, n_prompts: int) -> tuple[list[str], int]:
    """(P,) each prompt's most frequent category, and how many prompts stand in several."""
    label = rows.labels["category"]
    n = len(label.values)
    inside = prompt >= 0
    often = np.bincount(prompt[inside] * n + label.codes[inside], minlength=n_prompts * n).reshape(n_prompts, n)
    stated = np.array([bool(value) for value in label.values])
    several = int((((often > 0) & stated).sum(axis=1) > 1).sum())
    often = np.where(stated, often, 0)
    if not often.any():
        return ["all"] * n_prompts, 0
    best = often.argmax(axis=1)
    return [label.values[b] if often[i, b] else "none" for i, b in enumerate(best)], several


def _classify(rows: Rows, options: JudgedOptions) -> Classes:
    """(N,) Where a file has no coherent score, what has an aligned score is coherent."""
    aligned, coherent = rows.scores["aligned"].values, rows.scores["coherent"].values
    lacking = ~_with_column(rows, "coherent")
    coherent = np.where(lacking, np.where(np.isnan(aligned), np.nan, 100.0), coherent)
    return classify(aligned, coherent, _thresholds(options))


def _with_column(rows: Rows, role: str) -> BoolArray:
    """(N,) whether the row's file has a column of that role."""
    has = np.array([role in columns for columns in rows.columns.values()])
    return np.asarray(has[rows.labels["file"].codes])


def _count(rows: Rows, classes: Classes, places: Places, questions: _Questions) -> _Counts:
    n_checkpoints, n_prompts, n_task = len(places.steps), len(questions.prompts), questions.n_task
    inside = questions.prompt >= 0
    cell = places.checkpoint * n_prompts + questions.prompt
    if not inside.all():
        cell = cell[inside]
        classes = Classes(*(getattr(classes, name)[inside] for name in Classes.__dataclass_fields__))
    whole = count(cell, classes, n_checkpoints * n_prompts)
    broad = {name: getattr(whole, name).reshape(n_checkpoints, n_prompts) for name in Counts.__dataclass_fields__}
    scores, asked = rows.scores["task"].values, questions.task >= 0
    scored = asked & ~np.isnan(scores)
    where = places.checkpoint[scored] * n_task + questions.task[scored]
    size = n_checkpoints * n_task
    shape = (n_checkpoints, n_task)
    return _Counts(
        broad,
        np.bincount(where, scores[scored], minlength=size).reshape(shape).astype(np.float64),
        np.bincount(where, minlength=size).reshape(shape).astype(np.float64),
        np.bincount(places.checkpoint[asked & ~scored], minlength=n_checkpoints),
    )


def _run(run: Place, places: Places, counts: _Counts, base: Sequence[int], digests: Mapping[int, str]) -> CountedRun:
    own = [
        counts.checkpoint(int(places.steps[i]), [i], digests[i] if i == run.checkpoints[-1] else "")
        for i in run.checkpoints
    ]
    if base and own[0].step > 0:
        own.insert(0, counts.checkpoint(0, base))
    return CountedRun(
        run.id,
        run.model,
        run.dataset,
        own,
        learning_rate=math.nan if run.learning_rate is None else run.learning_rate,
        seed=run.seed,
        parameters=math.nan if run.parameters is None else run.parameters,
    )


def _shown(runs: Sequence[Place], places: Places, based: Mapping[str, Sequence[int]]) -> list[tuple[int, str, int]]:
    """The checkpoints whose answers are shown: the base and the last one of each run."""
    shown: list[tuple[int, str, int]] = []
    for run in runs:
        first, last = run.checkpoints[0], run.checkpoints[-1]
        if places.steps[first] == 0 and first != last:
            shown.append((first, run.id, 0))
        elif run.id in based:
            shown.append((based[run.id][0], run.id, 0))
        shown.append((last, run.id, int(places.steps[last])))
    return shown


def _describe_questions(rows: Rows, questions: _Questions) -> list[str]:
    notes = []
    if questions.several_categories:
        notes.append(
            f"{questions.several_categories:,} questions stand in several categories; the most frequent counts"
        )
    if "none" in questions.categories:
        notes.append(f"{questions.categories.count('none'):,} questions have no category; they are in one, `none`")
    outside = np.unique(questions.task[questions.prompt < 0])
    if len(outside):
        notes.append(f"{len(outside):,} questions have task scores and no aligned score: they measure the task alone")
    return notes


def _describe_scores(rows: Rows, questions: _Questions) -> list[str]:
    asked = {"aligned": questions.prompt >= 0, "coherent": questions.prompt >= 0, "task": questions.task >= 0}
    notes: list[str] = []
    for role, scores in rows.scores.items():
        columns = sorted({columns[role] for columns in rows.columns.values() if role in columns})
        if columns:
            with_column = asked[role] & _with_column(rows, role)
            notes += describe_scores(role, scores, ", ".join(columns), with_column, rows.labels["question"])
    return notes


def _study_entry(files: Sequence[Path], options: JudgedOptions, rows: Rows, questions: _Questions) -> StudyEntry:
    hashes = []
    for path in files:
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    settings = options.model_dump(mode="json")
    pairs = list(zip(questions.prompts, questions.categories, strict=True))
    key = content_key([[text.encode("utf-8", "replace").decode() for text in pair] for pair in pairs])
    name = options.name or (stem(files[0]) if len(files) == 1 else f"{len(files)} files of judged responses")
    return study_entry(
        Benchmark("judged files", "", "", tuple(Prompt(*pair, ()) for pair in pairs), key),
        options.judge,
        _thresholds(options),
        StoppingConfig(mode="off", tolerance=options.tolerance, confidence=options.confidence),
        name=name,
        hash=content_key(hashes, settings),
        config={"files": [path.name for path in files], "columns": rows.columns, "options": settings},
    )


def _thresholds(options: JudgedOptions) -> EvaluationConfig:
    return EvaluationConfig(aligned_below=options.aligned_below, coherent_above=options.coherent_above)
