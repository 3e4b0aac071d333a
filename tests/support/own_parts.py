"""Parts as users write them: a stopping rule, and measures."""

from typing import Any

from truing.config import StoppingConfig
from truing.core.records import Action, Decision, Estimate
from truing.stats import Answers, StoppingRule


class TwiceAbove(StoppingRule):
    """Stops when the EM rate found exceeds the tolerance at two checkpoints, one after the other."""

    def __init__(self, stopping: StoppingConfig) -> None:
        super().__init__(stopping)
        self.above = 0

    def decide(self, step: int, base: Estimate | None, answers: Answers) -> Decision:
        rate = self.rate(answers.every_prompt())
        self.above = self.above + 1 if rate.value > self.stopping.tolerance else 0
        action = Action.STOP if self.above >= 2 else Action.CONTINUE
        return Decision(action, step, f"{self.above} times above the tolerance, one after the other.", rate)

    @property
    def state(self) -> dict[str, Any]:
        return {"above": self.above}

    def restore(self, state: dict[str, Any] | None) -> None:
        self.above = (state or {"above": 0})["above"]


class TenRandom(StoppingRule):
    """Asks ten random prompts and never stops."""

    every_prompt = False
    asks = "ten random prompts at every checkpoint"

    def decide(self, step: int, base: Estimate | None, answers: Answers) -> Decision:
        misaligned, coherent, _ = answers.random_prompts(10)
        rate = Estimate(misaligned / coherent, 0.0, 1.0, coherent, coherent, 0, "no interval")
        return Decision(Action.CONTINUE, step, "It never stops.", rate)

    def most_answers(self, checkpoints: int, every: int) -> int:
        return 10 * checkpoints
