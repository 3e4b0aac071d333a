"""Chat requests in, results out, in order: sync at the surface, an event loop of its own in a thread inside.

Requests are drawn as they are needed and results handed over as they come, so a million of them need no more memory
than a few thousand.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from truing.backends.endpoint.address import OPENAI, endpoint_address, max_tokens_field, require_extra
from truing.backends.endpoint.budget import Budget
from truing.backends.endpoint.journal import Account, Journal
from truing.backends.endpoint.pricing import load_prices
from truing.backends.endpoint.transport import Transport
from truing.config import EndpointConfig
from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.errors import ConfigError

__all__ = ["OpenAICompleter"]

T = TypeVar("T")
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
        require_extra()
        self.config, self.journal, self.identity = config or EndpointConfig(), journal, identity
        self.prices = load_prices(self.config.prices)
        self._open: _Open | None = None
        self._opening = threading.Lock()

    @classmethod
    def build(cls, endpoint: EndpointConfig, journal: Path | None) -> OpenAICompleter:
        """One per process, so that engine and judges share pace and caps."""
        return _shared(endpoint, journal)

    @property
    def place(self) -> str:  # type: ignore[override]
        """The endpoint's address, part of what names a model there; empty at OpenAI's own."""
        address = endpoint_address(self.config)
        return "" if address == OPENAI else address

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order. A failed call is a result with `error` and is owed again.

        Raises:
            CapReached: A cap leaves no room; what was finished is in the journal.
            EndpointError: The endpoint refuses the key, the quota or the model.
            EngineError: Too many calls in a row failed.
            ConfigError: A cap on the cost, and a model whose price is unknown.
        """
        if self.config.mode == "batch":
            yield from self._stream_batches(requests)
            return
        opened = self._opened()
        run, drawn, more = opened.new_run(), self._priced(requests), True
        window = _WINDOW * self.config.concurrency
        try:
            while more or run.taken < run.fed:
                new = list(islice(drawn, window - (run.fed - run.taken))) if more else []
                more = more and len(new) == window - (run.fed - run.taken)
                yield from opened.do(opened.caller.advance(run, new))
        finally:
            if run.pending:
                opened.do(_forget(opened, run))

    def recall(self, requests: Sequence[ChatRequest]) -> list[ChatResult] | None:
        """The results of requests that are all in the journal, in order; None if one is not. Calls nobody."""
        from truing.backends.endpoint.wire import call_key, encode, load_result

        opened = self._opened()
        field = max_tokens_field(self.config, opened.transport.access.address)
        keys = [call_key(opened.transport.identity, encode(r, field), r.sample) for r in requests]
        found = opened.journal.find(keys)
        return [load_result(found[key]) for key in keys] if all(key in found for key in keys) else None

    def accounts(self) -> list[Account]:
        """What all calls in the journal came to, by model and mode; includes those of other processes."""
        return self._opened().journal.accounts()

    def close(self) -> None:
        """Write what is finished and end the thread. A later call opens anew."""
        with self._opening:
            if self._open is not None:
                self._dropped.detach()
                self._open.close()
                self._open = None

    def __enter__(self) -> OpenAICompleter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "journal": self.journal, "identity": self.identity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _opened(self) -> _Open:
        with self._opening:
            if self._open is None or self._open.process != os.getpid():
                self._open = _Open(self.config, self.journal, self.identity)
                self._dropped = weakref.finalize(self, _drop, self._open)  # at the latest with the process
            return self._open

    def _priced(self, requests: Iterable[ChatRequest]) -> Iterator[ChatRequest]:
        """The requests; with a cap on the cost, only of models whose price is known."""
        known: set[str] = set()
        for request in requests:
            if self.config.max_cost is not None and request.model not in known:
                if self.prices.of(request.model) is None:
                    raise ConfigError(
                        "a cap on the cost needs the price of every model",
                        f"no price of {request.model}",
                        f"the models in {self.config.prices or 'src/truing/prices.yaml'}",
                        "add its price to a file and name that in endpoint.prices, or cap endpoint.max_calls instead",
                    )
                known.add(request.model)
            yield request

    def _stream_batches(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        from truing.backends.endpoint.batches import Batches

        opened = self._opened()
        batches = Batches(self.config, opened.transport, opened.journal, opened.budget, self.prices)
        try:
            opened.do(batches.add(self._priced(requests)))
            opened.do(batches.finish())
            yield from batches.results()
        finally:
            batches.close()


class _Open:
    """A running event loop in a thread, and what belongs to it."""

    def __init__(self, config: EndpointConfig, journal: Path | None, identity: str) -> None:
        from truing.backends.endpoint.calls import Caller, Run

        endpoint_address(config)  # refused here, before a thread is started
        self.process = os.getpid()
        self.new_run = Run
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="truing-endpoint", daemon=True)
        self._thread.start()
        try:
            self.journal = Journal(journal)
            self.budget = Budget(self.journal, config.max_calls, config.max_cost)
            prices = load_prices(config.prices)

            async def build() -> tuple[Transport, Caller]:
                transport = Transport(config, identity)
                return transport, Caller(config, transport, self.journal, self.budget, prices)

            self.transport, self.caller = self.do(build())
        except BaseException:
            self._end()
            raise

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def runs_here(self) -> bool:
        """Whether the loop runs in the calling thread."""
        return self._thread is threading.current_thread()

    def close(self) -> None:
        """Write what is finished and end the thread."""
        if self.process == os.getpid() and self._thread.is_alive():
            self.do(self.caller.close())
            self._end()
            self.journal.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@cache
def _shared(endpoint: EndpointConfig, journal: Path | None) -> OpenAICompleter:
    return OpenAICompleter(endpoint, journal)


def _drop(opened: _Open) -> None:
    """Close what nobody holds any more, in whatever thread that is found: its own cannot wait for its own end."""
    if opened.runs_here():
        threading.Thread(target=opened.close, name="truing-endpoint-end").start()
    else:
        opened.close()


async def _forget(opened: _Open, run: Any) -> None:
    opened.caller.forget(run)
