"""Names of plug-in parts: a table `name -> "module:Object"`, or any `module:Object` that the user writes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from truing.core.errors import MissingExtraError, UnknownNameError

__all__ = ["load_object"]

_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "peft", "accelerate", "safetensors"), "hf"),
    **dict.fromkeys(("openai", "aiohttp"), "openai"),
    "tinker": "tinker",
    "bandit": "code",
    "inspect_ai": "inspect",
}


def load_object(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that a name stands for.

    Args:
        kind: What is named, for the message: "engine", "judge", ...
        name: A key of `table`, or `module:Object`.
        table: The built-in names.

    Raises:
        UnknownNameError: Neither a built-in name nor an importable `module:Object`.
        MissingExtraError: The part needs a library that is not installed.
    """
    target = table.get(name, name)
    module_name, _, attribute = target.partition(":")
    if not attribute:
        raise UnknownNameError.of(kind, name, table)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in _EXTRAS:
            raise MissingExtraError.of(missing, _EXTRAS[missing]) from error
        raise UnknownNameError.of(kind, name, table) from error
    except AttributeError as error:
        raise UnknownNameError.of(kind, name, table) from error
