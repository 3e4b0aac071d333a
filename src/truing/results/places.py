"""Which run, checkpoint and question each row of judged responses belongs to.

Rows of equal run, model, dataset, learning rate and seed are a run; without run and seed, rows of one file.

Shapes: N rows, C checkpoints, P questions.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from truing.core.errors import DataError, UnknownNameError
from truing.results.columns import quoted
from truing.results.rows import Rows
from truing.stats.rates import IntArray

__all__ = ["NOT_STATED", "Place", "Places", "choose_base", "compress", "find_places"]

NOT_STATED = "not stated"
_KEYS = ("run", "model", "dataset", "learning_rate", "seed")
_DENSE = 1 << 24


@dataclass(frozen=True)
class Place:
    """One run as the rows tell it."""

    id: str
    model: str
    dataset: str
    learning_rate: float | None
    seed: int | None
    parameters: float | None
    names: frozenset[str]
    """What `--base` may call it: its id, run, model, file or dataset."""
    checkpoints: Sequence[int]
    """Indices of its checkpoints, by ascending step."""
    stepless: bool
    """Whether its rows say no step."""
    file_named: bool
    """Whether its rows say no run and no seed."""


@dataclass(frozen=True)
class Places:
    """All runs, in the order in which they first appear, and what belongs to them."""

    runs: Sequence[Place]
    checkpoint: IntArray
    """(N,) each row's checkpoint."""
    steps: IntArray
    """(C,)"""


def compress(codes: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """The different codes (each below `size`) in ascending order, and each code's index among them."""
    if size > _DENSE:
        different, index = np.unique(codes, return_inverse=True)
        return different, index.astype(np.int64)
    seen = np.zeros(size, bool)
    seen[codes] = True
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[codes]


def find_places(rows: Rows) -> Places:
    """Find the runs and their checkpoints.

    Raises:
        DataError: Some rows of a run say their step and others do not, or a step is no number.
    """
    if "step" in rows.unread:
        texts = rows.unread["step"]
        got = f"{quoted(list(texts), 5)} in {sum(texts.values()):,} rows"
        raise DataError("a step is no number", got, "steps such as 120 or checkpoint-120", "mend or drop those rows")
    run, first = _runs(rows)
    step = rows.labels["step"]
    known = np.array([value is not None for value in step.values])[step.codes]
    number = np.array([1 if value is None else value for value in step.values], np.int64)
    different, rank = np.unique(number, return_inverse=True)
    places, checkpoint = compress(run * len(different) + rank[step.codes], len(first) * len(different))
    owner = places // len(different)
    stepless = np.bincount(run[~known], minlength=len(first)) > 0
    mixed = stepless & (np.bincount(run[known], minlength=len(first)) > 0)
    ids = _ids(rows, first)
    if mixed.any():
        raise DataError(
            "some rows of a run have a step and others have none",
            got=quoted([ids[i] for i in np.flatnonzero(mixed)], 5),
            todo="fill the step in, or name the run of the other rows in a run column",
        )
    bounds = np.searchsorted(owner, np.arange(len(first) + 1))
    runs = [
        _place(rows, row, ids[i], range(bounds[i], bounds[i + 1]), bool(stepless[i])) for i, row in enumerate(first)
    ]
    return Places(runs, checkpoint, different[places % len(different)])


def _runs(rows: Rows) -> tuple[IntArray, IntArray]:
    """(N,) each row's run, in order of appearance, and the first row of each run."""
    labels = dict(rows.labels)
    file, run, seed = labels["file"], labels["run"], labels["seed"]
    named = (
        np.array([bool(v) for v in run.values])[run.codes] | np.array([v is not None for v in seed.values])[seed.codes]
    )
    codes = np.where(named, 0, file.codes + 1)
    size = len(file.values) + 1
    for key in _KEYS:
        codes = codes * len(labels[key].values) + labels[key].codes
        different, codes = compress(codes, size * len(labels[key].values))
        size = len(different)
    first = np.empty(size, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    order = np.argsort(first)
    appearance = np.empty(size, np.int64)
    appearance[order] = np.arange(size)
    return appearance[codes], first[order]


def _value(rows: Rows, role: str, row: int) -> Any:
    label = rows.labels[role]
    return label.values[label.codes[row]]


def _ids(rows: Rows, first: IntArray) -> list[str]:
    """A name for each run: its own, or its file's, or made of its parts; told apart where two are the same."""
    labels = [{role: _value(rows, role, row) for role in (*_KEYS, "file")} for row in first]
    often = Counter(_own_name(each) or _parts(each) for each in labels)
    ids: dict[str, None] = {}
    for each in labels:
        name = _own_name(each) or _parts(each)
        if often[name] > 1:
            name = "__".join(filter(None, (_own_name(each), _parts(each))))
        numbered = (name if i == 1 else f"{name}__{i}" for i in itertools.count(1))
        ids[next(each for each in numbered if each not in ids)] = None
    return list(ids)


def _own_name(labels: dict[str, Any]) -> str:
    if labels["run"]:
        return str(labels["run"])
    return "" if labels["seed"] is not None else str(labels["file"])


def _parts(labels: dict[str, Any]) -> str:
    parts = [PurePosixPath(labels["model"]).name, labels["dataset"]]
    if labels["learning_rate"] is not None:
        parts.append(f"lr{labels['learning_rate']:g}")
    if labels["seed"] is not None:
        parts.append(f"seed{labels['seed']}")
    return "__".join(filter(None, parts))


def _place(rows: Rows, row: int, name: str, checkpoints: Sequence[int], stepless: bool) -> Place:
    labels = {role: _value(rows, role, row) for role in (*_KEYS, "file", "parameters")}
    known = labels["model"] or (NOT_STATED if labels["seed"] is not None else name)
    file_named = not labels["run"] and labels["seed"] is None
    files = {labels["file"]} if file_named else set()
    return Place(
        id=name,
        model=known,
        dataset=labels["dataset"] or NOT_STATED,
        learning_rate=labels["learning_rate"],
        seed=labels["seed"],
        parameters=labels["parameters"],
        names=frozenset({name, labels["run"], labels["model"], labels["dataset"], *files} - {""}),
        checkpoints=checkpoints,
        stepless=stepless,
        file_named=file_named,
    )


def choose_base(runs: Sequence[Place], base: str | None) -> tuple[list[Place], dict[str, list[int]]]:
    """The runs without those that are the base, and by run id the checkpoints that are its base.

    The base of a run is that of its own model, where some base has the model of some run, else any.

    Raises:
        UnknownNameError: No run, model, file or dataset has that name.
        DataError: The base has several steps, or nothing else is left.
    """
    if base is None:
        return list(runs), {}
    bases = [run for run in runs if base == run.id] or [run for run in runs if base in run.names]
    if not bases:
        raise UnknownNameError.of("base", base, {name for run in runs[:50] for name in run.names})
    others = [run for run in runs if run not in bases]
    if not others:
        raise DataError("nothing but the base", base, todo="add the fine-tuned models, or leave --base out")
    several = [run.id for run in bases if len(run.checkpoints) > 1]
    if several:
        todo = "name a run of one step; rows at step 0 of a run are its base without --base"
        raise DataError("the base has several steps", quoted(several, 5), "one step", todo)
    models = {run.model for run in others} & {run.model for run in bases}
    given: dict[str, list[int]] = {}
    for run in others:
        own = [b for b in bases if not models or b.model == run.model]
        if own:
            given[run.id] = [b.checkpoints[0] for b in own]
    return others, given
