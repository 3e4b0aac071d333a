"""A guard from plain settings, for frameworks that are told by files what to do.

truing:
  judge: pocket            # a name, openai:MODEL, or the fields of a language model that judges
  benchmark: pocket-240
  at: 50
  folder: runs/guard       # without it: `truing` in the output folder
  tolerance: 0.02          # and every other keyword of truing.Guard

Relative folders are taken from the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truing.config import DatasetConfig, JudgeConfig
from truing.config.files import validate
from truing.core.errors import ConfigError
from truing.integrations.guard import Guard

_NEEDED = ("judge", "benchmark", "at")


def make_guard(settings: Any, output: str | Path) -> Guard:
    """The guard that the section `truing` of a file describes; `output` is the framework's folder for what it makes.

    Raises:
        ConfigError: It is no section, lacks something, or a value is not allowed.
        UnknownNameError: No judge, benchmark, dataset or engine of that name.
        StoreError: The folder holds something else.
    """
    if not isinstance(settings, Mapping) or not settings.keys() >= set(_NEEDED):
        got = f"only {', '.join(settings) or 'nothing'}" if isinstance(settings, Mapping) else repr(settings)
        todo = "add a section `truing:` (docs/guard.md)"
        raise ConfigError("the guard's section `truing` lacks something", got, ", ".join(_NEEDED), todo)
    values = {"folder": Path(output) / "truing", **settings}
    for name, kind in (("judge", JudgeConfig), ("dataset", DatasetConfig)):
        if isinstance(values.get(name), Mapping):
            values[name] = validate(kind, dict(values[name]), f"the guard's {name} is not valid")
    return Guard(**values)
