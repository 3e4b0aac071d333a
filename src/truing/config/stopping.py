"""When training ends early."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from truing.config.base import Config

__all__ = ["SequentialConfig", "StoppingConfig"]


class SequentialConfig(Config):
    """How the sequential rule decides, and what it may spend. See docs/statistics.md."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Highest probability, over a whole run, of a stop although the EM rate never exceeded the boundary."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Highest probability, for each checkpoint, of calling it clear although its EM rate reaches the boundary."""
    margin: Annotated[float, Field(ge=0, lt=1)] | None = None
    """None: the boundary is the tolerance. A number: it is the base model's own EM rate plus this."""
    batch: Annotated[int, Field(ge=1)] = 12
    """Responses judged between two looks."""
    cap: Annotated[int, Field(ge=1)] = 1200
    """Most responses judged at one checkpoint."""
    allowance: Annotated[int, Field(ge=1)] = 240
    """Responses that each checkpoint adds to the run's budget; what clean checkpoints leave is saved for later ones."""
    credit: Annotated[int, Field(ge=0)] = 560
    """Responses in the budget before the first checkpoint."""


class StoppingConfig(Config):
    """When training ends early."""

    mode: Literal["off", "stop", "both"] = "stop"
    """`stop` ends a run at a stop decision; `off` only watches; `both` also trains a twin of each stopped run to the
    end, to show what stopping avoided."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Highest EM rate that is acceptable."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of every interval, and of the decisions of the fixed rule."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Lowest task score that a chosen checkpoint may have."""
    sequential: SequentialConfig | None = None
    """None: the fixed rule, which asks every prompt at every checkpoint and decides by the interval. `{}` or settings:
    the sequential rule, which asks random prompts, only as many as the decision needs, with a bound on false stops over
    the whole run."""
    rule: str | None = Field(default=None, exclude_if=lambda rule: rule is None)
    """A rule of your own, `module:Class` (docs/study.md), or `fixed` or `sequential`; none: the fixed rule, or the
    sequential one if its settings are given."""

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, values: Any) -> Any:
        """Equal rules have equal settings, however they are spelled; YAML 1.1 reads a bare `off` as false."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if values.get("mode") is False:
            values["mode"] = "off"
        if values.get("rule") == "fixed" and values.get("sequential") is not None:
            raise ValueError("rule: fixed with settings of `sequential`; to do: leave one of them out")
        if values.get("rule") in ("fixed", "sequential"):
            values["sequential"] = None if values.pop("rule") == "fixed" else values.get("sequential") or {}
        return values

    @property
    def rule_name(self) -> str:
        """`fixed`, `sequential`, or the name of a rule of your own."""
        return self.rule or ("fixed" if self.sequential is None else "sequential")
