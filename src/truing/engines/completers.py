"""What answers chat requests at an endpoint, once per process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from truing.config import EndpointConfig

if TYPE_CHECKING:
    from truing.engines.openai.completer import OpenAICompleter

__all__ = ["CALLS", "close_completers", "load_completer"]

CALLS = "calls.sqlite"
"""The journal of calls to endpoints, in the folder of a study or an audit."""

_kept: dict[tuple[EndpointConfig, Path | None], OpenAICompleter] = {}


def load_completer(endpoint: EndpointConfig, folder: Path | None) -> OpenAICompleter:
    """What answers chat requests at an endpoint: one per process, so that engine and judges share pace and caps.

    Args:
        endpoint: Where, how, and what it may cost.
        folder: Where the journal of finished calls lies (`CALLS`); None keeps it in memory.
    """
    from truing.engines.openai.completer import OpenAICompleter

    if (endpoint, folder) not in _kept:
        _kept[endpoint, folder] = OpenAICompleter(endpoint, folder / CALLS if folder else None)
    return _kept[endpoint, folder]


def close_completers(folder: Path) -> None:
    """Close those of a folder: their threads and connections end. A later call opens them anew."""
    for (_, of), completer in list(_kept.items()):
        if of == folder:
            completer.close()
