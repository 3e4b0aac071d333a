"""The events of a job as the provider tells them: kept in a file, oldest first, and read for the steps' losses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

__all__ = ["Events", "is_number"]


class Events:
    """The events of one job.

    Args:
        path: The file, one JSON object a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.forget(keep_file=True)
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    self._take(json.loads(line))
                except ValueError:
                    continue  # torn by a kill: it will be asked for again

    def forget(self, keep_file: bool = False) -> None:
        """Begin anew."""
        self._known: set[str] = set()
        self._losses: dict[int, float] = {}
        self.full_losses: dict[int, float] = {}
        """Step -> loss on the whole validation file."""
        if not keep_file:
            self._path.unlink(missing_ok=True)

    @property
    def last_step(self) -> int:
        """The last step that was told of; 0 if none."""
        return max(self._losses, default=0)

    def knows(self, event_id: str) -> bool:
        """Whether an event is in the file."""
        return event_id in self._known

    def mean_loss(self, after: int, to: int) -> float | None:
        """Mean over the steps' training losses; None if none was told."""
        some = [loss for step, loss in self._losses.items() if after < step <= to]
        return math.fsum(some) / len(some) if some else None

    def add(self, event: Any) -> int | None:
        """Keep an event; the step that it tells of, if that is a new one."""
        before = self.last_step
        values = {name: getattr(event, name, None) for name in ("id", "created_at", "level", "type", "message", "data")}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._take(values)
        return self.last_step if self.last_step > before else None

    def _take(self, values: dict[str, Any]) -> None:
        self._known.add(values["id"])
        data = values.get("data")
        if not isinstance(data, dict) or not is_number(data.get("step")):
            return
        step = int(data["step"])
        if is_number(data.get("train_loss")):
            self._losses[step] = data["train_loss"]
        if is_number(data.get("full_valid_loss")):
            self.full_losses[step] = data["full_valid_loss"]


def is_number(value: Any) -> bool:
    """Whether a value of a reply is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
