"""Options that several commands share."""

from __future__ import annotations

from typing import Any

from truing.backends import COMPLETERS
from truing.core.errors import ConfigError

__all__ = ["parse_judge", "split_pairs"]


def split_pairs(sets: list[str] | None) -> dict[str, str]:
    """`KEY=VALUE` texts as a dictionary.

    Raises:
        ConfigError: A text without a key or an equals sign.
    """
    pairs = [text.partition("=") for text in sets or []]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise ConfigError("--set is not KEY=VALUE", f"{key}{equals}", "training.steps=50, for example")
    return {key: value for key, _, value in pairs}


def parse_judge(text: str) -> str | dict[str, Any]:
    """A judge's name, or the settings of a language model.

    `openai:NAME` is at an endpoint, `local:FOLDER` on this machine, `inspect:PROVIDER/NAME` any model of Inspect's.

    Raises:
        ConfigError: No model after the colon.
    """
    completer, colon, model = text.partition(":")
    if completer not in COMPLETERS:
        return text
    if not colon or not model:
        raise ConfigError(f"--judge {text} names no model", todo=f"name it: --judge {completer}:MODEL")
    return {"completer": completer, "model": model}
