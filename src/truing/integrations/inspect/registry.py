"""All that Inspect finds under `truing/` by the entry point `inspect_ai`: importing a module registers its parts."""

from truing.integrations.inspect import metrics, scorer, tasks

__all__ = ["metrics", "scorer", "tasks"]
