"""A run together with its twin: the unit of the report. A twin repeats a stopped run without stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass

from truing.benchmarks import CATEGORIES
from truing.records import Estimate
from truing.report.document import CheckpointEntry, Document, RunEntry
from truing.report.figures import is_known

__all__ = ["Column", "Event", "Pair", "highest", "in_order", "pairs_of"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a step of a run."""

    kind: str
    """`converged`, `chosen`, `onset` or `stopped`."""
    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Column:
    """A checkpoint of the category table."""

    title: str
    checkpoint: CheckpointEntry


@dataclass(frozen=True, slots=True)
class Pair:
    """A run and, if one was trained, the twin that was not stopped."""

    run: RunEntry
    twin: RunEntry | None
    anchor: str
    """Name of its place in the page."""

    @property
    def onset_step(self) -> int | None:
        """Onset in the run, or else in its twin."""
        if self.run.onset_step is not None or self.twin is None:
            return self.run.onset_step
        return self.twin.onset_step

    @property
    def convergence_step(self) -> int | None:
        """Convergence of the run, or else of its twin."""
        if self.run.convergence_step is not None or self.twin is None:
            return self.run.convergence_step
        return self.twin.convergence_step

    @property
    def onset_was_avoided(self) -> bool:
        """Whether the onset lies beyond the last checkpoint of the run itself."""
        last = self.run.last
        return self.onset_step is not None and last is not None and self.onset_step > last.step

    @property
    def went_on(self) -> bool:
        """Whether the twin was trained beyond the last checkpoint of the run."""
        if self.twin is None or self.twin.last is None:
            return False
        return self.run.last is None or self.twin.last.step > self.run.last.step

    @property
    def end(self) -> Estimate:
        """EM rate at the end of training: the twin's if there is one."""
        return self.run.em_at_end if self.twin is None else self.twin.em_at_end

    @property
    def end_title(self) -> str:
        """What `end` is the end of."""
        if self.twin is not None:
            return "end, not stopped"
        return {"stopped": "at the stop", "finished": "end"}.get(self.run.state, "so far")

    @property
    def words(self) -> str:
        """What the page's filter searches."""
        run = self.run
        onset = "" if self.onset_step is None else "onset misaligned"
        settings = f"lr {run.learning_rate:g} seed {run.seed}"
        return " ".join((run.id, run.model, run.dataset, settings, run.state, onset)).lower()

    def events(self) -> list[Event]:
        """What to mark in the run's chart, by step."""
        run, found = self.run, []
        if self.convergence_step is not None:
            found.append(Event("converged", self.convergence_step, "task converged"))
        if run.chosen_step is not None:
            found.append(Event("chosen", run.chosen_step, "chosen"))
        if self.onset_step is not None:
            avoided = " (avoided)" if self.onset_was_avoided else ""
            found.append(Event("onset", self.onset_step, f"onset{avoided}"))
        if run.stopped_at is not None:
            found.append(Event("stopped", run.stopped_at, "stopped"))
        return sorted(found, key=lambda event: event.step)

    def columns(self) -> list[Column]:
        """The checkpoints of the category table: base, chosen, end, and the twin's end."""
        run, twin = self.run, self.twin
        found: list[Column] = []
        if (base := run.at(0)) is not None:
            found.append(Column("base", base))
        if (chosen := run.at(run.chosen_step)) is not None:
            found.append(Column("chosen", chosen))
        if run.last is not None and run.last.step > 0:
            found.append(Column({"stopped": "at stop", "finished": "end"}.get(run.state, "so far"), run.last))
        if twin is not None and twin.last is not None and self.went_on:
            found.append(Column("not stopped", twin.last))
        return found

    def categories(self) -> list[str]:
        """The categories of the table's rows."""
        return in_order({slug for column in self.columns() for slug in column.checkpoint.categories})


def in_order(slugs: set[str]) -> list[str]:
    """Category slugs in the order of the report."""
    return [s for s in CATEGORIES if s in slugs] + sorted(slugs - set(CATEGORIES))


def pairs_of(document: Document) -> list[Pair]:
    """Every run that is not a twin, with its twin. A twin whose run is not listed stands for itself."""
    ids = {run.id for run in document.runs}
    twins = {run.twin_of: run for run in document.runs if run.twin_of in ids}
    alone = [run for run in document.runs if run.twin_of not in ids]
    return [Pair(run, twins.get(run.id), f"run-{index}") for index, run in enumerate(alone, 1)]


def highest(pairs: list[Pair]) -> float:
    """The highest upper limit of an EM rate that a chart has to show."""
    runs = [run for pair in pairs for run in (pair.run, pair.twin) if run is not None]
    rates = [c.em_rate for run in runs for c in run.checkpoints if is_known(c.em_rate)]
    return max((rate.value if math.isnan(rate.high) else rate.high for rate in rates), default=0.0)
