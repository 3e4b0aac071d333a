"""When training should stop: rules that decide on the checkpoints of one run, one after the other.

A rule asks for answers of a checkpoint (every prompt, or random prompts until it can tell), decides, and carries what
it must remember. What else depends on the rule is asked of it: how the EM rate is estimated, how many answers it may
need. Two rules are built in; any other is a subclass of `StoppingRule`, named in a study as `stopping.rule:
"module:Class"`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from truing.config import StoppingConfig
from truing.core.errors import ConfigError, plural
from truing.core.plugins import load_class, making
from truing.core.records import Action, Decision, Estimate
from truing.stats.agreement import JudgeLimits
from truing.stats.rates import Counts, IntArray, benchmark_rate, clustered_rate

__all__ = [
    "RULES",
    "Answers",
    "FixedRule",
    "StoppingRule",
    "decide",
    "decided",
    "look_at",
    "make_rule",
    "stopping_level",
]

RULES = {"fixed": "truing.stats.rules:FixedRule", "sequential": "truing.stats.sequential:SequentialRule"}


class Answers(Protocol):
    """Judged answers of one checkpoint to the benchmark, sampled as a rule asks for them; the same when asked again."""

    @property
    def n_prompts(self) -> int:
        """Prompts of the benchmark."""
        ...

    def every_prompt(self) -> Counts:
        """Counts of the answers to every prompt, as many for each as the study asks (`evaluation.samples`)."""
        ...

    def random_prompts(self, size: int, ahead: int = 0) -> tuple[int, int, int]:
        """Misaligned, coherent (misaligned ones included) and missing ones among `size` more answers.

        Each is an answer to a random prompt, so their outcomes are independent. At first at least `ahead` answers
        are sampled at once, and judged only when they are asked for.
        """
        ...

    def counts(self) -> Counts:
        """Counts of all answers that were asked for so far."""
        ...

    def first_answers(self) -> Counts:
        """Counts of the first of the random answers to each prompt that came up so far."""
        ...


class StoppingRule(ABC):
    """Decides on the checkpoints of one run; a rule that asks every prompt need only say how it decides.

    Args:
        stopping: Tolerance, confidence and settings.
    """

    every_prompt = True
    """True if it asks every prompt of every checkpoint, so that answers can be sampled ahead, judged later, and split
    by prompt; otherwise it asks random prompts, and further ones after it has seen some judged."""
    asks = "every prompt at every checkpoint"
    """Words for the report on what it asks."""

    category_stops = False
    """True if a single category that is shown to be above the tolerance stops, too."""
    limits = JudgeLimits()
    """What the judge was shown to see, once that is known."""
    look = 1
    """Which decision on the run's checkpoints after the base it is, from 1; set before each decision."""

    def __init__(self, stopping: StoppingConfig) -> None:
        self.stopping = stopping

    def see_base(self, base: Estimate, answers: Answers) -> None:  # noqa: B027 - nothing by default
        """Ask the model before fine-tuning (step 0) what the rule wants to know of it besides its EM rate."""

    @abstractmethod
    def decide(self, step: int, base: Estimate | None, answers: Answers) -> Decision:
        """Decide whether training should go on after a checkpoint. The same step again gives the same decision.

        Args:
            step: The checkpoint's step, above 0.
            base: EM rate of the model before fine-tuning, in [0, 1]; None if there is no such model.
            answers: Of the checkpoint.
        """

    def rate(self, counts: Counts) -> Estimate:
        """The EM rate of a checkpoint, in [0, 1], with limits that allow for how the rule asks."""
        return replace(self.estimate(counts.misaligned, counts.coherent), n_missing=int(counts.missing.sum()))

    def estimate(self, successes: IntArray, trials: IntArray) -> Estimate:
        """The rate of successes (P,) among trials (P,), in [0, 1], with limits that allow for how the rule asks."""
        make = clustered_rate if self.stopping.about == "population" else benchmark_rate
        return make(successes, trials, confidence=self.stopping.confidence)

    def most_answers(self, checkpoints: int, every: int) -> int:
        """The most answers that a run of so many checkpoints may take, `every` of them if each prompt is asked once."""
        return checkpoints * every

    @property
    def state(self) -> dict[str, Any] | None:
        """All that the rule remembers, as plain values for JSON; None: nothing."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:  # noqa: B027 - nothing by default
        """Go on from a `state`."""


class FixedRule(StoppingRule):
    """Asks every prompt and decides by the interval of the EM rate; see `decide`.

    A stop needs the stricter interval at the `stopping_level` of the checkpoint, so that a whole run is stopped wrongly
    with a probability of 1 - confidence at most, however many checkpoints it has.
    """

    category_stops = True

    def decide(self, step: int, base: Estimate | None, answers: Answers) -> Decision:
        """See `StoppingRule`."""
        return self.decide_by(step, base, answers.every_prompt())

    def decide_by(self, step: int, base: Estimate | None, counts: Counts) -> Decision:
        """The decision by counts (P,) that are there; see `decide`."""
        tolerance, rate = self.stopping.tolerance, self.rate(counts)
        if counts.missing.any():
            every = counts.coherent + counts.missing
            worst = self.estimate(counts.misaligned + counts.missing, every)
            found = decide(step, rate, base, tolerance, self.limits, (self.estimate(counts.misaligned, every), worst))
        else:
            every, found = counts.coherent, decide(step, rate, base, tolerance, self.limits)
        if found.action is not Action.STOP:
            return found
        level = stopping_level(self.stopping.confidence, self.look)
        strict = FixedRule(self.stopping.model_copy(update={"confidence": level})).estimate(counts.misaligned, every)
        if strict.low > max(tolerance, 0.0 if base is None else base.value):
            return found
        reason = (
            f"The EM rate is {rate.value:.1%} (interval {rate.low:.1%} to {rate.high:.1%}), above the tolerance of "
            f"{tolerance:.1%}, but not at the level at which checkpoint {self.look} of a run stops it "
            f"({strict.low:.1%} to {strict.high:.1%} at {level:.2%})."
        )
        return Decision(Action.UNDECIDED, step, reason, rate)


def look_at(step: int, steps: Iterable[int]) -> int:
    """Which of a run's decisions one on a step is, from 1, after those on `steps` in their order; 1 for the base."""
    return 1 if step <= 0 else 1 + list(dict.fromkeys([*(other for other in steps if other > 0), step])).index(step)


def stopping_level(confidence: float, look: int) -> float:
    """Two-sided level at which one checkpoint of a run must be above the tolerance to stop it.

    The run's error, 1 - confidence, is shared out: 4 / ((j + 3) (j + 4)) of it to checkpoint j, which adds up to 1 over
    any number of checkpoints (a union bound). Half of a share is for the rate over all prompts and half for those of
    the categories, each a one-sided limit of the interval at this level.

    Args:
        confidence: 1 less the probability that a run whose every rate is within the tolerance is stopped, in (0, 1).
        look: j, 1 for the first checkpoint after the base.
    """
    return 1 - (1 - confidence) * 4 / ((look + 3) * (look + 4))


def decided(rule: StoppingRule, decision: Any) -> Decision:
    """What a rule decided.

    Raises:
        ConfigError: It is no decision.
    """
    of_kind = isinstance(decision, Decision) and isinstance(decision.action, Action)
    if of_kind and isinstance(decision.em_rate, Estimate):
        return decision  # type: ignore[no-any-return]
    allowed = "a Decision, its action an Action, its em_rate an Estimate"
    raise ConfigError(f"{type(rule).__name__} does not decide", repr(decision)[:200], allowed)


def make_rule(stopping: StoppingConfig) -> StoppingRule:
    """The rule that a study names.

    Raises:
        UnknownNameError: There is no such rule.
        ConfigError: What is named is no stopping rule.
    """
    kind = load_class("stopping rule", stopping.rule_name, RULES, StoppingRule)
    with making("stopping rule", stopping.rule_name):
        rule: StoppingRule = kind(stopping)
    return rule


def decide(
    step: int,
    em_rate: Estimate,
    base: Estimate | None,
    tolerance: float,
    limits: JudgeLimits | None = None,
    if_missing: tuple[Estimate, Estimate] | None = None,
) -> Decision:
    """Decide by the interval of an EM rate.

    STOP when the whole interval of the EM rate lies above the tolerance and above the base model's rate, even if no
    missing answer was misaligned; CONTINUE when it lies at or below the tolerance, even if all of them were and the
    judge finds no more than it was shown to find; UNDECIDED otherwise, which includes a rate that is not known.

    Args:
        step: The checkpoint's step.
        em_rate: Its EM rate as judged, in [0, 1].
        base: The EM rate before fine-tuning; None if there is no base: then the tolerance alone decides.
        tolerance: Highest EM rate that is acceptable, in (0, 1).
        limits: What the judge was shown to see; None: all.
        if_missing: The EM rate if none of the missing answers were misaligned, and if all were; None: none is missing.
    """
    limits, (fewest, most) = limits or JudgeLimits(), if_missing or (em_rate, em_rate)
    if math.isnan(em_rate.value) or math.isnan(em_rate.low) or math.isnan(em_rate.high):
        reason = f"The EM rate is not known ({em_rate.reason or 'no interval'})."
        return Decision(Action.UNDECIDED, step, reason, em_rate)
    found = f"The EM rate is {em_rate.value:.1%} (interval {em_rate.low:.1%} to {em_rate.high:.1%})"
    if fewest is not most:
        lost = plural(em_rate.n_missing, "answer")
        found += f", and {fewest.low:.1%} to {most.high:.1%} with {lost} without a score"
    action, reason = _verdict((fewest.low, most.high), base, tolerance, limits)
    if action is Action.UNDECIDED and _verdict((em_rate.low, em_rate.high), base, tolerance, limits)[0] is not action:
        reason = reason.replace("more responses are needed", "those scores are needed")
    return Decision(action, step, f"{found}, {reason}.", em_rate)


def _verdict(
    interval: tuple[float, float], base: Estimate | None, tolerance: float, limits: JudgeLimits
) -> tuple[Action, str]:
    low, high = interval
    limit, judged = f"the tolerance of {tolerance:.1%}", ""
    if limits.sensitivity < 1:
        found = f"by a judge that finds at least {limits.sensitivity:.0%}"
        judged = f"as judged, at most {limits.at_most(high):.1%} {found}"
    if high <= limits.clear_below(tolerance):
        return Action.CONTINUE, f"all within {limit}" if not judged else f"{judged}: within {limit}"
    if not low > tolerance:
        if high <= tolerance:
            return Action.UNDECIDED, f"{judged}: not shown to be within {limit}"
        return Action.UNDECIDED, f"on both sides of {limit}: more responses are needed"
    if base is None:
        return Action.STOP, f"all above {limit}"
    if math.isnan(base.value):
        return Action.UNDECIDED, f"all above {limit}, but the base model's rate is not known"
    if not low > base.value:
        return Action.UNDECIDED, f"all above {limit}, but the base model itself has {base.value:.1%}"
    return Action.STOP, f"all above {limit} and above the base model's {base.value:.1%}"
