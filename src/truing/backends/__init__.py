"""Backends: the outside systems that sample answers and make checkpoints, one folder for each.

Engines sample answers from checkpoints; trainers make checkpoints; completers answer chat requests, for judges.
Each has one method; concurrency and batching live inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from truing.backends.completers import CALLS, load_completer
from truing.catalog.datasets import Dataset
from truing.config import Services, TrainingConfig
from truing.core.plugins import load_object
from truing.core.records import Checkpoint, Decision, Prompt, Response, Run, Sampling

__all__ = [
    "CALLS",
    "ENGINES",
    "TRAINERS",
    "Engine",
    "OnCheckpoint",
    "Trainer",
    "checkpoint_steps",
    "load_completer",
    "load_engine",
    "load_trainer",
    "rows_seen",
    "shows_epoch_ends",
]

ENGINES = {
    "transformers": "truing.backends.transformers.engine:TransformersEngine",
    "openai": "truing.backends.openai:OpenAIEngine",
    "tinker": "truing.backends.tinker.engine:TinkerEngine",
    "vllm": "truing.backends.vllm:VllmEngine",
}


class Engine(Protocol):
    """Samples answers from the checkpoints of one base model.

    Built as `Engine(model)`; a class that needs more has a class method `build(model, services, folder)`.

    An engine that serves several checkpoints at a time may also have a method
    `prefetch(checkpoints, prompts, sampling) -> None`: it samples the answers of all of them in one stream and keeps
    them, so that later calls of `generate` with one of the checkpoints and the same settings are answered from there. A
    checkpoint that cannot be sampled is left out, and an error of its own `generate`.
    """

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample `sampling.samples` answers to each prompt.

        Returns:
            One response per prompt and sample, prompts in the given order, samples `first`, `first + 1`, ... within a
            prompt. A failed call is a response with `error`, never a missing element.

        Raises:
            EngineError: The checkpoint cannot be sampled at all.
        """
        ...


def load_engine(name: str, model: str, services: Services | None = None, folder: Path | None = None) -> Engine:
    """The engine of a name (a key of `ENGINES` or `module:Class`) for a base model.

    Args:
        name: Which engine.
        model: The base model.
        services: How what runs outside this process is reached.
        folder: Where the engine may keep what it needs again, such as the journal of finished calls; None: nowhere.
    """
    kind = load_object("engine", name, ENGINES)
    build = getattr(kind, "build", None)
    engine: Engine = kind(model) if build is None else build(model, services or Services(), folder)
    return engine


TRAINERS = {
    "peft": "truing.backends.transformers.trainer:PeftTrainer",
    "tinker": "truing.backends.tinker.trainer:TinkerTrainer",
    "openai": "truing.backends.openai:OpenAITrainer",
}

OnCheckpoint = Callable[[Checkpoint], Decision]
"""Called with every checkpoint in order of steps, step 0 first."""


class Trainer(Protocol):
    """Makes checkpoints.

    Built as `Trainer(training)`; a class that needs more has a class method `build(training, services)`. One with
    `spreads = True` trains a run together in all processes of a launcher: each of them calls `train`, and rank 0 alone
    calls `on_checkpoint` and `on_step`.
    """

    def train(
        self,
        run: Run,
        dataset: Dataset,
        folder: Path,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None] = ...,
    ) -> None:
        """Train a run in a folder of its own; call `on_checkpoint` at every planned step, `on_step` at every one.

        Ends after the last step, or after a checkpoint whose decision is to stop if `run.stops`. Called again on the
        same folder after an interruption, it goes on from the newest whole checkpoint with bit-identical results, and
        first calls `on_checkpoint` again for the checkpoints that exist (which costs nothing when they are evaluated).

        Raises:
            TrainerError: Training cannot go on.
        """
        ...


def load_trainer(name: str, training: TrainingConfig, services: Services | None = None) -> Trainer:
    """The trainer of a name (a key of `TRAINERS` or `module:Class`).

    Args:
        name: Which trainer.
        training: How runs are fine-tuned.
        services: How what runs outside this process is reached.
    """
    kind = load_object("trainer", name, TRAINERS)
    build = getattr(kind, "build", None)
    trainer: Trainer = kind(training) if build is None else build(training, services or Services())
    return trainer


def shows_epoch_ends(name: str) -> bool:
    """Whether a trainer shows the ends of the last epochs only, whatever checkpoints are planned."""
    return TRAINERS.get(name, name) == TRAINERS["openai"]


def checkpoint_steps(name: str, training: TrainingConfig, rows: int | None) -> tuple[int, ...]:
    """The steps at which a trainer shows checkpoints of a run, ascending, the last one at the end of training.

    Args:
        name: Which trainer.
        training: How runs are fine-tuned.
        rows: Rows to train on. None: not known; then the last of the planned steps stand for the ends of epochs, as an
            upper bound of how many there are.

    Raises:
        ConfigError: The trainer cannot train for so many steps.
    """
    if not shows_epoch_ends(name):
        return training.checkpoint_steps()
    from truing.backends.openai.schedule import KEPT, epoch_ends

    return training.checkpoint_steps()[-KEPT:] if rows is None else epoch_ends(training, rows)


def rows_seen(name: str, training: TrainingConfig, rows: int | None) -> int:
    """Rows that a run trains on, again and again if they are fewer than its steps take.

    Raises:
        ConfigError: The trainer cannot train for so many steps.
    """
    if not shows_epoch_ends(name) or rows is None:
        return training.steps * training.batch_size
    from truing.backends.openai.schedule import whole_epochs

    return whole_epochs(training, rows) * rows
