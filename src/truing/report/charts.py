"""The chart of one run: what happened when, the task score, and the EM rate, over the steps.

    lanes      one line each for convergence, chosen, onset, the tolerance, stop; a thin rule falls from each; whiskers
               span the steps between which the task was truly learnt and the tolerance passed, an arrow is open
    task       task score with its band; the coherent rate, dotted
    EM rate    with its band; the tolerance; one scale for all runs of a study, so charts can be compared

A twin goes on dashed from where its run was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from truing.core.records import Estimate
from truing.report import drawing as svg
from truing.report.pairs import Event, Pair
from truing.report.words import bounds, bounds_words, figure, is_known, label, why_undefined
from truing.results.schema_runs import CheckpointEntry, StepBounds

_LANE, _WIDE_LANE, _TITLE, _TASK, _RATE, _AXIS = 19, 31, 24, 96, 190, 40
_DENSE = 24
"""From this many checkpoints on dots are small and are their own targets for the pointer."""


@dataclass(frozen=True, slots=True)
class _Series:
    """One quantity of a chart."""

    name: str
    style: str
    value: Callable[[CheckpointEntry], Estimate]
    panel: svg.Panel
    band: bool = True
    dotted: Collection[int] = ()
    """Steps that get a dot."""
    dense: bool = False


def run_chart(pair: Pair, ceiling: float, tolerance: float, dotted: Collection[int]) -> Markup:
    """The markup of a run's chart.

    The scale of EM rates ends at `ceiling`; `dotted` steps get a dot, lines and bands hold every step.
    """
    events = pair.events()
    steps = {point.step for run in pair.runs for point in run.checkpoints}
    axis = svg.StepAxis(tuple(sorted(steps | {event.position for event in events})))
    heights = [_LANE if event.between is None or event.between.low is None else _WIDE_LANE for event in events]
    task = svg.Panel(sum(heights) + _TITLE, _TASK, 1.0)
    rate = svg.Panel(task.bottom + _TITLE + 8, _RATE, ceiling)
    node = svg.drawing(_describe(pair), rate.bottom + _AXIS, "chart")
    for lane, event in enumerate(events):
        _event(node, event, axis, sum(heights[: lane + 1]) - _LANE / 2, rate.bottom)
    svg.value_panel(node, task, "Task score", "task", (0.0, 0.5, 1.0))
    svg.rate_panel(node, rate, "EM rate", tolerance)
    _steps(node, axis, rate.bottom, [event.position for event in events])
    dense = len(steps) > _DENSE
    for series in (
        _Series("coherent rate", "coherent", lambda c: c.coherent_rate, task, False, dotted, dense),
        _Series("task score", "task", lambda c: c.task_score, task, True, dotted, dense),
        _Series("EM rate", "em", lambda c: c.em_rate, rate, True, dotted, dense),
    ):
        if pair.twin is not None:
            last = pair.run.checkpoints[-1]  # where the twin goes on
            further = [c for c in pair.twin.checkpoints if c.step > last.step]
            _line(node, series, axis, (last, *further), "twin")
        _line(node, series, axis, pair.run.checkpoints, "own")
    return svg.serialise(node)


def _steps(node: svg.Node, axis: svg.StepAxis, bottom: float, wanted: Sequence[int]) -> None:
    for step in axis.steps:
        svg.upright(node, "notch", axis.at(step), bottom, bottom + 4)
    for step in axis.ticks(wanted):
        svg.draw(node, "text", "tick", f"{step}", x=svg.at(axis.at(step)), y=bottom + 17, text_anchor="middle")
    svg.draw(node, "text", "tick", "optimiser step", x="50%", y=bottom + 35, text_anchor="middle")


def _event(node: svg.Node, event: Event, axis: svg.StepAxis, y: float, bottom: float) -> None:
    x, between = axis.at(event.position), event.between
    wide = between is not None and between.low is not None
    if event.step is not None:
        svg.upright(node, f"rule {event.kind}", x, y, bottom)
    if between is not None and between.low is not None:
        _whisker(node, event.kind, between, axis, y)
    holder = svg.draw(node, "svg", "holder", x=svg.at(x), y=y)
    if event.step is not None:
        svg.draw(holder, "path", f"mark {event.kind}", d=svg.SHAPES[event.kind])
    text = event.text if event.step is None else f"{event.text}, step {event.step}"
    text += "" if between is None else f" {bounds(between)}"
    anchor, side = ("end", -1) if x > 0.55 else ("start", 1)
    right, down = (-3 * side, -9) if wide else (11 * side, 4)  # above a whisker, else beside the mark
    svg.draw(holder, "text", "event", text, x=right, y=down, text_anchor=anchor)


def _whisker(node: svg.Node, kind: str, between: StepBounds, axis: svg.StepAxis, y: float) -> None:
    """The steps between which the event lies; an arrow to the right where the end is open."""
    left = axis.at(between.low or 0)
    right = 1.0 if between.high is None else axis.at(between.high)
    line = svg.draw(node, "line", f"span {kind}", x1=svg.at(left), x2=svg.at(right), y1=y, y2=y)
    svg.tooltip(line, f"the true step lies {bounds_words(between)}")
    svg.upright(node, f"span {kind}", left, y - 4, y + 4)
    if between.high is not None:
        svg.upright(node, f"span {kind}", right, y - 4, y + 4)
        return
    holder = svg.draw(node, "svg", "holder", x=svg.at(right), y=y)
    svg.draw(holder, "path", f"arrow {kind}", d="M-5-4 0 0-5 4")


def _line(
    node: svg.Node, series: _Series, axis: svg.StepAxis, checkpoints: Sequence[CheckpointEntry], whose: str
) -> None:
    panel, style = series.panel, f"{series.style} {whose}"
    points = [(axis.at(c.step), series.value(c)) for c in checkpoints]
    if points and not any(is_known(estimate) for _, estimate in points):
        if whose == "own" and series.band:
            words = f"{series.name} unknown: {why_undefined(points[-1][1])}"
            svg.draw(node, "text", "tick", words, x="50%", y=panel.top + panel.height / 2, text_anchor="middle")
        return
    inner = svg.stretched(node, panel.top, panel.height)
    for stretch in svg.stretches_of_known(points):
        if series.band:
            _band(inner, panel, stretch, style)
        svg.draw(inner, "polyline", f"line {style}", points=_path(panel, [(x, e.value) for x, e in stretch]))
    for checkpoint, (x, estimate) in zip(checkpoints, points, strict=True):
        if checkpoint.step not in series.dotted:
            continue
        _point(node, series, (x, checkpoint.step), estimate, style)


def _band(inner: svg.Node, panel: svg.Panel, stretch: Sequence[tuple[float, Estimate]], style: str) -> None:
    known = [(x, e) for x, e in stretch if not (math.isnan(e.low) or math.isnan(e.high))]
    if len(known) < 2:
        return
    edges = [(x, e.high) for x, e in known] + [(x, e.low) for x, e in reversed(known)]
    svg.draw(inner, "polygon", f"band {style}", points=_path(panel, edges))


def _path(panel: svg.Panel, points: Sequence[tuple[float, float]]) -> str:
    """Points in a stretched drawing of a panel."""
    return " ".join(f"{1000 * x:.1f},{panel.y(value) - panel.top:.1f}" for x, value in points)


def _point(node: svg.Node, series: _Series, where: tuple[float, int], estimate: Estimate, style: str) -> None:
    x, step = where
    if not is_known(estimate):
        cross = svg.draw(node, "text", "gap", "\u00d7", x=svg.at(x), y=series.panel.bottom - 3, text_anchor="middle")
        svg.tooltip(cross, f"step {step}: {series.name} undefined ({why_undefined(estimate)})")
        return
    y, size = series.panel.y(estimate.value), 3.4 if series.band and not series.dense else 2.0
    target = svg.draw(node, "circle", f"dot {style}", cx=svg.at(x), cy=y, r=size)
    whose = ", not stopped" if style.endswith("twin") else ""
    if not series.dense:
        target = svg.draw(node, "circle", "target", cx=svg.at(x), cy=y, r=9.0)
    svg.tooltip(target, f"step {step}{whose}: {series.name} {figure(estimate)}")


def _describe(pair: Pair) -> str:
    run, last = pair.run, pair.run.checkpoints[-1]
    parts = [f"Chart of {label(run)}: EM rate at the base {figure(run.base_em_rate)}"]
    parts += [f"at step {last.step} {figure(run.em_at_end)}", f"task score there {figure(last.task_score)}"]
    for event in pair.events():
        seen = "" if event.step is None else f" at step {event.step}"
        between = "" if event.between is None else f" (interval: {bounds_words(event.between)})"
        parts.append(f"{event.text}{seen}{between}")
    if pair.twin is not None:
        parts.append(f"without stopping the EM rate ends at {figure(pair.twin.em_at_end)}")
    return "; ".join(parts) + "."
