"""The drawings of a page: charts of runs, dots with their intervals on one line, and size against EM."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from truing.core.records import Estimate
from truing.report import drawing as svg
from truing.report.charts import run_chart
from truing.report.pairs import Pair, highest
from truing.report.words import difference, figure, is_known, label, parameters, percent, setting, signed, why_undefined
from truing.results.schema import Analysis, OptionEntry, SizeModel, SizesEntry
from truing.results.schema_runs import RunEntry

_LANE, _ROW_AXIS = 11, 18
_HEIGHT, _TOP, _AXIS, _EDGE = 220, 24, 40, 0.06
_WIDTH = 420
"""Width in pixels at which labels are kept apart; at others they may touch."""
_CORNERS = ((9, 4, "start"), (-9, 4, "end"), (0, -9, "middle"), (0, 18, "middle"), (9, -7, "start"), (9, 15, "start"))
"""Offsets of a number beside its dot: pixels to the right, pixels down, anchor."""


_SHARES = svg.Line((0.0, 0.25, 0.5, 0.75, 1.0))
"""The scale of shares."""


class Plots:
    """The drawings of one page, which share their scales."""

    def __init__(self, analysis: Analysis, pairs: Sequence[Pair]) -> None:
        tolerance = self._tolerance = analysis.study.tolerance
        self._rates = svg.Line(tuple(svg.rate_ticks(svg.rate_ceiling(highest(pairs), tolerance))))
        differences = [estimate for entry in analysis.seeds for estimate in entry.versus_base]
        self._differences = svg.fit_line([tolerance, *(v for e in differences for v in (e.low, e.value, e.high))])
        self.rate_scale = rate_scale(self._rates, tolerance)
        title = "Scale of the EM rate minus base's, in percentage points"
        self.difference_scale = scale(title, self._differences, signed)
        self.share_scale = scale("Scale from 0 to 100%", _SHARES, setting)

    def run(self, pair: Pair, shown: Mapping[str, Collection[int]]) -> Markup:
        """A run's chart; `shown` holds by run id the steps that get a dot."""
        steps = {step for run in pair.runs for step in shown[run.id]}
        return run_chart(pair, self._rates.ticks[-1], self._tolerance, steps)

    def overview(self, pair: Pair) -> Markup:
        """EM rate of a run at the base, at the chosen checkpoint and at the end."""
        run = pair.run
        dots = [
            Dot("base", "chosen", "base", run.base_em_rate),
            Dot("chosen", "chosen", f"chosen, step {run.chosen_step}", run.em_at_chosen),
            Dot("end", "onset", pair.end_title, pair.end),
        ]
        return row_of_dots(f"EM rate of {label(run)}", dots, self._rates, self._tolerance, lane=9)

    def seed(self, title: str, shown: str, estimate: Estimate) -> Markup:
        """A seed's EM rate minus base's; `shown` is `above`, `clean` or `open`."""
        words = f"undefined ({why_undefined(estimate)})"
        if is_known(estimate):
            words = f"{difference(estimate)} percentage points, n\u00a0=\u00a0{estimate.n_responses:,}"
        shape = {"above": "onset", "clean": "chosen", "open": "converged"}[shown]
        dots = [Dot(shown, shape, title, estimate, words)]
        return row_of_dots("EM rate minus base's", dots, self._differences, self._tolerance)

    def learning_rate(self, option: OptionEntry, end: Estimate | None) -> Markup:
        """The task score of a learning rate and its EM rate over seeds at the end."""
        dots = [Dot("converged", "converged", "task score", option.score)]
        dots += [] if end is None else [Dot("end", "onset", "EM rate at the end", end)]
        return row_of_dots(f"Learning rate {option.learning_rate:g}", dots, _SHARES, self._tolerance)

    def domain(self, run: RunEntry) -> Markup:
        """EM rates inside and outside the dataset's domain at the last checkpoint."""
        dots = [
            Dot("inside", "stopped", "inside the domain", run.inside),
            Dot("outside", "onset", "outside it", run.outside),
        ]
        dots = [dot for dot in dots if dot.estimate is not None]
        return row_of_dots(f"EM rate at the last checkpoint of {label(run)}", dots, _SHARES, self._tolerance)

    def sizes(self, entry: SizesEntry, ends: Mapping[tuple[str, str], Sequence[float]]) -> Markup:
        """Size against EM; `ends` holds by model and dataset the EM rates of its runs at the end."""
        return scatter(entry, {m.model: ends.get((m.model, entry.dataset), ()) for m in entry.models}, self._tolerance)


@dataclass(frozen=True, slots=True)
class Dot:
    """One number of a row."""

    kind: str
    """Its colour, a class of the style sheet."""
    shape: str
    """A name in `SHAPES`."""
    title: str
    estimate: Estimate | None
    words: str = ""
    """The number in words; empty: as `figure` writes it."""

    def __str__(self) -> str:
        return self.words or figure(self.estimate)


def row_of_dots(label: str, dots: Sequence[Dot], line: svg.Line, tolerance: float, lane: float = _LANE) -> Markup:
    """The markup of dots with their intervals, each in a lane of its own, with the tolerance as a dotted rule.

    `label` is read out before the dots; a lane is so many pixels high.
    """
    height = lane * max(len(dots), 1) + 7
    node = svg.drawing(f"{label}: {'; '.join(f'{dot.title} {dot}' for dot in dots)}", height, "strip")
    for tick in line.ticks:
        svg.upright(node, "grid" if tick else "grid zero", line.at(tick), 0, height)
    svg.upright(node, "tolerance", line.at(tolerance), 0, height)
    for index, dot in enumerate(dots):
        estimate, y = dot.estimate, lane * (index + 0.5) + 3.5
        if estimate is None or not is_known(estimate):
            continue
        if not (math.isnan(estimate.low) or math.isnan(estimate.high)):
            left, right = svg.at(line.at(estimate.low)), svg.at(line.at(estimate.high))
            svg.draw(node, "line", f"whisker {dot.kind}", x1=left, x2=right, y1=y, y2=y)
        holder = svg.draw(node, "svg", "holder", x=svg.at(line.at(estimate.value)), y=y)
        mark = svg.draw(holder, "path", f"mark {dot.kind}", d=svg.SHAPES[dot.shape], transform="scale(.8)")
        svg.tooltip(mark, f"{dot.title}: {dot}")
    return svg.serialise(node)


def scale(label: str, line: svg.Line, written: Callable[[float], str]) -> Markup:
    """The markup of the scale above rows of dots."""
    node = svg.drawing(label, _ROW_AXIS, "strip")
    for tick in line.ticks:
        svg.draw(node, "text", "tick", written(tick), x=svg.at(line.at(tick)), y=13, text_anchor="middle")
    return svg.serialise(node)


def rate_scale(line: svg.Line, tolerance: float) -> Markup:
    """The markup of the scale above rows of EM rates, with the tolerance where there is room."""
    ceiling = line.ticks[-1]
    node = svg.drawing(f"Scale of the EM rate from 0 to {setting(ceiling)}", 20, "strip")
    for tick in line.ticks:
        anchor = "start" if tick == 0 else "end" if tick == ceiling else "middle"
        svg.draw(node, "text", "tick", setting(tick), x=svg.at(line.at(tick)), y=14, text_anchor=anchor)
    if all(abs(tick - tolerance) / ceiling > 0.08 for tick in line.ticks):
        x = svg.at(line.at(tolerance))
        svg.draw(node, "text", "tick strong", setting(tolerance), x=x, y=14, text_anchor="middle")
    return svg.serialise(node)


def scatter(entry: SizesEntry, ends: Mapping[str, Sequence[float]], tolerance: float) -> Markup:
    """The markup of a numbered dot per model at the mean of its runs, and a small dot per run.

    `ends` holds by model the EM rates of its runs at the end.
    """
    rates = [m.em_rate for m in entry.models] + [rate for model in entry.models for rate in ends.get(model.model, ())]
    ceiling = svg.rate_ceiling(max((rate for rate in rates if not math.isnan(rate)), default=0.0), tolerance)
    panel = svg.Panel(_TOP, _HEIGHT, ceiling)
    spoken = "; ".join(f"{m.model} {parameters(m.parameters)} {percent(m.em_rate)}" for m in entry.models)
    node = svg.drawing(f"Size against EM rate on {entry.dataset}: {spoken}", panel.bottom + _AXIS, "chart scatter")
    svg.rate_panel(node, panel, "EM rate at the end", tolerance)
    sizes = [math.log10(model.parameters) for model in entry.models]
    ends_of_scale = min(sizes, default=0.0), max(sizes, default=1.0)
    _sizes(node, ends_of_scale, panel.bottom)
    xs = [_across(size, ends_of_scale) for size in sizes]
    for model, x in zip(entry.models, xs, strict=True):
        for rate in ends.get(model.model, ()):
            svg.draw(node, "circle", "run-dot", cx=svg.at(x), cy=panel.y(rate), r=2.2)
    _models(node, entry.models, xs, panel)
    return svg.serialise(node)


def _across(size: float, ends: tuple[float, float]) -> float:
    """Position of a size between the ends of a scale, 0 (left) to 1 (right)."""
    low, high = ends
    return _EDGE + (1 - 2 * _EDGE) * (size - low) / max(high - low, 1e-9)


def _sizes(node: svg.Node, ends: tuple[float, float], bottom: float) -> None:
    """Round sizes along the bottom: 1, 2 and 5 of each power of ten, or only 1 where there are many."""
    low, high = ends
    factors = (1, 2, 5) if high - low <= 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [math.log10(f) + p for p in powers for f in factors]
    inner = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]
    for tick in inner if len(inner) > 1 else dict.fromkeys((low, high)):
        x = svg.at(_across(tick, ends))
        svg.draw(node, "line", "notch", x1=x, x2=x, y1=bottom, y2=bottom + 4)
        svg.draw(node, "text", "tick", parameters(10**tick), x=x, y=bottom + 17, text_anchor="middle")
    svg.draw(node, "text", "tick", "parameters (logarithmic)", x="50%", y=bottom + 35, text_anchor="middle")


def _models(node: svg.Node, models: Sequence[SizeModel], xs: Sequence[float], panel: svg.Panel) -> None:
    known = [(i, m, x) for i, (m, x) in enumerate(zip(models, xs, strict=True), 1) if not math.isnan(m.em_rate)]
    taken = [(x * _WIDTH, panel.y(model.em_rate)) for _, model, x in known]
    for index, model, x in known:
        y = panel.y(model.em_rate)
        dot = svg.draw(node, "circle", "dot em own", cx=svg.at(x), cy=y, r=4.5)
        svg.tooltip(dot, f"{model.model}: {parameters(model.parameters)}, EM rate {percent(model.em_rate)}")
        right, down, anchor = _free((x * _WIDTH, y), taken)
        holder = svg.draw(node, "svg", "holder", x=svg.at(x), y=y)
        svg.draw(holder, "text", "event", str(index), x=right, y=down, text_anchor=anchor)


def _free(dot: tuple[float, float], taken: list[tuple[float, float]]) -> tuple[int, int, str]:
    """The corner of a dot for its number that is farthest from what is there; it is taken then."""
    spots = [(dot[0] + 1.3 * right, dot[1] + down - 4) for right, down, _ in _CORNERS]
    room = [min(math.dist(spot, other) for other in taken) for spot in spots]
    best = next((i for i, distance in enumerate(room) if distance >= 9), room.index(max(room)))
    taken.append(spots[best])
    return _CORNERS[best]
