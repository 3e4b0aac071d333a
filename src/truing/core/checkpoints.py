"""Checkpoints as files: a loss that is not known is null there and NaN here."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from truing.core.files import write_json
from truing.core.records import Checkpoint

__all__ = ["read_checkpoint", "write_checkpoint"]

_NAMES = {field.name for field in fields(Checkpoint)}


def write_checkpoint(path: Path, checkpoint: Checkpoint, **more: Any) -> None:
    """Write a checkpoint's fields, and what the trainer adds to them."""
    values = {**asdict(checkpoint), **more}
    write_json(path, {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()})


def read_checkpoint(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint in a file, and what the trainer added to it."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    more = {name: values.pop(name) for name in set(values) - _NAMES}
    for name in ("train_loss", "heldout_loss"):
        if values[name] is None:
            values[name] = math.nan
    return Checkpoint(**values), more
