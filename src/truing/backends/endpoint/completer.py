"""Chat requests in, results out, in order: sync at the surface, an event loop in a thread inside.

Requests are drawn as they are needed and results handed over as they come, so a million of them need no more memory
than a few thousand.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from truing.backends.endpoint.address import OFFICIAL, endpoint_address
from truing.backends.endpoint.batches import Batches
from truing.backends.endpoint.calls import Caller, Run
from truing.backends.endpoint.client import Endpoint
from truing.backends.endpoint.journal import Account
from truing.config import EndpointConfig
from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.files import content_key
from truing.core.plugins import require

_WINDOW = 8
"""Requests drawn ahead of the results handed over, as a multiple of the calls under way."""


class OpenAICompleter(Completer):
    """Answers chat requests by an OpenAI-compatible endpoint. Heavy parts are built at the first call.

    Args:
        config: Where, how, and what it may cost.
        journal: The file of finished calls, shared by all processes of a study; None keeps them in memory.
        identity: What stands for the endpoint in the journal; empty: its address.
    """

    def __init__(self, config: EndpointConfig | None = None, journal: Path | None = None, identity: str = "") -> None:
        require("openai", "openai", "aiohttp")
        self.config, self.journal, self.identity = config or EndpointConfig(), journal, identity
        self._open: Endpoint | None = None
        self._opening = threading.Lock()

    @classmethod
    def build(cls, endpoint: EndpointConfig, journal: Path | None) -> OpenAICompleter:
        """One per process, so that engine and judges share pace and caps."""
        return _shared(endpoint, journal)

    @property
    def place(self) -> str:  # type: ignore[override]
        """The endpoint's address, part of what names a model there; empty at OpenAI's own."""
        address = endpoint_address(self.config)
        return "" if address == OFFICIAL else address

    def identify(self, model: str) -> str:
        """With its place, and with what else is asked of it."""
        more = f" with {content_key(self.config.body)[:12]}" if self.config.body else ""
        return super().identify(model) + more

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint, opened if it is not."""
        with self._opening:
            if self._open is None or self._open.process != os.getpid():
                self._open = endpoint = Endpoint(self.config, self.journal, self.identity)
                self._caller = Caller(endpoint)
                # at the latest with the process
                self._end = weakref.finalize(self, endpoint.close, self._caller.close)
            return self._open

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order. A failed call is a result with `error` and is owed again.

        Raises:
            CapReached: A cap leaves no room; what was finished is in the journal.
            EndpointError: The endpoint refuses the key, the quota or the model.
            EngineError: Too many calls in a row failed.
            ConfigError: A cap on the cost, and a model whose price is unknown.
        """
        endpoint, drawn = self.endpoint, iter(requests)
        if self.config.mode == "batch":
            yield from Batches(endpoint).stream(drawn)
            return
        caller, more, window = self._caller, True, _WINDOW * self.config.concurrency
        run = Run(caller.halts)
        try:
            while more or run.owed:
                room = window - len(run.owed) if more else 0
                new = list(islice(drawn, room))
                more = more and len(new) == room
                yield from endpoint.do(caller.advance(run, new))
        finally:
            if run.owed:
                endpoint.do(caller.forget(run))

    def recall(self, requests: Sequence[ChatRequest]) -> list[ChatResult] | None:
        """The results of requests that are all in the journal, in order; None if one is not. Calls nobody."""
        known = [result for _, result in self.endpoint.calls(requests) if result is not None]
        return known if len(known) == len(requests) else None

    def accounts(self) -> list[Account]:
        """Sums over all calls in the journal, by model and mode; includes those of other processes."""
        return self.endpoint.journal.accounts()

    def close(self) -> None:
        """Write what is finished and end the thread. A later call opens again."""
        with self._opening:
            if self._open is not None:
                self._open = None
                self._end()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config, self.journal, self.identity)


_shared = cache(OpenAICompleter)
