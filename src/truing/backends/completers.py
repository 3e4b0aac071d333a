"""What answers chat requests at an endpoint, once per process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from truing.config import EndpointConfig
from truing.core.chat import Completer

__all__ = ["CALLS", "load_completer"]

CALLS = "calls.sqlite"
"""The journal of calls to endpoints, in the folder of a study or an audit."""


@cache
def load_completer(endpoint: EndpointConfig, folder: Path | None) -> Completer:
    """What answers chat requests at an endpoint: one per process, so that engine and judges share pace and caps.

    Args:
        endpoint: Where, how, and what it may cost.
        folder: Where the journal of finished calls lies (`CALLS`); None keeps it in memory.
    """
    from truing.backends.endpoint.completer import OpenAICompleter

    return OpenAICompleter(endpoint, folder / CALLS if folder else None)
