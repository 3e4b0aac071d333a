"""Inline SVG that keeps its text size at any width, and the scales of charts.

Drawings have no viewBox: horizontal positions are percentages of the width, vertical ones are pixels, and shapes that
need a polyline live in a stretched inner `svg`. Elements are made with ElementTree, so text and attributes are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from truing.core.records import Estimate
from truing.report.words import is_known, setting

Node = ElementTree.Element
SHAPES = {
    "converged": "M0-5.5 5.5 0 0 5.5-5.5 0Z",
    "chosen": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0Z",
    "onset": "M0-5.5 6 5-6 5Z",
    "crossing": "M-2-5.5H2V5.5H-2Z",
    "stopped": "M-4.7-4.7H4.7V4.7H-4.7Z",
}
"""Marks around (0, 0), by the event of a run that they stand for."""
_EDGE = 0.025
"""Room left and right of the outermost steps, as a share of the width."""
_CHARACTER = 0.027
"""Width of a digit of a tick label on a phone, as a share of the plot."""
_CEILINGS = {0.05: 0.01, **dict.fromkeys((0.1, 0.15, 0.2), 0.05), 0.3: 0.1, 0.4: 0.2, 0.5: 0.25, 0.6: 0.2, 0.8: 0.2}
_CEILINGS[1.0] = 0.25
"""Highest rate of a scale -> distance of its ticks."""


def drawing(label: str, height: float, style: str) -> Node:
    """A whole drawing, full width, read out as `label`."""
    size = {"width": "100%", "height": f"{height:g}"}
    return ElementTree.Element("svg", {"class": style, "role": "img", "aria-label": label, **size})


def draw(parent: Node, tag: str, style: str, text: str = "", **attributes: str | float) -> Node:
    """Add an element. Underscores in attribute names become hyphens; floats are written short."""
    node = ElementTree.SubElement(parent, tag, {"class": style} if style else {})
    for name, value in attributes.items():
        written = value if isinstance(value, str) else f"{round(value, 2):g}"
        node.set(name.replace("_", "-"), written)
    node.text = text or None
    return node


def at(fraction: float) -> str:
    """A horizontal position, 0 (left) to 1 (right)."""
    return f"{100 * fraction:.2f}%"


def upright(parent: Node, style: str, x: float, top: float, bottom: float) -> None:
    """Draw an upright line at a horizontal position, 0 (left) to 1 (right)."""
    draw(parent, "line", style, x1=at(x), x2=at(x), y1=top, y2=bottom)


def stretched(parent: Node, top: float, height: float) -> Node:
    """An inner drawing 1000 wide, whatever the real width, and `height` high."""
    return draw(
        parent,
        "svg",
        "",
        x="0",
        y=top,
        width="100%",
        height=height,
        viewBox=f"0 0 1000 {height:g}",
        preserveAspectRatio="none",
    )


def tooltip(parent: Node, text: str) -> None:
    """Say `text` when the pointer rests on `parent`."""
    ElementTree.SubElement(parent, "title").text = text


def stretches_of_known(points: Sequence[tuple[float, Estimate]]) -> list[list[tuple[float, Estimate]]]:
    """The points divided into stretches wherever an estimate is undefined."""
    stretches: list[list[tuple[float, Estimate]]] = [[]]
    for x, estimate in points:
        if is_known(estimate):
            stretches[-1].append((x, estimate))
        else:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def serialise(node: Node) -> Markup:
    """The markup of a drawing."""
    return Markup(ElementTree.tostring(node, encoding="unicode"))


@dataclass(frozen=True)
class StepAxis:
    """Steps on a scale that is logarithmic beyond the first checkpoint and still holds step 0."""

    steps: tuple[int, ...]

    def at(self, step: int) -> float:
        """Position of a step, 0 (left) to 1 (right)."""
        unit = next((s for s in self.steps if s > 0), 1)
        last = max(self.steps[-1], unit)
        return _EDGE + (1 - 2 * _EDGE) * math.log1p(step / unit) / math.log1p(last / unit)

    def ticks(self, wanted: Iterable[int]) -> list[int]:
        """Steps to label, at most as many as a phone has room for; the ends and `wanted` come first."""
        chosen: list[int] = []
        for step in (self.steps[0], self.steps[-1], *sorted(wanted), *self.steps):
            if step not in chosen and all(self._apart(step, other) for other in chosen):
                chosen.append(step)
        return sorted(chosen)

    def _apart(self, one: int, other: int) -> bool:
        room = _CHARACTER * ((len(str(one)) + len(str(other))) / 2 + 0.8)
        return abs(self.at(one) - self.at(other)) >= room


@dataclass(frozen=True)
class Panel:
    """A plotting area, in pixels from the top of the drawing."""

    top: float
    height: float
    ceiling: float
    """The value at the top edge; 0 is at the bottom."""

    @property
    def bottom(self) -> float:
        """The bottom edge."""
        return self.top + self.height

    def y(self, value: float) -> float:
        """Position of a value; values outside are put on the edge."""
        return self.bottom - self.height * min(max(value / self.ceiling, 0.0), 1.0)


@dataclass(frozen=True)
class Line:
    """A horizontal scale from the first tick to the last."""

    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Position of a value, 0 (left) to 1 (right); values outside are put on the edge."""
        low, high = self.ticks[0], self.ticks[-1]
        return min(max((value - low) / (high - low), 0.0), 1.0)


def fit_line(values: Iterable[float]) -> Line:
    """A scale with at most seven round ticks that holds all values (differences of shares) and 0."""
    known = [0.0, *(value for value in values if math.isfinite(value))]
    low, high = min(known), max(known)
    gap = next((g for g in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / g <= 5), 0.5)
    first = math.floor(low / gap + 1e-9)
    last = max(math.ceil(high / gap - 1e-9), first + 1)
    return Line(tuple(round(i * gap, 4) for i in range(first, last + 1)))


def rate_ceiling(highest: float, tolerance: float) -> float:
    """A round rate that is above all that is shown, and not so low that noise looks like a mountain."""
    needed = max(highest, 2 * tolerance)
    return next((ceiling for ceiling in _CEILINGS if needed <= ceiling), 1.0)


def rate_ticks(ceiling: float) -> Sequence[float]:
    """Round rates from 0 to the ceiling."""
    gap = _CEILINGS[ceiling]
    return [round(i * gap, 4) for i in range(math.floor(ceiling / gap + 1e-9) + 1)]


def value_panel(node: Node, panel: Panel, title: str, style: str, ticks: Sequence[float]) -> None:
    """Draw a panel's title and grid."""
    draw(node, "text", f"panel-title {style}-ink", title, x="0", y=panel.top - 9)
    for tick in ticks:
        y = panel.y(tick)
        draw(node, "line", "grid" if tick else "grid floor", x1="0", x2="100%", y1=y, y2=y)
        draw(node, "text", "tick", setting(tick), x="-8", y=y + 4, text_anchor="end")


def rate_panel(node: Node, panel: Panel, title: str, tolerance: float) -> None:
    """Draw the panel of an EM rate with its tolerance."""
    value_panel(node, panel, title, "em", rate_ticks(panel.ceiling))
    y, text = panel.y(tolerance), f"tolerance {setting(tolerance)}"
    tooltip(draw(node, "line", "tolerance", x1="0", x2="100%", y1=y, y2=y), text)
    draw(node, "text", "tick", f"dotted: {text}", x="100%", y=panel.top - 9, text_anchor="end")
