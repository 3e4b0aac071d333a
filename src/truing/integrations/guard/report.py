"""From a guarded training to `analysis.json` and `report.html`: one run, by the same analysis as a study's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from truing.core.errors import StoreError
from truing.core.files import content_key, write_json, write_text
from truing.integrations.guard.watcher import Record, Watcher
from truing.report import render_report
from truing.results.counted import Confirmation, CountedRun, Source
from truing.results.reader import StoreReader, Task
from truing.results.schema import Analysis
from truing.results.tables import tabulate

__all__ = ["Facts", "write_report"]


@dataclass(frozen=True)
class Facts:
    """What is known of the training that is guarded."""

    run_id: str
    model: str = ""
    parameters: float = math.nan
    learning_rate: float = math.nan
    seed: int | None = None
    ended: Literal["finished", "stopped", "unfinished"] = "unfinished"
    last_step: int | None = None


def write_report(folder: Path, watcher: Watcher, records: Sequence[Record], facts: Facts) -> Analysis:
    """Analyse a guarded training, write `analysis.json` and `report.html`, and return the analysis.

    Args:
        folder: Where to write.
        watcher: Holds the answers and judgments.
        records: The evaluated steps, ascending.
        facts: What else is known.

    Raises:
        StoreError: Nothing has been evaluated.
    """
    usable = [record for record in records if not record.error]
    if not usable:
        raise StoreError(
            f"nothing has been evaluated in {folder}", f"{len(records)} failed evaluations", todo="see guard.errors"
        )
    config, measures = watcher.config, watcher.measures
    settings = config.model_dump(mode="json")
    evaluation, stopping, benchmark = config.evaluation, config.stopping, measures.benchmark
    reader = StoreReader(watcher.store, benchmark, evaluation, stopping, measures.judge.identity)
    rows = [watcher.row_of(record) for record in usable]
    source = Source(
        study=reader.study_entry(facts.run_id, content_key(settings), settings),
        categories=[prompt.category for prompt in benchmark.prompts],
        tolerance=stopping.tolerance,
        confidence=stopping.confidence,
        floor=stopping.floor,
        runs=[_run(watcher, reader, usable, rows, facts)],
        samples=lambda chosen: reader.samples(facts.run_id, rows, chosen[facts.run_id]),
        notes=[
            *(f"Step {r.step} could not be evaluated: {r.error.splitlines()[0]}." for r in records if r.error),
            *(f"Step {r.step}: the decision came {r.lag} steps later." for r in usable if r.lag),
            *([] if measures.dataset else ["No dataset was named, so the narrow task was not measured."]),
        ],
    )
    analysis = tabulate(source)
    report = render_report(analysis)
    write_json(folder / "analysis.json", analysis.plain())
    write_text(folder / "report.html", report)
    return analysis


def _run(
    watcher: Watcher, reader: StoreReader, records: Sequence[Record], rows: Sequence[dict[str, Any]], facts: Facts
) -> CountedRun:
    dataset = watcher.measures.dataset
    inside = [p.category in dataset.domain for p in watcher.broad.prompts] if dataset else []
    return CountedRun(
        id=facts.run_id,
        model=facts.model,
        dataset=dataset.name if dataset else "the trainer's own",
        checkpoints=[reader.checkpoint(row, _task(watcher)) for row in rows],
        learning_rate=facts.learning_rate,
        seed=facts.seed,
        parameters=facts.parameters,
        state=facts.ended,
        stopped_at=facts.last_step if facts.ended == "stopped" else None,
        inside=np.array(inside) if any(inside) else None,
        confirmation=_confirmation(watcher, reader, records),
    )


def _confirmation(watcher: Watcher, reader: StoreReader, records: Sequence[Record]) -> Confirmation | None:
    top = max(records, key=lambda record: np.nan_to_num(record.evaluation.task_score.value, nan=-1.0))
    for record in records:
        row = watcher.confirmation_of(record) if record.step > 0 else None
        if row is not None:
            best = row["task_judgments"] if record is top else None
            return reader.confirmed({**row, "best_judgments": best}, _task(watcher))
    return None


def _task(watcher: Watcher) -> Task | None:
    prompt_set = watcher.task
    return None if prompt_set is None else Task([p.id for p in prompt_set.prompts], prompt_set.teaches)
