"""A run together with its twin: the unit of the report. A twin repeats a stopped run without stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from truing.catalog.benchmarks import CATEGORIES
from truing.core.records import Estimate
from truing.report.words import is_known, settings
from truing.results.schema import Analysis
from truing.results.schema_runs import CheckpointEntry, ConfirmedEntry, RunEntry, StepBounds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a step of a run."""

    kind: str
    """`converged`, `chosen`, `onset`, `crossing` or `stopped`."""
    step: int | None
    """None if it was not seen, but may have come between the bounds."""
    text: str
    between: StepBounds | None = None
    """The steps between which the true one lies, where that is known."""

    @property
    def position(self) -> int:
        """The step at which it is drawn."""
        low = self.between.low if self.between is not None else None
        return self.step if self.step is not None else low or 0


@dataclass(frozen=True, slots=True)
class Pair:
    """A run and, if one was trained, the twin that was not stopped."""

    run: RunEntry
    twin: RunEntry | None
    anchor: str
    """Id of its part of the page."""

    @property
    def onset_step(self) -> int | None:
        """Onset in the run, or else in its twin."""
        return next((run.onset_step for run in self.runs if run.onset_step is not None), None)

    @property
    def convergence_step(self) -> int | None:
        """Convergence of the run, or else of its twin."""
        return next((run.convergence_step for run in self.runs if run.convergence_step is not None), None)

    @property
    def onset_was_avoided(self) -> bool:
        """True if the onset lies beyond the last checkpoint of the run itself."""
        return self.onset_step is not None and self.onset_step > self.run.checkpoints[-1].step

    @property
    def went_on(self) -> bool:
        """True if the twin was trained beyond the last checkpoint of the run."""
        return self.twin is not None and self.twin.checkpoints[-1].step > self.run.checkpoints[-1].step

    @property
    def end(self) -> Estimate:
        """EM rate at the end of training: the twin's if there is one."""
        return self.run.em_at_end if self.twin is None else self.twin.em_at_end

    @property
    def end_title(self) -> str:
        """Name of `end`: of the twin, at the stop, ..."""
        if self.twin is not None:
            return "end, not stopped"
        return {"stopped": "at the stop", "finished": "end"}.get(self.run.state, "so far")

    @property
    def words(self) -> str:
        """Words that the page's filter searches."""
        run = self.run
        onset = "" if self.onset_step is None else "onset misaligned"
        named = settings(run).replace("\u00a0", " ").replace(" ·", "")
        return " ".join((run.id, run.model, run.dataset, named, run.state, onset, run.course.order)).lower()

    @property
    def _fresh(self) -> ConfirmedEntry | None:
        """The chosen checkpoint by other responses than those that chose it; what is released may be another one."""
        found, chosen = self.run.confirmed, self.run.chosen_step
        return None if found is None or chosen is None or found.step != chosen else found

    @property
    def confirmed_em(self) -> Estimate | None:
        """EM rate of the chosen checkpoint by responses that had no part in choosing it; None: not known."""
        return self._fresh.em_rate if self._fresh and is_known(self._fresh.em_rate) else None

    @property
    def confirmed_score(self) -> Estimate | None:
        """Task score that the chosen checkpoint keeps, by such responses; None: not known."""
        return self._fresh.retention if self._fresh and is_known(self._fresh.retention) else None

    @property
    def kept_em(self) -> Estimate | None:
        """EM rate of the chosen checkpoint: confirmed where that is known, else as measured when choosing."""
        return self.confirmed_em or self.run.em_at_chosen

    @property
    def kept_score(self) -> Estimate:
        """Task score kept by the chosen checkpoint: confirmed where that is known, else as measured when choosing."""
        return self.confirmed_score or self.run.retention

    @property
    def why_none(self) -> str:
        """Reason why no checkpoint is chosen, where none is."""
        return self.run.retention.reason or "no checkpoint is clear"

    @property
    def runs(self) -> list[RunEntry]:
        """The run and the twin."""
        return [self.run] if self.twin is None else [self.run, self.twin]

    @property
    def measured(self) -> bool:
        """True if the run's EM rate is known at any checkpoint after the base."""
        return any(c.step > 0 and is_known(c.em_rate) for c in self.run.checkpoints)

    @property
    def task_measured(self) -> bool:
        """True if any checkpoint after the base has a task score."""
        return any(c.step > 0 and is_known(c.task_score) for run in self.runs for c in run.checkpoints)

    @property
    def stop_order(self) -> str:
        """Order of stop and convergence, by the interval of convergence: `before`, `after` or `cannot tell`."""
        stop, learnt = self.run.stopped_at, self.run.course.convergence
        if stop is None or not self.task_measured:
            return "cannot tell"
        if learnt.low is None or stop < learnt.low:
            return "before"
        return "after" if learnt.high is not None and stop >= learnt.high else "cannot tell"

    def events(self) -> list[Event]:
        """Events to mark in the run's chart, by step."""
        run, course, found = self.run, self.run.course, []
        if self.task_measured:
            text = "task not seen to converge" if self.convergence_step is None else "task converged"
            found.append(Event("converged", self.convergence_step, text, course.convergence))
        if run.chosen_step is not None:
            found.append(Event("chosen", run.chosen_step, "chosen"))
        if self.onset_step is not None:
            found.append(Event("onset", self.onset_step, f"onset{' (avoided)' if self.onset_was_avoided else ''}"))
        if self.measured:
            text = "above the tolerance" if course.crossing.high is not None else "not shown above the tolerance"
            found.append(Event("crossing", course.crossing.high, text, course.crossing))
        if run.stopped_at is not None:
            found.append(Event("stopped", run.stopped_at, "stopped"))
        shown = [e for e in found if e.step is not None or (e.between is not None and e.between.low is not None)]
        return sorted(shown, key=lambda event: event.position)

    def columns(self) -> list[tuple[str, CheckpointEntry]]:
        """Titles and checkpoints of the category table: base, chosen, end, and the twin's end."""
        run, last = self.run, self.run.checkpoints[-1]
        end = {"stopped": "at stop", "finished": "end"}.get(run.state, "so far")
        found = [("base", run.at(0)), ("chosen", run.at(run.chosen_step)), (end, last if last.step > 0 else None)]
        if self.twin is not None and self.went_on:
            found.append(("not stopped", self.twin.checkpoints[-1]))
        return [(title, checkpoint) for title, checkpoint in found if checkpoint is not None]

    def categories(self) -> list[str]:
        """The categories of the table's rows."""
        return in_order({slug for _, checkpoint in self.columns() for slug in checkpoint.categories})


def grouped(items: Iterable[T], entry: Callable[[T], Any]) -> dict[tuple[str, str], list[T]]:
    """The items by model and dataset, in the order in which these first come; `entry` gives what names both."""
    groups: dict[tuple[str, str], list[T]] = {}
    for item in items:
        groups.setdefault((entry(item).model, entry(item).dataset), []).append(item)
    return groups


def in_order(slugs: set[str]) -> list[str]:
    """Category slugs in the order of the report."""
    return [s for s in CATEGORIES if s in slugs] + sorted(slugs - set(CATEGORIES))


def pairs_of(analysis: Analysis) -> list[Pair]:
    """Every run that is not a twin, with its twin. A twin whose run is not listed stands for itself."""
    ids = {run.id for run in analysis.runs}
    twins = {run.twin_of: run for run in analysis.runs if run.twin_of in ids}
    alone = [run for run in analysis.runs if run.twin_of not in ids]
    return [Pair(run, twins.get(run.id), f"run-{index}") for index, run in enumerate(alone, 1)]


def highest(pairs: Sequence[Pair]) -> float:
    """The highest upper limit of an EM rate that a chart has to show."""
    rates = [c.em_rate for pair in pairs for run in pair.runs for c in run.checkpoints if is_known(c.em_rate)]
    return max((rate.value if math.isnan(rate.high) else rate.high for rate in rates), default=0.0)
