"""The monitor inside `transformers.Trainer` and TRL's trainers: `truing.Guard`. See docs/guard.md."""

from truing.integrations.guard.guard import Guard
from truing.integrations.guard.measures import Record
from truing.integrations.guard.settings import GuardConfig

__all__ = ["Guard", "GuardConfig", "Record"]
