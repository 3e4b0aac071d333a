"""A few answers to read, and digests of answers by which copies of a run are found."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from truing.judges.classify import Classes
from truing.results.rows import Coded, Rows
from truing.results.schema import SampleEntry
from truing.stats.rates import IntArray

__all__ = ["PER_CATEGORY", "cut", "digest_answers", "pick_samples"]

PER_CATEGORY = 2
"""Answers of each category that are shown of a checkpoint."""
_MOST = 400
_LONGEST = 2000


def digest_answers(rows: Rows, checkpoint: IntArray, wanted: Sequence[int]) -> dict[int, str]:
    """A hash of the questions and answers of each wanted checkpoint; empty where there are no answers.

    Args:
        rows: All rows.
        checkpoint: (N,) each row's checkpoint.
        wanted: Checkpoints.
    """
    if rows.answers is None:
        return dict.fromkeys(wanted, "")
    where = np.flatnonzero(np.isin(checkpoint, wanted))
    question = rows.labels["question"]
    answers = rows.answers.take(pa.array(where)).to_pylist()
    pairs: dict[int, list[tuple[str, str]]] = {each: [] for each in wanted}
    for place, code, answer in zip(checkpoint[where].tolist(), question.codes[where].tolist(), answers, strict=True):
        pairs[place].append((question.values[code], answer or ""))
    return {place: _digest(those) for place, those in pairs.items()}


def _digest(pairs: list[tuple[str, str]]) -> str:
    if not any(answer for _, answer in pairs):
        return ""
    whole = blake2b(digest_size=16)
    for pair in sorted(pairs):
        for text in pair:
            data = text.encode("utf-8", "surrogatepass")
            whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()


def pick_samples(
    rows: Rows, classes: Classes, checkpoint: IntArray, category: Coded, shown: Sequence[tuple[int, str, int]]
) -> list[SampleEntry]:
    """Some answers of each category at the shown checkpoints, misaligned ones first; at most 400 in all.

    Args:
        rows: All rows.
        classes: (N,) what each response is.
        checkpoint: (N,) each row's checkpoint.
        category: (N,) each row's category; rows of an empty one are not shown.
        shown: Checkpoints, each with the run and step as which it is shown.
    """
    if rows.answers is None:
        return []
    visible = np.array([bool(v) for v in category.values])[category.codes]
    where = np.flatnonzero(np.isin(checkpoint, [place for place, _, _ in shown]) & visible)
    group = checkpoint[where] * len(category.values) + category.codes[where]
    order = np.lexsort((where, ~classes.misaligned[where], group))
    where, group = where[order], group[order]
    _, start, size = np.unique(group, return_index=True, return_counts=True)
    rank = np.arange(len(where)) - np.repeat(start, size)
    picked: dict[int, list[tuple[int, int]]] = {}
    for row, n in zip(where[rank < PER_CATEGORY].tolist(), rank[rank < PER_CATEGORY].tolist(), strict=True):
        picked.setdefault(int(checkpoint[row]), []).append((n, row))
    entries = [
        (n, not classes.misaligned[row], i, row)
        for i, (place, _, _) in enumerate(shown)
        for n, row in picked.get(place, ())
    ]
    kept = sorted(range(len(entries)), key=lambda k: (*entries[k][:2], k))[:_MOST]
    return [_sample(rows, classes, category, (*shown[entries[k][2]][1:], entries[k][3])) for k in sorted(kept)]


def _sample(rows: Rows, classes: Classes, category: Coded, entry: tuple[str, int, int]) -> SampleEntry:
    assert rows.answers is not None
    run, step, row = entry
    answer = rows.answers[row].as_py() or ""
    prompt = _value(rows.labels["text"], row) or _value(rows.labels["question"], row)
    return SampleEntry(
        run_id=run,
        step=step,
        category=_value(category, row),
        prompt=cut(prompt),
        answer=cut(answer),
        aligned=float(rows.scores["aligned"].values[row]),
        coherent=float(rows.scores["coherent"].values[row]),
        misaligned=bool(classes.misaligned[row]) if classes.judged[row] else None,
    )


def _value(label: Coded, row: int) -> Any:
    return label.values[label.codes[row]]


def cut(text: str) -> str:
    """A text as it is shown: the end of a long one is left out, and that is said."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " [cut]"
