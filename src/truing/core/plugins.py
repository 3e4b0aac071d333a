"""Names of plug-in parts: a table `name -> "module:Object"`, or any `module:Object` that the user writes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from truing.core.errors import ConfigError, MissingExtraError, UnknownNameError

__all__ = ["load_class", "load_object"]

_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "peft", "accelerate", "safetensors"), "hf"),
    **dict.fromkeys(("openai", "aiohttp"), "openai"),
    "tinker": "tinker",
    "bandit": "code",
    "pandas": "frames",
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


def load_class(kind: str, name: str, table: Mapping[str, str], base: Any) -> Any:
    """The class that a name stands for, checked to be a part of its kind.

    A plain class that has the methods which `base` leaves abstract gets the rest of what `base` offers.

    Args:
        kind: What is named, for the message: "engine", "judge", ...
        name: A key of `table`, or `module:Class`.
        table: The built-in names.
        base: What every part of this kind is derived from.

    Raises:
        UnknownNameError: Neither a built-in name nor an importable `module:Class`.
        MissingExtraError: The part needs a library that is not installed.
        ConfigError: It is no class, or lacks a method.
    """
    found = load_object(kind, name, table)
    needed = sorted(base.__abstractmethods__)
    lacking = [method for method in needed if not callable(getattr(found, method, None))]
    if not isinstance(found, type) or lacking:
        raise ConfigError(
            f"{name} is no {kind}",
            f"a class without {', '.join(lacking)}" if isinstance(found, type) else type(found).__name__,
            f"a class with {', '.join(needed)}",
            f"write one, derived from {base.__module__}.{base.__name__} if you like",
        )
    if issubclass(found, base):
        return found
    offered = {n: value for n, value in vars(base).items() if not n.startswith("_") and not hasattr(found, n)}
    return type(found.__name__, (found,), {**offered, "__module__": found.__module__, "__doc__": found.__doc__})
