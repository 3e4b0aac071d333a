"""Trainers make checkpoints. One method: train a run, and ask after every checkpoint whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from truing.config import Services, TrainingConfig
from truing.datasets import Dataset
from truing.names import load_object
from truing.records import Checkpoint, Decision, Run

__all__ = [
    "TRAINERS",
    "OnCheckpoint",
    "Trainer",
    "checkpoint_steps",
    "load_trainer",
    "rows_seen",
    "shows_epoch_ends",
]

TRAINERS = {
    "peft": "truing.trainers.peft:PeftTrainer",
    "tinker": "truing.trainers.tinker:TinkerTrainer",
    "openai": "truing.trainers.openai:OpenAITrainer",
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
    from truing.trainers.openai.schedule import KEPT, epoch_ends

    return training.checkpoint_steps()[-KEPT:] if rows is None else epoch_ends(training, rows)


def rows_seen(name: str, training: TrainingConfig, rows: int | None) -> int:
    """Rows that a run trains on, again and again if they are fewer than its steps take.

    Raises:
        ConfigError: The trainer cannot train for so many steps.
    """
    if not shows_epoch_ends(name) or rows is None:
        return training.steps * training.batch_size
    from truing.trainers.openai.schedule import whole_epochs

    return whole_epochs(training, rows) * rows
