"""A run together with its twin: the unit of the report. A twin repeats a stopped run without stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass

from truing.catalog.benchmarks import CATEGORIES
from truing.core.records import Estimate
from truing.report.document import CheckpointEntry, Document, RunEntry, StepBounds
from truing.report.figures import is_known

__all__ = ["Column", "Event", "Pair", "highest", "in_order", "pairs_of"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a step of a run."""

    kind: str
    """`converged`, `chosen`, `onset` or `stopped`."""
    step: int | None
    """None if it was not seen, but may have come between the bounds."""
    text: str
    between: StepBounds | None = None
    """The steps between which the true one lies, where that is known."""

    @property
    def place(self) -> int:
        """The step at which it is drawn."""
        low = self.between.low if self.between is not None else None
        return self.step if self.step is not None else low or 0


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
        settings = run.settings.replace("\u00a0", " ").replace(" ·", "")
        return " ".join((run.id, run.model, run.dataset, settings, run.state, onset, run.course.order)).lower()

    @property
    def em_confirmed(self) -> bool:
        """Whether the chosen checkpoint's EM rate is known from responses that had no part in choosing it."""
        return self.run.confirmed is not None and is_known(self.run.confirmed.em_rate)

    @property
    def score_confirmed(self) -> bool:
        """Whether the task score that it keeps is known from such responses."""
        return self.run.confirmed is not None and is_known(self.run.confirmed.retention)

    @property
    def kept_em(self) -> Estimate | None:
        """EM rate of the chosen checkpoint: confirmed where that is known, else as measured when choosing."""
        found = self.run.confirmed
        return found.em_rate if found is not None and self.em_confirmed else self.run.em_at_chosen

    @property
    def kept_score(self) -> Estimate:
        """Task score kept by the chosen checkpoint: confirmed where that is known, else as measured when choosing."""
        found = self.run.confirmed
        kept = found.retention if found is not None and self.score_confirmed else None
        return self.run.retention if kept is None else kept

    @property
    def why_none(self) -> str:
        """Why no checkpoint is chosen, where none is."""
        return "no checkpoint is within the tolerance" if self.task_measured else "the task was not measured"

    @property
    def task_measured(self) -> bool:
        """Whether any checkpoint after the base has a task score."""
        runs = [run for run in (self.run, self.twin) if run is not None]
        return any(c.step > 0 and is_known(c.task_score) for run in runs for c in run.checkpoints)

    @property
    def stop_order(self) -> str:
        """Whether the stop came before or after convergence, by the interval of convergence."""
        stop, learnt = self.run.stopped_at, self.run.course.convergence
        if stop is None or not self.task_measured:
            return "cannot tell"
        if learnt.low is None or stop < learnt.low:
            return "before"
        return "after" if learnt.high is not None and stop >= learnt.high else "cannot tell"

    def events(self) -> list[Event]:
        """What to mark in the run's chart, by step."""
        run, course, found = self.run, self.run.course, []
        if self.task_measured:
            text = "task not seen to converge" if self.convergence_step is None else "task converged"
            found.append(Event("converged", self.convergence_step, text, course.convergence))
        if run.chosen_step is not None:
            found.append(Event("chosen", run.chosen_step, "chosen"))
        if run.measured or self.onset_step is not None:
            avoided = " (avoided)" if self.onset_was_avoided else ""
            unseen = "onset not confirmed" if is_known(run.base_em_rate) else "onset not confirmed: no base"
            text = unseen if self.onset_step is None else f"onset{avoided}"
            found.append(Event("onset", self.onset_step, text, course.onset))
        if run.stopped_at is not None:
            found.append(Event("stopped", run.stopped_at, "stopped"))
        shown = [e for e in found if e.step is not None or (e.between is not None and e.between.low is not None)]
        return sorted(shown, key=lambda event: event.place)

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
