"""What a guard is told: when to look, how to measure, when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from truing.config import EvaluationConfig, JudgeConfig, StoppingConfig
from truing.core.errors import ConfigError, did_you_mean

__all__ = ["GuardConfig", "read_settings"]


class GuardConfig(BaseModel):
    """A guard's settings; fields of `EvaluationConfig` and `StoppingConfig` can be given to `Guard` directly."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    at: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...]
    """Evaluate every so many optimiser steps, or at these steps; step 0 and the last step are always evaluated."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How every checkpoint is sampled and judged."""
    stopping: StoppingConfig = StoppingConfig()
    """When training ends early; mode `off` only watches and leaves the weights alone."""
    restore: bool = True
    """Whether the model gets the best aligned checkpoint's weights once training has ended; never with mode `off`."""
    overlap: bool = False
    """Whether answers are judged in a thread while training goes on; decisions then arrive `lag` steps later."""
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
        if self.overlap and self.stopping.sequential is not None:
            raise ValueError(
                "overlap and the sequential rule exclude each other: it asks for further answers after judging some; "
                "to do: leave one of them out"
            )
        if self.evaluation.also:
            raise ValueError("a guard asks one benchmark; to do: leave `also` out, and ask others with truing audit")
        return self

    def is_due(self, step: int, last: int) -> bool:
        """Whether a step is evaluated, in a training of `last` steps."""
        if step == last:
            return True
        return step % self.at == 0 if isinstance(self.at, int) else step in self.at


_SHARED: dict[str, type[BaseModel]] = {"evaluation": EvaluationConfig, "stopping": StoppingConfig}
_OWN = {"judge", "benchmark", "engine"}
"""Fields of the evaluation that the guard sets itself."""


def read_settings(
    judge: str | JudgeConfig, benchmark: str, at: int | Sequence[int], settings: Mapping[str, Any]
) -> GuardConfig:
    """Settings from flat keywords: each goes to the group that has a field of its name.

    Raises:
        ConfigError: An unknown keyword, or a value that is not allowed.
    """
    raw: dict[str, Any] = {"at": at}
    for group in _SHARED:
        given = settings.get(group, {})
        raw[group] = dict(given) if isinstance(given, Mapping) else given.model_dump(exclude=_OWN)
    for name, value in settings.items():
        group = next((g for g, kind in _SHARED.items() if name in kind.model_fields and name not in _OWN), "")
        if group:
            raw[group][name] = value
        elif name in GuardConfig.model_fields:
            raw.setdefault(name, value)
        else:
            known = sorted({*GuardConfig.model_fields, *(f for k in _SHARED.values() for f in k.model_fields)} - _OWN)
            raise ConfigError("unknown keyword of Guard", name, ", ".join(known), did_you_mean(name, known))
    raw["evaluation"] |= {"judge": judge, "benchmark": benchmark, "engine": "live"}
    try:
        return GuardConfig.model_validate(raw)
    except ValidationError as error:
        issues = (
            f"{'.'.join(map(str, issue['loc'])) or 'settings'}: {issue['msg'].removeprefix('Value error, ')}"
            for issue in error.errors(include_url=False)
        )
        raise ConfigError("the guard's settings are not valid", "; ".join(issues)) from None
