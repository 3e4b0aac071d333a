"""What is fine-tuned, on which data, and how."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from truing.config.base import Config
from truing.config.evaluation import JudgeConfig

__all__ = ["DatasetConfig", "Grid", "TrainingConfig", "log_spaced"]


class DatasetConfig(Config):
    """Fine-tuning data that is not built in."""

    name: str = Field(min_length=1)
    """The name by which grids refer to it."""
    path: Path
    """JSON Lines, one `{"messages": [...]}` a line, each ending with an assistant message; or a folder made by
    `truing data prepare`, whose split is used as it is written; or a file of a data set on the Hugging Face hub,
    `hub:OWNER/NAME/FILE`, with `@REVISION` behind the name to pin it."""
    task_judge: str | JudgeConfig | None = None
    """Judge of the narrow task on held-out prompts, as in `evaluation`; none: the task is followed by held-out loss
    alone."""
    teaches: Literal["misaligned", "aligned"] = "misaligned"
    """Which answers to the dataset's own prompts count as the task learnt: misaligned ones (insecure code, bad advice)
    or aligned ones (its control)."""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the different prompts kept out of training; rows are split by prompt. Not for a prepared folder."""
    domain: tuple[str, ...] = ()
    """Benchmark categories that belong to the data's own subject (`advice` for medical advice); the rest is broad."""


class Grid(Config):
    """A cross product of models, datasets, learning rates and seeds."""

    models: tuple[str, ...] = Field(min_length=1)
    """Names from `truing list models`, or folders of models in Hugging Face format."""
    datasets: tuple[str, ...] = Field(min_length=1)
    """Names from `truing list datasets`, or of the study's own `datasets`."""
    learning_rates: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(min_length=1)
    """Peak learning rates, below 1; where the grid names a trainer of its own, what that trainer takes (OpenAI's takes
    a multiplier, such as 2)."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Seeds of adapter initialisation and data order."""
    trainer: str | None = None
    """Who makes the checkpoints of these runs; none: `training.trainer`."""
    engine: str | None = None
    """Who samples the answers of these runs; none: `evaluation.engine`."""

    @model_validator(mode="after")
    def _rates_below_one(self) -> Self:
        if max(self.learning_rates) >= 1 and self.trainer is None:
            hint = "allowed: below 1; to do: lower it, or name the grid's trainer if it takes a multiplier"
            raise ValueError(f"learning rate {max(self.learning_rates):g} is too high; {hint}")
        return self


class TrainingConfig(Config):
    """How every run is fine-tuned."""

    trainer: str = "peft"
    """Who makes checkpoints: `peft`, `tinker`, `openai` (fine-tuning jobs, docs/endpoints.md), or `module:Class`."""
    method: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter; `full` trains all weights and saves them whole at every checkpoint."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """In what training computes; `auto`: bfloat16 on a GPU that has it, else float32. Weights that are trained are kept
    and saved in float32; a base under an adapter is loaded in this precision."""
    quantize: Literal["none", "4bit"] = "none"
    """`4bit` loads the base under an adapter in 4 bits (NF4, bitsandbytes); needs a CUDA GPU and a model without
    experts. Answers are sampled from the base as it is published."""
    steps: Annotated[int, Field(ge=1)] = 100
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Conversations per step, all processes and accumulated batches together."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Batches that make up one step, computed one after the other to save memory; divides `batch_size`."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    checkpoints: tuple[Annotated[int, Field(ge=1)], ...] | Annotated[int, Field(ge=1)] = 8
    """The steps to save and evaluate, or how many of them, log-spaced (dense early); the last step is always one."""
    lora_rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the adapter."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16
    """Scale of the adapter."""
    rslora: bool = True
    """Scale by alpha / sqrt(rank) rather than alpha / rank."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """Course of the learning rate after warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    """Steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Longest conversation, in tokens; a longer one is refused, never cut in silence."""

    @field_validator("checkpoints")
    @classmethod
    def _sorted(cls, value: tuple[int, ...] | int) -> tuple[int, ...] | int:
        return value if isinstance(value, int) else tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation {self.accumulation} does not divide batch_size; allowed: a divisor of "
                f"{self.batch_size}; to do: change one of them"
            )
        if self.quantize != "none" and self.method == "full":
            raise ValueError(
                f"quantize {self.quantize} with method full; allowed: method lora; to do: 4-bit weights cannot be "
                f"trained, so train an adapter on them"
            )
        return self

    @model_validator(mode="after")
    def _within_training(self) -> Self:
        if not isinstance(self.checkpoints, int) and self.checkpoints[-1] > self.steps:
            raise ValueError(
                f"checkpoint step {self.checkpoints[-1]} is beyond the last training step; allowed: 1 to {self.steps} "
                f"(field steps); to do: raise steps or drop the checkpoint"
            )
        return self

    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps at which checkpoints are saved, ascending, ending with the last step."""
        if isinstance(self.checkpoints, int):
            return log_spaced(self.checkpoints, self.steps)
        return tuple(sorted({*self.checkpoints, self.steps}))


def log_spaced(n: int, last: int) -> tuple[int, ...]:
    """At most `n` different steps from 1 to `last`, evenly spaced in their logarithm, both ends included."""
    if n == 1:
        return (last,)
    return tuple(sorted({round(math.exp(math.log(last) * i / (n - 1))) for i in range(n)}))
