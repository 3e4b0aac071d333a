"""Files of judged responses (CSV, JSON Lines, parquet) as columns of codes and scores.

Every cell is read as text first; a score that is no number is missing, and what it said is counted. Columns that hold
few different values (models, steps, questions, ...) become codes, so that what follows never loops over rows.

Shapes: N rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truing.core.errors import DataError
from truing.results.columns import (
    GUESSES,
    SCORES,
    JudgedOptions,
    quoted,
    read_number,
    read_rate,
    read_seed,
    read_size,
    read_step,
)
from truing.results.formats import as_strings, as_text, column_names, read_file, stem
from truing.stats.rates import BoolArray, FloatArray, IntArray

__all__ = ["Coded", "Rows", "Scores", "read_rows"]

_READ: dict[str, Callable[[str], Hashable]] = {
    "seed": read_seed,
    "learning_rate": read_rate,
    "step": read_step,
    "parameters": read_size,
}


@dataclass(frozen=True)
class Coded:
    """A column of few different values."""

    values: list[Any]
    """The different values; None where there is nothing to read."""
    codes: IntArray
    """(N,) indices into `values`."""


@dataclass(frozen=True)
class Scores:
    """A column of scores."""

    values: FloatArray
    """(N,) NaN where missing."""
    empty: BoolArray
    """(N,) cells with nothing in them."""
    said: Counter[str] = field(default_factory=Counter)
    """What stood in the place of a number, and how often."""
    outside: int = 0
    """Numbers outside the scale, taken as missing."""


@dataclass(frozen=True)
class Rows:
    """All rows of all files."""

    labels: dict[str, Coded]
    """By role, and `file`."""
    scores: dict[str, Scores]
    answers: pa.ChunkedArray | None
    """(N,) texts; None without such a column."""
    columns: dict[str, dict[str, str]]
    """By file, in the order of the codes of `file`: role to column."""
    unread: dict[str, Counter[str]]
    """By role: texts that say no seed, learning rate, ... and how often."""

    def __len__(self) -> int:
        return len(self.labels["file"].codes)

    def restrict(self, keep: BoolArray) -> Rows:
        """The rows where `keep`, of shape (N,), is true."""
        return replace(
            self,
            labels={role: Coded(label.values, label.codes[keep]) for role, label in self.labels.items()},
            scores={
                role: replace(scores, values=scores.values[keep], empty=scores.empty[keep])
                for role, scores in self.scores.items()
            },
            answers=None if self.answers is None else self.answers.filter(pa.array(keep)),
        )


def read_rows(files: Sequence[Path], options: JudgedOptions) -> Rows:
    """Read files into one table.

    Raises:
        DataError: A file is missing, damaged, of another format, or lacks a needed column; no rows.
    """
    parts = [read_file(path, options) for path in files]
    for role in GUESSES:
        name = options.column(role)
        if name and not any(role in columns for _, columns in parts):
            raise DataError(
                f"no file has a column {name!r}",
                got="; ".join(f"{path.name}: {quoted(column_names(path), 12)}" for path in files[:3]),
                todo=f"name another: --{role.replace('_', '-')}-column NAME",
            )
    unread: dict[str, Counter[str]] = {}
    labels = {
        role: _join([_label(role, table, unread) for table, _ in parts])
        for role in GUESSES
        if role not in SCORES and role != "answer"
    }
    lengths = [len(table) for table, _ in parts]
    if not sum(lengths):
        raise DataError("no rows", ", ".join(path.name for path in files), "at least one judged response")
    names = _unlike(files)
    labels["file"] = Coded(names, np.repeat(np.arange(len(files)), lengths))
    return Rows(
        labels,
        {role: _pooled([_scores(table, role, top) for table, _ in parts]) for role, top in SCORES.items()},
        _answers([table for table, _ in parts]),
        dict(zip(names, (columns for _, columns in parts), strict=True)),
        {role: texts for role, texts in unread.items() if texts},
    )


def _unlike(files: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, with its folder where two have the same."""
    stems = Counter(map(stem, files))
    names = [stem(p) if stems[stem(p)] == 1 else f"{p.resolve().parent.name}-{stem(p)}" for p in files]
    often = Counter(names)
    return [name if often[name] == 1 else f"{name}-{i}" for i, name in enumerate(names, 1)]


# From cells to codes and scores.


def _label(role: str, table: pa.Table, unread: dict[str, Counter[str]]) -> Coded:
    if role not in table.column_names:
        return Coded([None if role in _READ else ""], np.zeros(len(table), np.int64))
    cells, codes = _encode(table.column(role))
    read = _READ.get(role)
    texts = [as_text(cell) for cell in cells]
    if role not in ("question", "text"):
        texts = ["".join(c if c.isprintable() else " " for c in t).strip() for t in texts]
    if read is None:
        return _merge([t.strip() if role == "question" else t for t in texts], codes)
    values = [read(text) for text in texts]
    bad = [i for i, (text, value) in enumerate(zip(texts, values, strict=True)) if text and value is None]
    if bad:
        often = np.bincount(codes, minlength=len(texts))
        unread.setdefault(role, Counter()).update({texts[i]: int(often[i]) for i in bad})
    return _merge(values, codes)


def _encode(column: pa.ChunkedArray) -> tuple[list[Any], IntArray]:
    """The different cells of a column, and (N,) their indices."""
    if pa.types.is_nested(column.type):
        column = pa.chunked_array([as_strings([as_text(v) for v in column.to_pylist()])])
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    cells = [*array.dictionary.to_pylist(), None]
    codes = array.indices.fill_null(len(cells) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    return cells, codes


def _merge(values: Sequence[Hashable], codes: IntArray) -> Coded:
    index: dict[Hashable, int] = {}
    new = np.array([index.setdefault(value, len(index)) for value in values], dtype=np.int64)
    return Coded(list(index), new[codes])


def _join(parts: Sequence[Coded]) -> Coded:
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(p.values) for p in parts)])
    codes = np.concatenate([p.codes + offset for p, offset in zip(parts, offsets, strict=False)])
    return _merge([v for p in parts for v in p.values], codes)


def _scores(table: pa.Table, role: str, top: float) -> Scores:
    if role not in table.column_names:
        return Scores(np.full(len(table), np.nan), np.ones(len(table), bool))
    column = table.column(role)
    said: Counter[str] = Counter()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = column.cast(pa.float64()).to_numpy()
        empty = np.isnan(values)
    else:
        values, empty, said = _numbers(column)
    wrong = (values < 0) | (values > top)
    return Scores(np.where(wrong, np.nan, values), empty, said, int(wrong.sum()))


def _numbers(column: pa.ChunkedArray) -> tuple[FloatArray, BoolArray, Counter[str]]:
    """Texts as (N,) numbers, which of them are empty, and what the others said that are no numbers."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            trimmed = pc.utf8_trim_whitespace(column)
            filled = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, column.type), trimmed)
            values = filled.cast(pa.float64()).to_numpy()
            empty = filled.is_null().to_numpy()
            if np.isfinite(values[~empty]).all():
                return values, empty, Counter()
        except pa.ArrowInvalid:
            pass
    cells, codes = _encode(column)
    texts = [as_text(cell).strip() for cell in cells]
    read = np.array([read_number(text) for text in texts])
    odd = [i for i, text in enumerate(texts) if text and not np.isfinite(read[i])]
    read[odd] = np.nan
    often = np.bincount(codes, minlength=len(texts))
    blank = np.array([not text for text in texts])
    return read[codes], blank[codes], Counter({texts[i]: int(often[i]) for i in odd if often[i]})


def _pooled(parts: Sequence[Scores]) -> Scores:
    return Scores(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.empty for p in parts]),
        sum((p.said for p in parts), Counter()),
        sum(p.outside for p in parts),
    )


def _answers(tables: Sequence[pa.Table]) -> pa.ChunkedArray | None:
    if not any("answer" in table.column_names for table in tables):
        return None
    chunks: list[pa.Array] = []
    for table in tables:
        if "answer" not in table.column_names:
            chunks.append(pa.nulls(len(table), pa.large_string()))
            continue
        column = table.column("answer")
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            chunks += column.cast(pa.large_string()).chunks
        else:
            chunks.append(as_strings([as_text(v) for v in column.to_pylist()]))
    return pa.chunked_array(chunks, pa.large_string())
