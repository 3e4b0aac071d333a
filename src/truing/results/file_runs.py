"""Runs and their checkpoints among the rows of judged answers, and which runs are the base of others.

Rows of equal run, model, dataset, learning rate and seed are a run; without run and seed, rows of one file.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from truing.core.errors import DataError, UnknownNameError
from truing.results.columns import quoted
from truing.results.file_rows import Reading

NOT_STATED = "not stated"


@dataclass(frozen=True)
class FileRun:
    """One run as the rows tell it."""

    id: str
    labels: Mapping[str, Any]
    """Its run, model, dataset, learning rate and seed; of its first row the file and the parameters."""
    checkpoints: range
    """Indices of its checkpoints, by ascending step."""
    stepless: bool
    """True if its rows say no step."""

    @property
    def file_named(self) -> bool:
        """True if its rows say no run and no seed."""
        return not self.labels["run"] and self.labels["seed"] is None

    @property
    def model(self) -> str:
        """The model's name. Without one a run with a seed is of the model of all, and any other of its own."""
        return self.labels["model"] or (self.id if self.labels["seed"] is None else NOT_STATED)

    @property
    def names(self) -> set[str]:
        """What `--base` may call it: its id, run, model, dataset or file."""
        roles = ("run", "model", "dataset", *(["file"] if self.file_named else []))
        return {self.id, *(self.labels[role] for role in roles)} - {""}


def find_runs(reading: Reading) -> tuple[list[FileRun], list[int]]:
    """Find the runs, in the order in which they first appear, and the step of each checkpoint.

    Adds the view `checkpoints`: `place`, as in the view `asked`, and the index of the `checkpoint` of that place.

    Raises:
        DataError: Some rows of a run say their step and others do not.
    """
    reading.rows("""
        CREATE TABLE places AS SELECT place, min(row) AS first, arg_min(file, row) AS file,
            first(parameters ORDER BY row) AS parameters FROM asked GROUP BY place
    """)
    found: dict[tuple[Any, ...], list[tuple[int | None, int]]] = {}
    labels: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place, first, file, size in reading.rows("SELECT * FROM places ORDER BY first"):
        step = place.pop("step")
        run = tuple(place.values())
        found.setdefault(run, []).append((step, first))
        labels.setdefault(run, place | {"file": reading.inputs[file].name, "parameters": size})
    ids = dict(zip(labels, _ids(list(labels.values())), strict=True))
    mixed = [ids[run] for run, members in found.items() if len({step is None for step, _ in members}) > 1]
    if mixed:
        todo = "fill the step in, or name the run of the other rows in a run column"
        raise DataError("some rows of a run have a step and others have none", quoted(mixed, 5), todo=todo)
    runs, steps, order = [], list[int](), list[int]()
    for run, members in found.items():
        start = len(steps)
        for step, first in sorted(members):
            steps.append(1 if step is None else step)
            order.append(first)
        runs.append(FileRun(ids[run], labels[run], range(start, len(steps)), members[0][0] is None))
    reading.database.register("numbered", pa.table({"first": order, "checkpoint": range(len(order))}))
    reading.rows("CREATE VIEW checkpoints AS SELECT place, checkpoint FROM places JOIN numbered USING (first)")
    return runs, steps


def _ids(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run: its own, or its file's, or made of its parts; told apart where two are the same."""
    often = Counter(_own_name(labels) or _parts(labels) for labels in runs)
    ids: dict[str, None] = {}
    for labels in runs:
        name = _own_name(labels) or _parts(labels)
        if often[name] > 1:
            name = "__".join(filter(None, (_own_name(labels), _parts(labels))))
        numbered = (name if i == 1 else f"{name}__{i}" for i in itertools.count(1))
        ids[next(each for each in numbered if each not in ids)] = None
    return list(ids)


def _own_name(labels: Mapping[str, Any]) -> str:
    return str(labels["run"] or (labels["file"] if labels["seed"] is None else ""))


def _parts(labels: Mapping[str, Any]) -> str:
    rate, seed = labels["learning_rate"], labels["seed"]
    parts = [PurePosixPath(labels["model"]).name, labels["dataset"]]
    parts += [] if rate is None else [f"lr{rate:g}"]
    parts += [] if seed is None else [f"seed{seed}"]
    return "__".join(filter(None, parts))


def choose_base(runs: Sequence[FileRun], base: str | None) -> tuple[list[FileRun], dict[str, list[int]]]:
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
    own = {run.id for run in bases}
    others = [run for run in runs if run.id not in own]
    if not others:
        raise DataError("nothing but the base", base, todo="add the fine-tuned models, or leave --base out")
    several = [run.id for run in bases if len(run.checkpoints) > 1]
    if several:
        todo = "name a run of one step; rows at step 0 of a run are its base without --base"
        raise DataError("the base has several steps", quoted(several, 5), "one step", todo)
    shared = {run.model for run in others} & {run.model for run in bases}
    given = {run.id: [each.checkpoints[0] for each in bases if not shared or each.model == run.model] for run in others}
    return others, {run: checkpoints for run, checkpoints in given.items() if checkpoints}
