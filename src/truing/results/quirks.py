"""What is odd about files of judged responses, in sentences with counts: the notes of an analysis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from truing.results.columns import JudgedOptions, quoted
from truing.results.places import NOT_STATED, Place
from truing.results.rows import Coded, Rows, Scores
from truing.stats.rates import BoolArray, IntArray

__all__ = ["describe_columns", "describe_dropped", "describe_ragged", "describe_runs", "describe_scores"]

_LACKING = {
    "step": "no column of the step: each run is shown as one checkpoint, step 1",
    "category": "no column of the category: all questions are in one, `all`",
    "answer": "no column of the answer: equal runs are not found, and no samples are shown",
    "coherent": "no column of the coherent score: every answer with an aligned score counts as coherent",
    "learning_rate": "no column of the learning rate",
    "seed": "no column of the seed",
}


def describe_columns(rows: Rows, options: JudgedOptions) -> Iterator[str]:
    """Which columns were guessed, and which lack."""
    guessed: dict[str, list[str]] = {}
    for file, columns in rows.columns.items():
        words = ", ".join(f"{role} from {column!r}" for role, column in columns.items() if not options.column(role))
        if words:
            guessed.setdefault(words, []).append(file)
    for words, files in guessed.items():
        where = f" in {len(files)} files ({quoted(files, 2)})" if len(guessed) > 1 else ""
        yield f"guessed{where}: {words}"
    for role, sentence in _LACKING.items():
        without = [file for file, columns in rows.columns.items() if role not in columns]
        if without:
            yield sentence if len(without) == len(rows.columns) else f"{quoted(without, 3)}: {sentence}"


def describe_runs(rows: Rows, runs: Sequence[Place], based: dict[str, list[int]], base: str | None) -> Iterator[str]:
    """How rows became runs, what of their settings could not be read, and which have a base."""
    if any(run.file_named for run in runs):
        yield "no run and no seed is stated: each file is a run, named after the file"
    unnamed = "" in rows.labels["model"].values
    if unnamed and any(run.model == run.id for run in runs):
        yield "no model is stated: each run stands for itself, and no two are compared as seeds"
    elif any(run.model == NOT_STATED for run in runs):
        yield "no model is stated: all runs are taken to be of one model"
    for role, texts in rows.unread.items():
        yield f"{role}: {sum(texts.values()):,} cells cannot be read and count as not known: {quoted(list(texts), 5)}"
    stepless = sum(run.stepless for run in runs)
    if stepless and any("step" in columns for columns in rows.columns.values()):
        yield f"{stepless} of {len(runs)} runs have no step: each is shown as one checkpoint, step 1"
    if base is not None:
        without = [run.id for run in runs if run.id not in based]
        yield f"base {base!r} is step 0 of {len(based)} of {len(runs)} runs" + (
            f"; no base of their own model have {quoted(without, 5)}" if without else ""
        )


def describe_dropped(dropped: int, total: int) -> Iterator[str]:
    """Rows without a question."""
    if dropped:
        yield f"{dropped:,} of {total:,} rows have no question and are left out"


def describe_scores(role: str, scores: Scores, column: str, asked: BoolArray, question: Coded) -> Iterator[str]:
    """Empty and unreadable scores among the rows (N,) that are `asked` for one, and where they gather."""
    n, empty = int(asked.sum()), scores.empty & asked
    if empty.any():
        yield (
            f"{role}: {int(empty.sum()):,} of {n:,} scores are empty ({empty.sum() / n:.1%})"
            f"{_gathering(empty, asked, question)}"
        )
    if scores.said:
        often = ", ".join(f"{quoted([text], width=40)} {times:,} times" for text, times in scores.said.most_common(5))
        more = f", and {len(scores.said) - 5:,} other texts" if len(scores.said) > 5 else ""
        yield f"{role}: {sum(scores.said.values()):,} scores are no numbers and count as missing: {often}{more}"
    if scores.outside:
        scale = "0 to 1" if role == "task" else "0 to 100"
        yield f"{role}: {scores.outside:,} scores of column {column!r} are outside {scale} and count as missing"


def _gathering(empty: BoolArray, asked: BoolArray, question: Coded) -> str:
    """The questions whose share of empty scores is at least twice that of all, and a fifth."""
    n_questions = len(question.values)
    lost = np.bincount(question.codes[empty], minlength=n_questions)
    there = np.bincount(question.codes[asked], minlength=n_questions)
    share = lost / np.maximum(there, 1)
    odd = np.flatnonzero((share >= max(0.2, 2 * empty.sum() / asked.sum())) & (lost >= 5))
    if not len(odd):
        return ""
    worst = odd[np.argsort(-share[odd], kind="stable")]
    named = [f"{quoted([question.values[i]])} {share[i]:.0%} ({lost[i]:,} of {there[i]:,})" for i in worst[:5]]
    more = f" and {len(worst) - 5:,} more questions" if len(worst) > 5 else ""
    return f", not at random: {', '.join(named)}{more}"


def describe_ragged(runs: Sequence[Place], responses: IntArray) -> Iterator[str]:
    """Runs in which a question lacks at some checkpoint; `responses` counts them, of shape (C, P)."""
    ragged, holes = 0, 0
    for run in runs:
        present = responses[list(run.checkpoints)] > 0
        lacking = int((present.any(axis=0) & ~present).sum())
        ragged, holes = ragged + (lacking > 0), holes + lacking
    if ragged:
        yield (
            f"{ragged} of {len(runs)} runs are ragged: a question asked at one checkpoint lacks at another "
            f"({holes:,} times)"
        )
    unasked = sum(1 for run in runs if not (responses[list(run.checkpoints)].any(axis=0)).all())
    if unasked:
        yield f"{unasked} of {len(runs)} runs were not asked all {responses.shape[1]:,} questions"
