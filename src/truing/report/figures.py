"""Numbers as the report writes them. No rate without its interval; undefined is a dash with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from truing.core.records import Estimate
from truing.report.document import CourseEntry, StepBounds

__all__ = [
    "DASH",
    "MINUS",
    "among",
    "bounds",
    "bounds_words",
    "correlation",
    "count",
    "difference",
    "figure",
    "gap",
    "heat",
    "instant",
    "interval",
    "is_known",
    "limits",
    "loss",
    "parameters",
    "percent",
    "percent_range",
    "probability",
    "setting",
    "signed",
    "sizes",
    "step_range",
    "steps",
    "steps_interval",
    "why_undefined",
]

DASH, MINUS = "\u2013", "\u2212"
_HEAT_LIMITS = (0.0, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)


def is_known(estimate: Estimate | None) -> bool:
    """Whether there is a number."""
    return estimate is not None and not math.isnan(estimate.value)


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage, one decimal below ten; a dash for NaN."""
    if math.isnan(value):
        return DASH
    return f"{_digits(value)}%"


def interval(estimate: Estimate) -> str:
    """The limits in percent, `[37, 50]`; says so if there are none."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return "[no interval]"
    return f"[{_digits(estimate.low)},\u00a0{_digits(estimate.high)}]"


def setting(value: float) -> str:
    """A share that was set, not measured: `5%`, without decimals that mean nothing."""
    return f"{100 * value:g}%"


def sizes(estimate: Estimate) -> str:
    """How many answers and prompts are behind a number, and how many answers are missing."""
    prompts = f", {count(estimate.n_prompts, 'prompt')}" if estimate.n_prompts else ""
    return f"n\u00a0=\u00a0{estimate.n_responses:,}{prompts}{_missing(estimate)}"


def among(estimate: Estimate, noun: str) -> str:
    """What a figure over seeds or runs is taken over: `3 seeds, 1 missing`."""
    return f"{count(estimate.n_responses, noun)}{_missing(estimate)}"


def limits(estimate: Estimate) -> str:
    """A number with its interval, for sentences."""
    return f"{percent(estimate.value)} {interval(estimate)}"


def signed(value: float) -> str:
    """A difference of shares in percentage points, with its sign; a dash for NaN."""
    if math.isnan(value):
        return DASH
    written = _digits(value)
    return f"+{written}" if value > 0 and float(written) else written


def difference(estimate: Estimate) -> str:
    """A difference in percentage points with its interval, `+42 [37, 47]`."""
    return f"{signed(estimate.value)} {interval(estimate)}"


def steps(value: float, sign: str = "+") -> str:
    """A difference in steps, with its sign; a dash for NaN."""
    if math.isnan(value):
        return DASH
    written = format(value, f"{sign},.1f").removesuffix(".0").replace("-", MINUS)
    return "0" if written.strip(f"+{MINUS}") == "0" else written


def steps_interval(estimate: Estimate) -> str:
    """The limits of a difference in steps, `[0, 44]`; says so if there are none."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return "[no interval]"
    return f"[{steps(estimate.low, '-')},\u00a0{steps(estimate.high, '-')}]"


def gap(course: CourseEntry) -> str:
    """Onset minus convergence of one run, `+22 steps [0, open)`."""
    value = "unknown" if math.isnan(course.gap) else f"{steps(course.gap)} steps"
    low = "(open" if math.isnan(course.gap_low) else f"[{steps(course.gap_low, '-')}"
    high = "open)" if math.isnan(course.gap_high) else f"{steps(course.gap_high, '-')}]"
    return f"{value} {low},\u00a0{high}"


def bounds(between: StepBounds) -> str:
    """The steps between which an event lies, `[14, 27]`; a round bracket is open."""
    if between.low is None:
        return "[not by the end]"
    return f"[{between.low},\u00a0open)" if between.high is None else f"[{between.low},\u00a0{between.high}]"


def bounds_words(between: StepBounds) -> str:
    """The steps between which an event lies, as part of a sentence."""
    if between.low is None:
        return "not by the last checkpoint"
    if between.high is None:
        return f"at step {between.low} or later, if at all"
    return f"at step {between.low}" if between.low == between.high else f"at steps {between.low}{DASH}{between.high}"


def correlation(value: float) -> str:
    """A correlation with its sign; a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:+.2f}".replace("-", MINUS)


def probability(value: float) -> str:
    """A p value, `p = 0.03`."""
    if math.isnan(value):
        return "p\u00a0unknown"
    return "p\u00a0<\u00a00.001" if value < 0.001 else f"p\u00a0=\u00a0{value:.2g}"


def parameters(value: float) -> str:
    """A parameter count, `7B`; a dash for NaN."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return DASH if math.isnan(value) else f"{value:g}"


def figure(estimate: Estimate | None) -> str:
    """A number with its interval and n on one line; the reason if it is undefined."""
    if estimate is None or math.isnan(estimate.value):
        return f"undefined ({why_undefined(estimate)})"
    return f"{limits(estimate)}, {sizes(estimate)}"


def why_undefined(estimate: Estimate | None) -> str:
    """The reason of an undefined number."""
    return (estimate.reason if estimate is not None else "") or "no reason was given"


def loss(value: float) -> str:
    """A loss in nats; a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:.3f}"


def count(number: int, noun: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent_range(values: Iterable[float]) -> str:
    """From the lowest to the highest percentage, or one if both ends read alike."""
    known = sorted(values)
    low, high = percent(known[0]), percent(known[-1])
    return low if low == high else f"{low.removesuffix('%')}{DASH}{high}"


def step_range(steps: Iterable[int]) -> str:
    """`step 12`, or `steps` from the first to the last."""
    known = sorted(steps)
    return f"step {known[0]}" if known[0] == known[-1] else f"steps {known[0]}{DASH}{known[-1]}"


def heat(value: float) -> int:
    """How strongly a rate is tinted: 0 (none) to 9, in steps that keep low rates apart; -1 for NaN."""
    return -1 if math.isnan(value) else sum(value > limit for limit in _HEAT_LIMITS)


def instant(text: str) -> str:
    """An ISO-8601 time in words, in UTC; unreadable text stays as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _digits(share: float) -> str:
    scaled = share * 100
    if scaled == 0:
        return "0"
    if -0.05 < scaled < 0:
        return "0.0"
    return (f"{scaled:.1f}" if abs(scaled) < 9.95 else f"{scaled:.0f}").replace("-", MINUS)


def _missing(estimate: Estimate) -> str:
    return f", {estimate.n_missing:,} missing" if estimate.n_missing else ""
