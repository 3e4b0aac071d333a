"""What a guard is told: when to look, how to measure, when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from truing.backends import ENGINES, Engine, check_name, find_backend
from truing.config import EvaluationConfig, JudgeConfig, Services, StoppingConfig
from truing.config.files import validate_flat
from truing.core.errors import ConfigError
from truing.core.progress import Shown
from truing.stats.rules import make_rule

LIVE = "live"
"""Stands for the model that is trained where an engine is named."""


class GuardConfig(Services):
    """A guard's settings; fields of `EvaluationConfig` and `StoppingConfig` can be given to `Guard` directly."""

    at: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...]
    """Evaluate every so many optimiser steps, or at these steps; step 0 and the last step are always evaluated."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How every checkpoint is sampled and judged."""
    stopping: StoppingConfig = StoppingConfig()
    """When training ends early; mode `off` only watches and leaves the weights alone."""
    restore: bool = True
    """Whether the model gets the best aligned checkpoint's weights once training has ended; never with mode `off`."""
    overlap: bool = False
    """Whether training goes on while answers are judged; without `lag` until the decision is there, however late."""
    lag: Annotated[int, Field(ge=0)] = Field(default=0, exclude_if=lambda lag: lag == 0)
    """Most steps that training goes on by before it waits for the decision; 0: it waits at once, unless `overlap`."""
    patience: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude=True)
    """Seconds that training stands still for a late decision; then that is undecided until it arrives, and told. None:
    an hour; two days where the judge's endpoint works in batches."""
    on_resume: Literal["stay", "continue"] = Field(default="stay", exclude=True)
    """What a training that the guard stopped does when it is resumed: `stay` stopped, or `continue` to the next stop
    decision."""
    progress: Shown = Field(default="auto", exclude=True)
    """What is written to standard error while it works: `auto` (a line every half a minute at most, over itself on a
    terminal), `json` (JSON Lines), `quiet` (nothing)."""
    on_error: Literal["warn", "raise"] = "warn"
    """`warn`: what fails in engine, judge or store is logged and counted, and the decision is undecided; `raise`: it
    ends training, and so does a step of which no answer has a score."""

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
        if (self.overlap or self.lag) and not (self.works_elsewhere or make_rule(self.stopping).every_prompt):
            raise ValueError(
                f"{'overlap' if self.overlap else 'lag'} and the {self.stopping.rule_name} rule exclude each other: it "
                f"asks for further answers after judging some; to do: leave one of them out, or take an engine that "
                f"works elsewhere"
            )
        if self.evaluation.also:
            raise ValueError("a guard asks one benchmark; to do: leave `also` out, and ask others with truing audit")
        return self

    @property
    def is_live(self) -> bool:
        """True if answers are sampled from the very model that is trained."""
        return self.evaluation.engine == LIVE

    @property
    def names_engine(self) -> bool:
        """True if the engine is one of the table, which loads the base model by its name."""
        return self.evaluation.engine in ENGINES

    @property
    def works_elsewhere(self) -> bool:
        """True if the engine works while training goes on: outside this process, or one of the user's own."""
        engine = self.evaluation.engine
        return not self.is_live and (not self.names_engine or find_backend("engine", engine).elsewhere)

    @property
    def is_late(self) -> bool:
        """True if evaluations are made in a thread."""
        return self.overlap or self.lag > 0 or self.works_elsewhere

    @property
    def most_patience(self) -> float:
        """Seconds that training stands still for a late decision."""
        judge = self.evaluation.judge
        place = self.endpoint.instead(judge.endpoint if isinstance(judge, JudgeConfig) else None)
        return self.patience or (172_800.0 if place.mode == "batch" else 3600.0)

    def wait_from(self, step: int) -> float:
        """The step from which on training waits for the decision on a step."""
        return math.inf if self.overlap and not self.lag else step + self.lag

    def is_due(self, step: int, last: int) -> bool:
        """True if a step is evaluated, in a training of `last` steps."""
        if step == last:
            return True
        return step % self.at == 0 if isinstance(self.at, int) else step in self.at


def read_settings(
    judge: str | JudgeConfig, benchmark: str, engine: str | Engine | None, settings: Mapping[str, Any]
) -> GuardConfig:
    """Settings from flat keywords: each goes to the group that has a field of its name.

    Raises:
        ConfigError: An unknown keyword, or a value that is not allowed.
        UnknownNameError: No engine of that name.
    """
    name = engine or LIVE
    if isinstance(engine, Engine):
        name = f"{type(engine).__module__}:{type(engine).__qualname__}"
    elif engine is not None:
        check_name("engine", engine)
        if find_backend("engine", engine).own_checkpoints:
            able = ", ".join(each for each in ENGINES if not find_backend("engine", each).own_checkpoints)
            todo = "leave it out to sample from the model that is trained"
            raise ConfigError(f"the engine {engine} takes no checkpoints of a Trainer", engine, able, todo)
    own = {"judge": judge, "benchmark": benchmark, "engine": name}
    return validate_flat(GuardConfig, {**settings, **own}, "the guard's settings are not valid")
