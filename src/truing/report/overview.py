"""The overview: for every run, its EM rate at the base, at the chosen checkpoint and at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from truing.core.records import Estimate
from truing.report.charts import SHAPES
from truing.report.figures import figure, is_known, setting
from truing.report.pairs import Pair
from truing.report.scales import rate_ticks
from truing.report.svg import Node, at, draw, drawing, serialise, tooltip

__all__ = ["OverviewGroup", "OverviewRow", "overview_axis", "overview_groups"]

_HEIGHT, _AXIS = 34, 20


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """One run of the overview."""

    pair: Pair
    strip: str
    """Markup of its drawing."""


@dataclass(frozen=True, slots=True)
class OverviewGroup:
    """The runs of one model and dataset."""

    model: str
    dataset: str
    rows: list[OverviewRow]


def overview_groups(pairs: list[Pair], ceiling: float, tolerance: float) -> list[OverviewGroup]:
    """The runs grouped by model and dataset, in the order in which these first come."""
    groups: dict[tuple[str, str], OverviewGroup] = {}
    for pair in pairs:
        run = pair.run
        group = groups.setdefault((run.model, run.dataset), OverviewGroup(run.model_name, run.dataset, []))
        group.rows.append(OverviewRow(pair, _strip(pair, ceiling, tolerance)))
    return list(groups.values())


def overview_axis(ceiling: float, tolerance: float) -> str:
    """Markup of the scale above the strips."""
    node = drawing(f"Scale of the EM rate from 0 to {setting(ceiling)}", _AXIS, "strip")
    for tick in rate_ticks(ceiling):
        anchor = "start" if tick == 0 else "end" if tick == ceiling else "middle"
        draw(node, "text", "tick", setting(tick), x=at(tick / ceiling), y=14, text_anchor=anchor)
    if all(abs(tick - tolerance) / ceiling > 0.08 for tick in rate_ticks(ceiling)):
        place = at(tolerance / ceiling)
        draw(node, "text", "tick strong", setting(tolerance), x=place, y=14, text_anchor="middle")
    return serialise(node)


def _strip(pair: Pair, ceiling: float, tolerance: float) -> str:
    run = pair.run
    marks = (
        ("base", "base", run.base_em_rate),
        ("chosen", f"chosen, step {run.chosen_step}", run.em_at_chosen),
        ("end", pair.end_title, pair.end),
    )
    spoken = "; ".join(f"{title} {figure(estimate)}" for _, title, estimate in marks)
    node = drawing(f"EM rate of {run.label}: {spoken}", _HEIGHT, "strip")
    for tick in rate_ticks(ceiling):
        draw(node, "line", "grid", x1=at(tick / ceiling), x2=at(tick / ceiling), y1=0, y2=_HEIGHT)
    place = at(tolerance / ceiling)
    draw(node, "line", "tolerance", x1=place, x2=place, y1=0, y2=_HEIGHT)
    for index, (kind, title, estimate) in enumerate(marks):
        if estimate is not None and is_known(estimate):
            _mark(node, kind, title, estimate, (8.0 + 9 * index, ceiling))
    return serialise(node)


def _mark(node: Node, kind: str, title: str, estimate: Estimate, where: tuple[float, float]) -> None:
    y, ceiling = where
    if not (math.isnan(estimate.low) or math.isnan(estimate.high)):
        left, right = (at(min(max(limit / ceiling, 0), 1)) for limit in (estimate.low, estimate.high))
        draw(node, "line", f"whisker {kind}", x1=left, x2=right, y1=y, y2=y)
    shape = SHAPES["onset" if kind == "end" else "chosen"]
    holder = draw(node, "svg", "holder", x=at(min(estimate.value / ceiling, 1)), y=y)
    mark = draw(holder, "path", f"mark {kind}", d=shape, transform="scale(.8)")
    tooltip(mark, f"{title}: {figure(estimate)}")
