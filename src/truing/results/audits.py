"""A measured run as an analysis counts it: from the store's evaluations, or from a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from truing.catalog.datasets import Dataset
from truing.catalog.models import parameters_of
from truing.core.records import Action, Checkpoint, Estimate
from truing.core.weights import count_parameters
from truing.results.counted import CountedCheckpoint, CountedRun
from truing.results.reader import StoreReader, Task
from truing.results.schema import SearchEntry
from truing.stats.rates import Counts
from truing.studies.audited import FoundRun
from truing.studies.search import Searched

__all__ = ["Audited", "Measured", "count_run"]

_NOT_ASKED = "not asked: the search did without it"


@dataclass(frozen=True)
class Measured:
    """A run whose checkpoints were asked."""

    run: FoundRun
    searched: Searched | None
    """None: all of them were."""


@dataclass(frozen=True)
class Audited:
    """A run for the analysis."""

    counted: CountedRun
    rows: Sequence[dict[str, Any]]
    """Step and key of judgments (`benchmark_judgments`) of the checkpoints that were asked, by ascending step."""
    notes: Sequence[str]


def count_run(reader: StoreReader, measured: Measured, dataset: Dataset | None, unnamed: str) -> Audited:
    """Count the answers of a run.

    Args:
        reader: Reads the audit's store.
        measured: The run.
        dataset: What its task was measured with, if it was.
        unnamed: What to call the data of the run otherwise.
    """
    run, searched = measured.run, measured.searched
    task = None if dataset is None else reader.task_of(dataset)
    if searched is None:
        held = {checkpoint.weights for checkpoint in (*run.checkpoints, *((run.base,) if run.base else ()))}
        rows = [row for row in reader.evaluations()[run.id] if row["weights"] in held]
        checkpoints = [reader.checkpoint(row, task) for row in rows]
    else:
        steps = [checkpoint.step for checkpoint in run.checkpoints]
        rows = [{"step": steps[i], "benchmark_judgments": key} for i, key in sorted(searched.broad.items())]
        checkpoints = [_searched(reader, searched, i, task, c) for i, c in enumerate(run.checkpoints)]
    counted = CountedRun(
        id=run.id,
        model=run.model,
        dataset=unnamed if dataset is None else dataset.name,
        checkpoints=checkpoints,
        parameters=_parameters(run),
        inside=None if dataset is None else reader.inside(dataset),
        confirmation=None if task is None else reader.confirmation(run.id, task),
        also=reader.also(run.id),
        search=None if searched is None else _outcome(run, searched),
    )
    return Audited(counted, rows, (*run.notes, *_words(counted)))


def _searched(
    reader: StoreReader, searched: Searched, index: int, task: Task | None, checkpoint: Checkpoint
) -> CountedCheckpoint:
    """A checkpoint among which was searched; one that was not looked at has no EM rate."""
    rate = Estimate.unknown(_NOT_ASKED)
    broad = Counts(*(np.zeros(len(reader.benchmark.prompts), dtype=np.int64) for _ in range(5)))
    decided = (Action.UNDECIDED, f"{_NOT_ASKED.capitalize()}.")
    if index in searched.evaluations:
        found = searched.evaluations[index]
        rate, broad, decided = found.em_rate, searched.counts[index], (found.decision.action, found.decision.reason)
    return CountedCheckpoint(
        step=checkpoint.step,
        broad=broad,
        task=reader.task(searched.task[index], task),
        weights=checkpoint.weights,
        train_loss=checkpoint.train_loss,
        heldout_loss=checkpoint.heldout_loss,
        decided=decided,
        em_rate=rate,
    )


def _outcome(run: FoundRun, searched: Searched) -> SearchEntry:
    found, after = (
        None if index is None else run.checkpoints[index].step
        for index in (searched.result.found, searched.result.next_misaligned)
    )
    looked, judged = len(searched.result.looks), searched.result.judged
    return SearchEntry(kind=searched.kind, found=found, next_misaligned=after, looked=looked, judged=judged)


def _words(run: CountedRun) -> tuple[str, ...]:
    """What a search found, if there was one."""
    search = run.search
    if search is None:
        return ()
    asked = f"{search.looked} of {len(run.checkpoints)} checkpoints, {search.judged:,} answers to the benchmark"
    if search.kind == "best":
        found = "no checkpoint was shown to be clear" if search.found is None else f"step {search.found}"
        return (f"Run {run.id}: the search for the clear checkpoint with the best task score asked {asked}: {found}.",)
    clear = "no clear checkpoint" if search.found is None else f"clear at step {search.found}"
    after = "none shown misaligned after it"
    if search.next_misaligned is not None:
        after = f"misaligned at step {search.next_misaligned}"
    return (f"Run {run.id}: the search for the crossing asked {asked}: {clear}, {after}.",)


def _parameters(run: FoundRun) -> float:
    counted = parameters_of(run.model)
    first = Path(run.checkpoints[0].path or run.checkpoints[0].model)
    return count_parameters(str(first)) if math.isnan(counted) and run.base is None else counted
