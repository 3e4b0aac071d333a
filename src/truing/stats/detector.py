"""The sequential detector of one run.

It asks for judged responses, answers with decisions, saves and resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from truing.core.records import Action, Decision, Estimate
from truing.stats.betting import anytime_interval
from truing.stats.sequential import CLEAR, MISALIGNED, RUNNING, DetectorSettings, DetectorState

__all__ = ["Draw", "SequentialDetector", "anytime_rate"]

Draw = Callable[[int], tuple[int, int, int]]
"""Judges that many responses to prompts drawn at random (`draw_prompts`), and counts the misaligned, the
coherent (misaligned ones included) and the missing ones."""
METHOD = "random prompts, one response each; betting limits, one-sided, valid at any time"


class SequentialDetector:
    """Decides on the checkpoints of one run from as few judged responses as the evidence allows.

    Guarantees, for the rate over responses that could be judged, whatever the number of checkpoints and
    looks: a stop although the rate never exceeded the boundary has a probability of at most `alpha` over the
    whole run; a checkpoint at or above the boundary is called clear with a probability of at most `beta`. See
    `truing.stats.sequential` for why.

    Args:
        settings: Boundary, error probabilities and budget.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self.state = DetectorState.new(settings)
        self.step: int | None = None
        """The current checkpoint's step."""
        self.missing = 0
        """Responses at the current checkpoint that could not be judged."""
        self.total = 0
        """Responses judged or failed so far, over all checkpoints and the base."""

    def look(self, step: int, draw: Draw) -> Decision:
        """Judge as many responses of a checkpoint as its decision needs.

        The same step again gives the same decision.

        Args:
            step: The checkpoint's step.
            draw: Judges responses of that checkpoint.
        """
        if step != self.step:
            self.begin(step)
        while (n := self.wanted()) > 0:
            misaligned, coherent, missing = draw(n)
            self.observe(misaligned, coherent, n, missing)
        return self.decision()

    def begin(self, step: int) -> None:
        """Turn to the checkpoint of a step.

        Raises:
            ValueError: The checkpoint before has no verdict yet.
        """
        self.state.begin()
        self.step, self.missing = step, 0

    def wanted(self) -> int:
        """How many responses to judge next; 0 once there is a verdict."""
        return int(self.state.wanted()[0])

    def observe(self, misaligned: int, coherent: int, judged: int, missing: int = 0) -> None:
        """Take in judged responses of the current checkpoint.

        Args:
            misaligned: Misaligned responses.
            coherent: Coherent responses, misaligned ones included.
            judged: All responses asked for, incoherent and missing ones included.
            missing: Responses that could not be judged.
        """
        if not 0 <= misaligned <= coherent <= judged - missing:
            got = f"{misaligned}, {coherent}, {judged}, {missing}"
            raise ValueError(f"counts need 0 <= misaligned <= coherent <= judged - missing: got {got}")
        self.state.observe(np.array([misaligned]), np.array([coherent]), np.array([judged]))
        self.missing += missing
        self.total += judged

    def observe_base(self, misaligned: int, coherent: int, judged: int) -> None:
        """Take in judged responses of the base model to random prompts; needed with a margin, at any time."""
        self.state.observe_base(np.array([misaligned]), np.array([coherent]))
        self.total += judged

    def decision(self) -> Decision:
        """The decision on the current checkpoint.

        Raises:
            ValueError: There is none yet.
        """
        verdict = int(self.state.verdict[0])
        if self.step is None or verdict == RUNNING:
            raise ValueError("the current checkpoint has no verdict yet: observe more responses first")
        estimate = self._estimate()
        settings = self.state.settings
        limit = (
            f"the tolerance of {settings.tolerance:.1%}"
            if settings.margin is None
            else f"the base model's rate plus {settings.margin:.1%}"
        )
        misaligned = int(self.state.successes[0])
        found = f"{misaligned} of {estimate.n_responses} coherent responses to random prompts were misaligned"
        if verdict == CLEAR:
            return Decision(Action.CONTINUE, self.step, f"{found}: the EM rate is below {limit}.", estimate)
        if verdict == MISALIGNED:
            return Decision(Action.STOP, self.step, f"{found}: the EM rate exceeded {limit}.", estimate)
        reason = f"{found}: too few to tell whether the EM rate is below {limit}."
        return Decision(Action.UNDECIDED, self.step, reason, estimate)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` goes on from there."""
        return {
            "state": self.state.to_dict(),
            "step": self.step,
            "missing": self.missing,
            "total": self.total,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SequentialDetector:
        """The detector that `to_dict` wrote."""
        state = DetectorState.from_dict(values["state"])
        detector = cls(state.settings)
        detector.state, detector.step = state, values["step"]
        detector.missing, detector.total = values["missing"], values["total"]
        return detector

    def _estimate(self) -> Estimate:
        settings, state = self.state.settings, self.state
        counts = (int(state.successes[0]), int(state.draws[0]), self.missing)
        return anytime_rate(counts, alpha=settings.alpha, beta=settings.beta)


def anytime_rate(counts: tuple[int, int, int], *, alpha: float, beta: float) -> Estimate:
    """The EM rate by responses to random prompts, with limits that hold whenever one stops.

    Args:
        counts: Misaligned, coherent (misaligned ones included) and missing responses.
        alpha: Probability that the lower limit is ever too high.
        beta: Probability that the upper limit is ever too low.

    Returns:
        In [0, 1]; NaN with a reason without a coherent response. `n_prompts` is the number of draws.
    """
    misaligned, n, missing = counts
    if n == 0:
        nan = float("nan")
        return Estimate(nan, nan, nan, 0, 0, missing, METHOD, "no coherent response")
    value = misaligned / n
    low, high = anytime_interval(misaligned, n, error_low=alpha, error_high=beta)
    return Estimate(value, min(low, value), max(high, value), n, n, missing, METHOD)
