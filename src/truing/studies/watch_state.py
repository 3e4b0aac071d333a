"""What a watch remembers: OUT/watch.json."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from truing.core.errors import StoreError
from truing.studies.folder import CheckpointRecord

__all__ = ["WATCH", "Done", "Seen", "Stop", "WatchState", "load_watch"]

WATCH = "watch.json"


class Seen(BaseModel):
    """What is known of one checkpoint's folder."""

    state: Literal["changing", "not whole", "waiting", "evaluated", "failed"] = "changing"
    reason: str = ""
    """Why it is not whole or was not evaluated, or what was decided."""
    stamp: str = ""
    """A hash of names, sizes and times of its files."""
    saved: float = 0.0
    """Time of its newest file, in seconds since 1970."""
    decided: float | None = None
    """Time of the decision."""
    action: str = ""
    """The decision: `continue`, `undecided` or `stop`."""
    missing: int = 0
    """Answers to the benchmark that lack scores."""
    record: CheckpointRecord | None = None
    """Its weights; None: it was not whole yet."""
    notes: tuple[str, ...] = ()


class Stop(BaseModel):
    """The first decision to stop."""

    step: int
    checkpoint: str
    """Folder of the checkpoint of which it was decided."""
    best: str | None
    """Folder of the best checkpoint that is clear so far, by answers that are not confirmed; None: there is none."""
    reason: str


class Done(BaseModel):
    """One thing that was done on stop."""

    begun: float
    ended: float | None = None
    """None: the process ended before it was known how it went; it is not done again."""
    error: str = ""
    """Why it failed; it is tried again."""


class WatchState(BaseModel):
    """All that a watch remembers."""

    directory: str
    seen: dict[str, Seen] = {}
    """By the name of the folder."""
    base: CheckpointRecord | None = None
    """The model before fine-tuning, once it is known."""
    replaced: int = 0
    """Decisions on weights that were since saved again."""
    stop: Stop | None = None
    done: dict[str, Done] = {}
    polled: float = 0.0
    """Time of the last poll that was written down."""
    parameters: float | None = None
    """Of the model, once they were counted."""
    ended: bool = False
    """True once the end of the watch has confirmed what the run keeps."""


def load_watch(out: Path) -> WatchState | None:
    """What a watch remembers; None: the folder is not that of a watch.

    Raises:
        StoreError: The file is damaged.
    """
    try:
        return WatchState.model_validate_json((out / WATCH).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        todo = "delete that file: checkpoints are looked at again, and no answer is asked twice"
        raise StoreError(f"{out / WATCH} cannot be read", str(error)[:300], todo=todo) from error
