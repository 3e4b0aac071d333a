"""Numbers as the report writes them. No rate without its interval; undefined is a dash with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from truing.records import Estimate

__all__ = [
    "DASH",
    "count",
    "figure",
    "heat",
    "instant",
    "interval",
    "is_known",
    "limits",
    "loss",
    "percent",
    "percent_range",
    "setting",
    "sizes",
    "step_range",
    "why_undefined",
]

DASH = "\u2013"
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
    missing = f", {estimate.n_missing:,} missing" if estimate.n_missing else ""
    return f"n\u00a0=\u00a0{estimate.n_responses:,}, {count(estimate.n_prompts, 'prompt')}{missing}"


def limits(estimate: Estimate) -> str:
    """A number with its interval, for sentences."""
    return f"{percent(estimate.value)} {interval(estimate)}"


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
    return f"{scaled:.1f}" if abs(scaled) < 9.95 else f"{scaled:.0f}"
