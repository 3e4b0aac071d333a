"""That the weights at hand are those of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

from truing.core.errors import EngineError, UserError
from truing.core.records import Checkpoint

__all__ = ["check_weights", "hash_or_fail"]


def hash_or_fail(function: Callable[[], str]) -> str:
    """The hash that a function of `truing.core.weights` finds.

    Raises:
        EngineError: The files cannot be read.
    """
    try:
        return function()
    except (UserError, OSError, ValueError) as error:
        raise EngineError("cannot read the weights", str(error)) from error


def check_weights(checkpoint: Checkpoint, found: str) -> None:
    """Compare the hash of what was found with the checkpoint's.

    Raises:
        EngineError: They differ.
    """
    if found != checkpoint.weights:
        raise EngineError(
            f"the weights of run {checkpoint.run_id}, step {checkpoint.step} are not those asked for",
            f"hash {found} at {checkpoint.path or 'the base model'}",
            checkpoint.weights,
            "the files changed after the checkpoint was made: train the run again",
        )
