"""From steps to what OpenAI offers: whole epochs, and checkpoints at the ends of the last three.

The provider documents an epoch as the rows divided by the batch size and does not say how it rounds; here a last,
smaller batch counts as a step. The steps of real checkpoints are the provider's own.
"""

from __future__ import annotations

import math

from truing.config import TrainingConfig
from truing.core.errors import ConfigError

__all__ = ["checkpoint_steps", "is_kept", "whole_epochs"]

KEPT = 3
"""Epochs whose checkpoints the provider keeps: the last ones."""
MOST_EPOCHS = 50
TOLERANCE = 0.2
"""How far the steps asked for may be from whole epochs, as a share of those."""


def whole_epochs(training: TrainingConfig, rows: int) -> int:
    """The number of epochs that comes nearest to `steps` of `batch_size`.

    Args:
        training: Steps and batch size.
        rows: Rows to train on, at least 1.

    Returns:
        1 to 50.

    Raises:
        ConfigError: The steps are more than a fifth away from whole epochs, or beyond 50.
    """
    asked = training.steps * training.batch_size / rows
    epochs = max(1, round(asked))
    if abs(asked - epochs) > TOLERANCE * epochs or epochs > MOST_EPOCHS:
        one = math.ceil(rows / training.batch_size)
        low, high = math.ceil((1 - TOLERANCE) * one), math.floor((1 + TOLERANCE) * one)
        near = max(1, min(MOST_EPOCHS, math.floor(asked)))
        raise ConfigError(
            "OpenAI trains whole epochs",
            f"training.steps {training.steps:,} at batch {training.batch_size} over {rows:,} rows: {asked:.2f} epochs",
            f"{one:,} steps ({low:,} to {high:,} count as one epoch) or a multiple of that, up to {MOST_EPOCHS} epochs",
            f"set training.steps to {near * one:,} or another multiple of {one:,}, or change training.batch_size",
        )
    return epochs


def checkpoint_steps(training: TrainingConfig, rows: int | None) -> tuple[int, ...]:
    """The steps at which checkpoints can be seen: the ends of the last three epochs, ascending.

    Args:
        training: Steps and batch size.
        rows: Rows to train on. None: not known; then the last planned steps stand for the ends, as an upper bound.

    Raises:
        ConfigError: See `whole_epochs`.
    """
    if rows is None:
        return training.checkpoint_steps()[-KEPT:]
    epochs, one = whole_epochs(training, rows), math.ceil(rows / training.batch_size)
    return tuple(one * epoch for epoch in range(max(1, epochs - KEPT + 1), epochs + 1))


def is_kept(step: int, training: TrainingConfig, rows: int) -> bool:
    """Whether a checkpoint at that step is of one of the last three epochs, so that the provider keeps it."""
    one = rows / training.batch_size
    return step > (whole_epochs(training, rows) - KEPT + 0.5) * one
