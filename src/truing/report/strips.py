"""Dots with their intervals on one horizontal line: seeds against base, learning rates, inside and outside a domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truing.core.records import Estimate
from truing.report.charts import SHAPES
from truing.report.figures import is_known
from truing.report.scales import Line
from truing.report.svg import Node, at, draw, drawing, serialise, tooltip

__all__ = ["Dot", "scale", "strip"]

_LANE, _AXIS = 11, 18


@dataclass(frozen=True, slots=True)
class Dot:
    """One figure of a strip."""

    kind: str
    """Its colour, a class of the style sheet."""
    shape: str
    """A name in `SHAPES`."""
    title: str
    estimate: Estimate
    written: str
    """The figure in words."""


def strip(label: str, dots: Sequence[Dot], line: Line, rule: float) -> str:
    """Markup of a line of dots, each in a lane of its own, with the tolerance as a dotted rule."""
    height = _LANE * max(len(dots), 1) + 7
    spoken = "; ".join(f"{dot.title} {dot.written}" for dot in dots)
    node = drawing(f"{label}: {spoken}", height, "strip")
    for tick in line.ticks:
        draw(node, "line", "grid" if tick else "grid zero", x1=at(line.at(tick)), x2=at(line.at(tick)), y1=0, y2=height)
    draw(node, "line", "tolerance", x1=at(line.at(rule)), x2=at(line.at(rule)), y1=0, y2=height)
    for index, dot in enumerate(dots):
        if is_known(dot.estimate):
            _dot(node, dot, line, _LANE * (index + 0.5) + 3.5)
    return serialise(node)


def scale(label: str, line: Line, written: Callable[[float], str]) -> str:
    """Markup of the scale above strips."""
    node = drawing(label, _AXIS, "strip")
    for tick in line.ticks:
        draw(node, "text", "tick", written(tick), x=at(line.at(tick)), y=13, text_anchor="middle")
    return serialise(node)


def _dot(node: Node, dot: Dot, line: Line, y: float) -> None:
    estimate = dot.estimate
    if not (math.isnan(estimate.low) or math.isnan(estimate.high)):
        left, right = at(line.at(estimate.low)), at(line.at(estimate.high))
        draw(node, "line", f"whisker {dot.kind}", x1=left, x2=right, y1=y, y2=y)
    holder = draw(node, "svg", "holder", x=at(line.at(estimate.value)), y=y)
    mark = draw(holder, "path", f"mark {dot.kind}", d=SHAPES[dot.shape], transform="scale(.8)")
    tooltip(mark, f"{dot.title}: {dot.written}")
