"""When training should stop: rules that decide on the checkpoints of one run, one after the other.

A rule asks for answers of a checkpoint (every prompt, or random prompts until it can tell), decides, and carries what
it must remember. What else depends on the rule is asked of it: how the EM rate is estimated, how many answers it may
need. Two rules are built in; any other is a subclass of `StoppingRule`, named in a study as `stopping.rule:
"module:Class"`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol

from truing.config import StoppingConfig
from truing.core.errors import ConfigError
from truing.core.plugins import load_class
from truing.core.records import Action, Decision, Estimate
from truing.stats.rates import Counts

__all__ = ["RULES", "Answers", "FixedRule", "StoppingRule", "decide", "decided", "make_rule"]

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
        return counts.em_rate(self.stopping.confidence)

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
    """Asks every prompt and decides by the interval of the EM rate; see `decide`."""

    def decide(self, step: int, base: Estimate | None, answers: Answers) -> Decision:
        """See `StoppingRule`."""
        return decide(step, self.rate(answers.every_prompt()), base, self.stopping.tolerance)


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
    rule: StoppingRule = load_class("stopping rule", stopping.rule_name, RULES, StoppingRule)(stopping)
    return rule


def decide(step: int, em_rate: Estimate, base: Estimate | None, tolerance: float) -> Decision:
    """Decide by the interval of an EM rate.

    STOP when the whole interval of the EM rate lies above the tolerance and above the base model's rate; CONTINUE when
    it lies at or below the tolerance; UNDECIDED otherwise, which includes a rate that is not known.

    Args:
        step: The checkpoint's step.
        em_rate: Its EM rate, in [0, 1].
        base: The EM rate before fine-tuning; None if there is no base: then the tolerance alone decides.
        tolerance: Highest EM rate that is acceptable, in (0, 1).
    """
    action, reason = _verdict(em_rate, base, tolerance)
    return Decision(action, step, reason, em_rate)


def _verdict(em_rate: Estimate, base: Estimate | None, tolerance: float) -> tuple[Action, str]:
    if math.isnan(em_rate.value) or math.isnan(em_rate.low) or math.isnan(em_rate.high):
        return Action.UNDECIDED, f"The EM rate is not known ({em_rate.reason or 'no interval'})."
    found = f"The EM rate is {em_rate.value:.1%} (interval {em_rate.low:.1%} to {em_rate.high:.1%})"
    limit = f"the tolerance of {tolerance:.1%}"
    if em_rate.high <= tolerance:
        return Action.CONTINUE, f"{found}, all within {limit}."
    if not em_rate.low > tolerance:
        return Action.UNDECIDED, f"{found}, on both sides of {limit}: more responses are needed."
    if base is None:
        return Action.STOP, f"{found}, all above {limit}; there is no base to compare with."
    if math.isnan(base.value):
        return Action.UNDECIDED, f"{found}, all above {limit}, but the base model's rate is not known."
    if not em_rate.low > base.value:
        return (
            Action.UNDECIDED,
            f"{found}, all above {limit}, but the base model itself has {base.value:.1%}.",
        )
    return Action.STOP, f"{found}, all above {limit} and above the base model's {base.value:.1%}."
