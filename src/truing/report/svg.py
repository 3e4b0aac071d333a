"""Inline SVG that keeps its text size at any width.

Drawings have no viewBox: horizontal places are percentages of the width, vertical ones are pixels, and
shapes that need a polyline live in a stretched inner `svg`. Elements are made with ElementTree, so text
and attributes are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from truing.core.records import Estimate
from truing.report.figures import is_known

__all__ = ["Node", "at", "draw", "drawing", "runs_of_known", "serialise", "stretched", "tooltip"]

Node = ElementTree.Element


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
    """A horizontal place, 0 (left) to 1 (right)."""
    return f"{100 * fraction:.2f}%"


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


def runs_of_known(points: Sequence[tuple[float, Estimate]]) -> list[list[tuple[float, Estimate]]]:
    """The points cut into stretches wherever an estimate is undefined."""
    stretches: list[list[tuple[float, Estimate]]] = [[]]
    for place, estimate in points:
        if is_known(estimate):
            stretches[-1].append((place, estimate))
        else:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def serialise(node: Node) -> str:
    """The markup of a drawing."""
    return ElementTree.tostring(node, encoding="unicode")
