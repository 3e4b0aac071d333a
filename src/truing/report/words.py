"""Numbers, runs and correlations in words. No rate without its interval; undefined is a dash with its reason.

Every public function of this module is a filter of the templates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import PurePath

from truing.core.errors import plural
from truing.core.records import Estimate
from truing.results.schema import CorrelationEntry, SizeModel
from truing.results.schema_runs import CourseEntry, Limits, RunEntry, StepBounds

DASH, MINUS = "\u2013", "\u2212"
MOST_PERCENT = 1000
"""Above this a share says no more than that it is: only a quotient of two rates, retention, can be."""
_HEAT_LIMITS = (0.0, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control, direction and tag characters, lone surrogates. Joiners stay: scripts need them."""
_STACKED_MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)


def readable(text: str) -> str:
    """Text with invisible characters written out as their code points and no more than four accents stacked."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _STACKED_MARKS.sub(r"\1", _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text))


def model_name(model: str) -> str:
    """A model without the folders before it."""
    return PurePath(model).name or model


def rate_words(learning_rate: float) -> str:
    """A learning rate in words; NaN is not known."""
    return "lr\u00a0unknown" if math.isnan(learning_rate) else f"lr\u00a0{learning_rate:g}"


def settings(run: RunEntry) -> str:
    """Settings that tell runs of one model and dataset apart: their id where the seed is not known."""
    seed = run.id if run.seed is None else f"seed\u00a0{run.seed}"
    return seed if math.isnan(run.learning_rate) else f"{rate_words(run.learning_rate)} · {seed}"


def label(run: RunEntry) -> str:
    """A run in words."""
    return f"{model_name(run.model)} on {run.dataset}, {settings(run)}"


def is_known(estimate: Estimate | None) -> bool:
    """True if there is a number."""
    return estimate is not None and not math.isnan(estimate.value)


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage, one decimal below ten; a dash for NaN."""
    if math.isnan(value):
        return DASH
    return f"{_digits(value)}%"


def interval(estimate: Estimate) -> str:
    """The limits in percent, `[37, 50]`; says so if there are none."""
    return _brackets(estimate, _digits)


def setting(value: float) -> str:
    """A share that was set, not measured: `5%`, without decimals that mean nothing."""
    return f"{100 * value:g}%"


def sizes(estimate: Estimate) -> str:
    """Answers and prompts behind a number, and answers that are missing."""
    prompts = f", {plural(estimate.n_prompts, 'prompt')}" if estimate.n_prompts else ""
    return f"n\u00a0=\u00a0{estimate.n_responses:,}{prompts}{_missing(estimate)}"


def among(estimate: Estimate, noun: str) -> str:
    """Seeds or runs behind a figure: `3 seeds, 1 missing`."""
    return f"{plural(estimate.n_responses, noun)}{_missing(estimate)}"


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
    return _brackets(estimate, lambda value: steps(value, "-"))


def gap(limits: Limits) -> str:
    """Onset minus convergence of one run, `+22 steps [0, open)`; `unknown` where both sides are open."""
    if math.isnan(limits.value) and math.isnan(limits.low) and math.isnan(limits.high):
        return "unknown"
    value = "unknown" if math.isnan(limits.value) else f"{steps(limits.value)} steps"
    low = "(open" if math.isnan(limits.low) else f"[{steps(limits.low, '-')}"
    high = "open)" if math.isnan(limits.high) else f"{steps(limits.high, '-')}]"
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


def order_words(course: CourseEntry) -> str:
    """The order of the first checkpoint above the tolerance and of the task, in words."""
    if course.order == "cannot tell":
        return "before or after the task cannot be told"
    never = "" if course.order == "before" or course.crossing.high is not None else ", if at all"
    return f"{course.order} the task{never}"


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


def why_undefined(found: Estimate | CorrelationEntry | None) -> str:
    """The reason of an undefined number."""
    return (found.reason if found is not None else "") or "no reason was given"


def plain_number(value: float) -> str:
    """A number in a unit of its own, three digits; a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:.3g}".replace("-", MINUS)


def measurement_names(run: RunEntry) -> list[str]:
    """The other numbers that a run's checkpoints have, in the order in which they first come."""
    return list(dict.fromkeys(name for checkpoint in run.checkpoints for name in checkpoint.measurements))


def loss(value: float) -> str:
    """A loss in nats; a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:.3f}"


def bands(edges: Sequence[float], first: str, last: str) -> list[str]:
    """Names of the intervals between the edges of a scale, `< 30`, `≥ 50`; with the signs of both ends."""
    between = [f"{low:g}{DASH}{high:g}" for low, high in pairwise(edges)]
    return [f"{first}\u00a0{edges[0]:g}", *between, f"{last}\u00a0{edges[-1]:g}"]


def coefficient(estimate: Estimate) -> str:
    """A correlation with its limits and n; the reason if it is undefined."""
    if math.isnan(estimate.value):
        return f"undefined ({why_undefined(estimate)})"
    limits = _brackets(estimate, correlation)
    return f"{correlation(estimate.value)} {limits}, n\u00a0=\u00a0{estimate.n_responses:,}"


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
    """Strength of a rate's tint: 0 (none) to 9, in steps that keep low rates apart; -1 for NaN."""
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
    if scaled > MOST_PERCENT:
        return f">{MOST_PERCENT:,}"
    if scaled == 0:
        return "0"
    if -0.05 < scaled < 0:
        return "0.0"
    return (f"{scaled:.1f}" if abs(scaled) < 9.95 else f"{scaled:.0f}").replace("-", MINUS)


def _brackets(found: Estimate | Limits, written: Callable[[float], str]) -> str:
    if math.isnan(found.low) or math.isnan(found.high):
        return "[no interval]"
    return f"[{written(found.low)},\u00a0{written(found.high)}]"


def _missing(estimate: Estimate) -> str:
    return f", {estimate.n_missing:,} missing" if estimate.n_missing else ""


def correlation_words(found: CorrelationEntry) -> str:
    """A correlation with its interval and p."""
    if math.isnan(found.value):
        return f"undefined ({why_undefined(found)})"
    return f"{correlation(found.value)} {_brackets(found, correlation)}, {probability(found.p)}"


def relation_words(found: CorrelationEntry, confidence: float) -> str:
    """A sentence on what a correlation shows of size, and what it does not."""
    if math.isnan(found.value) or math.isnan(found.p):
        return "Nothing can be said of size."
    if found.p > 1 - confidence:
        return "Random pairing gives as strong a correlation too often: no relation is shown, and none is ruled out."
    more = "more" if found.value > 0 else "less"
    return f"Larger models have {more} EM here. The models differ in more than size: this shows no cause."


def influence_words(found: CorrelationEntry, models: Sequence[SizeModel]) -> str:
    """A sentence on whether single models carry a correlation."""
    if math.isnan(found.value):
        return f"Undefined: {why_undefined(found)}."
    known = [value for value in found.without if not math.isnan(value)]
    if found.carried_by:
        names = [model_name(model) for model in found.carried_by]
        many = "one model" if len(names) == 1 else f"{len(names)} models"
        left = next((v for m, v in zip(models, found.without, strict=False) if found.carried_by == [m.model]), math.nan)
        rest = "it is less than half as strong or turns round" if math.isnan(left) else f"it is {correlation(left)}"
        return f"Carried by {many}: without {' and '.join(names)} {rest}."
    if not known:
        return "Too few models to leave any out: one of them may carry it."
    several = "model carries" if found.n < 5 else "or two models carry"
    return (
        f"No one {several} it; without any single model it is {correlation(min(known))} to {correlation(max(known))}."
    )
