"""What several runs say together, made ready to be shown: seeds, learning rates, sizes, domains.

Nothing is reckoned here but places of drawings; words are said of figures that the analysis holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from truing.core.records import Estimate
from truing.report.document import (
    CorrelationEntry,
    Document,
    DomainEntry,
    OptionEntry,
    RatesEntry,
    RunEntry,
    SeedsEntry,
    SizeModel,
    SizesEntry,
    short_name,
)
from truing.report.figures import correlation, difference, figure, is_known, setting, signed, why_undefined
from truing.report.pairs import Pair
from truing.report.scales import Line, fit_line
from truing.report.scatter import scatter
from truing.report.strips import Dot, scale, strip

__all__ = [
    "DomainRun",
    "DomainTable",
    "Findings",
    "Lane",
    "RatesRow",
    "RatesTable",
    "SeedsGroup",
    "SeedsRow",
    "SizeFigure",
    "find",
]

WHOLE = Line((0.0, 0.25, 0.5, 0.75, 1.0))
"""The scale of shares."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One seed of a configuration."""

    label: str
    run_id: str
    anchor: str | None
    estimate: Estimate
    shown: str
    """`above`, `clean` or `open`."""
    drawing: str


@dataclass(frozen=True, slots=True)
class SeedsRow:
    """One learning rate."""

    entry: SeedsEntry
    lanes: list[Lane]


@dataclass(frozen=True, slots=True)
class SeedsGroup:
    """The learning rates of one model and dataset."""

    model: str
    dataset: str
    rows: list[SeedsRow]


@dataclass(frozen=True, slots=True)
class RatesRow:
    """One learning rate of several."""

    option: OptionEntry
    recommended: bool
    end: Estimate | None
    """EM rate over seeds at the end, with its interval."""
    drawing: str


@dataclass(frozen=True, slots=True)
class RatesTable:
    """The learning rates of a model and dataset."""

    entry: RatesEntry
    model: str
    rows: list[RatesRow]


@dataclass(frozen=True, slots=True)
class SizeFigure:
    """Size against EM on one dataset."""

    entry: SizesEntry
    ends: dict[str, list[float]]
    """By model, the EM rates of its runs at the end."""
    drawing: str

    def without(self, found: CorrelationEntry, model: SizeModel) -> str:
        """The correlation without a model."""
        return correlation(dict(zip(self.entry.models, found.without, strict=False)).get(model, math.nan))


@dataclass(frozen=True, slots=True)
class DomainRun:
    """One run or twin of a model and dataset."""

    run: RunEntry
    anchor: str
    is_twin: bool
    drawing: str
    """Inside against outside; empty where neither is known."""


@dataclass(frozen=True, slots=True)
class DomainTable:
    """The runs of a model and dataset."""

    entry: DomainEntry
    model: str
    runs: list[DomainRun]

    @property
    def answers(self) -> dict[str, int]:
        """How many runs give each answer."""
        given = [row.run.separable.answer for row in self.runs if not row.is_twin]
        return {answer: given.count(answer) for answer in ("yes", "no", "cannot tell")}


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything said of several runs."""

    seeds: list[SeedsGroup]
    seeds_axis: str
    rates: list[RatesTable]
    sizes: list[SizeFigure]
    domains: list[DomainTable]
    share_axis: str


def find(document: Document, pairs: Sequence[Pair]) -> Findings:
    """All findings of an analysis."""
    line = fit_line(_limits(document))
    return Findings(
        seeds=_seeds(document, pairs, line),
        seeds_axis=scale("Scale of the EM rate minus base's, in percentage points", line, signed),
        rates=[_rates(entry, document) for entry in document.learning_rates],
        sizes=[_size(entry, document.study.tolerance, pairs) for entry in document.sizes],
        domains=[_domain(entry, document.study.tolerance, pairs) for entry in document.domains],
        share_axis=scale("Scale from 0 to 100%", WHOLE, setting),
    )


def _limits(document: Document) -> list[float]:
    estimates = [e for entry in document.seeds for e in entry.versus_base]
    return [document.study.tolerance, *(v for e in estimates for v in (e.low, e.value, e.high))]


def _seeds(document: Document, pairs: Sequence[Pair], line: Line) -> list[SeedsGroup]:
    anchors = {run.id: pair.anchor for pair in pairs for run in (pair.run, pair.twin) if run is not None}
    runs = {run.id: run for run in document.runs}
    groups: dict[tuple[str, str], SeedsGroup] = {}
    for entry in document.seeds:
        key = (entry.model, entry.dataset)
        group = groups.setdefault(key, SeedsGroup(short_name(entry.model), entry.dataset, []))
        lanes = []
        for index, (run_id, estimate) in enumerate(zip(entry.runs, entry.versus_base, strict=False), 1):
            shown = "above" if run_id in entry.above else "clean" if run_id in entry.clean else "open"
            seed = runs[run_id].seed if run_id in runs else None
            label = f"run\u00a0{index}" if seed is None else f"seed\u00a0{seed}"
            shape = {"above": "onset", "clean": "chosen", "open": "converged"}[shown]
            dot = Dot(shown, shape, label, estimate, _versus(estimate))
            drawn = strip("EM rate minus base's", [dot], line, document.study.tolerance)
            lanes.append(Lane(label, run_id, anchors.get(run_id), estimate, shown, drawn))
        group.rows.append(SeedsRow(entry, lanes))
    return list(groups.values())


def _versus(estimate: Estimate) -> str:
    if not is_known(estimate):
        return f"undefined ({why_undefined(estimate)})"
    return f"{difference(estimate)} percentage points, n\u00a0=\u00a0{estimate.n_responses:,}"


def _rates(entry: RatesEntry, document: Document) -> RatesTable:
    seeds = {s.learning_rate: s.em_rate for s in document.seeds if (s.model, s.dataset) == (entry.model, entry.dataset)}
    rows = []
    for option in entry.options:
        end = seeds.get(option.learning_rate)
        dots = [Dot("converged", "converged", "task score", option.score, figure(option.score))]
        if end is not None:
            dots.append(Dot("end", "onset", "EM rate at the end", end, figure(end)))
        drawn = strip(f"Learning rate {option.learning_rate:g}", dots, WHOLE, document.study.tolerance)
        rows.append(RatesRow(option, option.learning_rate == entry.recommended, end, drawn))
    return RatesTable(entry, short_name(entry.model), rows)


def _size(entry: SizesEntry, tolerance: float, pairs: Sequence[Pair]) -> SizeFigure:
    ends: dict[str, list[float]] = {}
    for pair in pairs:
        if pair.run.dataset == entry.dataset and is_known(pair.end):
            ends.setdefault(pair.run.model, []).append(pair.end.value)
    return SizeFigure(entry, ends, scatter(entry, ends, tolerance))


def _domain(entry: DomainEntry, tolerance: float, pairs: Sequence[Pair]) -> DomainTable:
    rows = []
    for pair in pairs:
        if (pair.run.model, pair.run.dataset) != (entry.model, entry.dataset):
            continue
        rows.append(DomainRun(pair.run, pair.anchor, False, _inside(pair.run, tolerance)))
        if pair.twin is not None and (drawn := _inside(pair.twin, tolerance)):
            rows.append(DomainRun(pair.twin, pair.anchor, True, drawn))
    return DomainTable(entry, short_name(entry.model), rows)


def _inside(run: RunEntry, tolerance: float) -> str:
    parts = (("inside", "stopped", "inside the domain", run.inside), ("outside", "onset", "outside it", run.outside))
    dots = [Dot(kind, shape, title, e, figure(e)) for kind, shape, title, e in parts if e is not None]
    return strip(f"EM rate at the last checkpoint of {run.label}", dots, WHOLE, tolerance) if dots else ""
