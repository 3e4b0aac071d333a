"""What a guard is told: when to look, how to measure, when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from truing.config import Config, EndpointConfig, EvaluationConfig, JudgeConfig, StoppingConfig
from truing.config.files import validate_flat
from truing.core.errors import ConfigError
from truing.core.progress import Shown
from truing.stats.rules import make_rule

__all__ = ["GuardConfig", "read_settings"]


class GuardConfig(Config):
    """A guard's settings; fields of `EvaluationConfig` and `StoppingConfig` can be given to `Guard` directly."""

    at: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...]
    """Evaluate every so many optimiser steps, or at these steps; step 0 and the last step are always evaluated."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How every checkpoint is sampled and judged."""
    stopping: StoppingConfig = StoppingConfig()
    """When training ends early; mode `off` only watches and leaves the weights alone."""
    endpoint: EndpointConfig = EndpointConfig()
    """How a judge behind an interface is called, and the caps."""
    restore: bool = True
    """Whether the model gets the best aligned checkpoint's weights once training has ended; never with mode `off`."""
    overlap: bool = False
    """Whether answers are judged in a thread while training goes on; decisions then arrive `lag` steps later."""
    progress: Shown = Field(default="auto", exclude=True)
    """What is written to standard error while it works: `auto` (a line every half a minute at most, over itself on a
    terminal), `json` (JSON Lines), `quiet` (nothing)."""
    on_error: Literal["warn", "raise"] = "warn"
    """`warn`: what fails in engine, judge or store is logged and counted, and the decision is undecided; `raise`: it
    ends training."""

    @field_validator("at", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if isinstance(value, Sequence | set | frozenset | range) and not isinstance(value, str):
            return tuple(sorted(set(value)))
        return value

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.stopping.mode == "both":
            raise ValueError("mode both trains twins, which a guard cannot; allowed: off, stop")
        if self.overlap and not make_rule(self.stopping).every_prompt:
            raise ValueError(
                f"overlap and the {self.stopping.rule_name} rule exclude each other: it asks for further answers after "
                f"judging some; to do: leave one of them out"
            )
        if self.evaluation.also:
            raise ValueError("a guard asks one benchmark; to do: leave `also` out, and ask others with truing audit")
        return self

    def is_due(self, step: int, last: int) -> bool:
        """True if a step is evaluated, in a training of `last` steps."""
        if step == last:
            return True
        return step % self.at == 0 if isinstance(self.at, int) else step in self.at


def read_settings(
    judge: str | JudgeConfig, benchmark: str, at: int | Sequence[int], settings: Mapping[str, Any]
) -> GuardConfig:
    """Settings from flat keywords: each goes to the group that has a field of its name.

    Raises:
        ConfigError: An unknown keyword, or a value that is not allowed.
    """
    if "engine" in settings:
        todo = "leave it out: a guard samples from the model that is trained"
        raise ConfigError("unknown keyword of Guard", "engine", todo=todo)
    own = {"at": at, "judge": judge, "benchmark": benchmark, "engine": "live"}
    return validate_flat(GuardConfig, {**settings, **own}, "the guard's settings are not valid")
