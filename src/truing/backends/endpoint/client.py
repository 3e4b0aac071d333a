"""An endpoint that is open: the `openai` SDK on its aiohttp transport, with the journal, the caps and the prices.

Calls, batches and fine-tuning jobs all go through it. The SDK spends more time on a chat request than the network does,
so that these go straight to its HTTP client, as bytes, and come back as bytes. That follows no redirects, which no
endpoint of this protocol uses and which could carry the key elsewhere. The SDK's own retries are off: ours count
attempts, know what may have been paid for, and stop at once where nothing can succeed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Container, Coroutine, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from truing.backends.endpoint.address import Access, endpoint_address
from truing.backends.endpoint.faults import DamagedReply, ErrorReply, Trouble, backoff, read_fault, read_status
from truing.backends.endpoint.journal import Journal, Paid
from truing.backends.endpoint.pricing import load_prices
from truing.backends.endpoint.wire import Call, Reply, call_key, dump_result, encode, load_result, most_tokens
from truing.config import EndpointConfig
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import ConfigError, WorkError

T = TypeVar("T")
MARK = "truing"
"""The name under which batches and jobs carry a key of ours."""
UPLOAD = 3600.0
"""Seconds to wait for a file."""


class Endpoint:
    """One process's hold on one endpoint: an event loop in a thread of its own, and all that belongs to it.

    Args:
        config: Where, how, and what it may cost.
        journal: The file of finished calls; None keeps them in memory.
        identity: What stands for the endpoint in the journal; empty: its address.

    Raises:
        ConfigError: The address cannot be used, or the prices cannot be read.
        EndpointError: OpenAI's own endpoint, and no key.
        StoreError: The journal cannot be used.
    """

    def __init__(self, config: EndpointConfig, journal: Path | None, identity: str = "") -> None:
        import httpx2
        import openai

        self.config, self.access, self.process = config, Access.of(config), os.getpid()
        self.identity = identity or endpoint_address(config)
        newer = "api.openai.com" in self.access.address
        self.max_tokens_field = config.max_tokens_field or ("max_completion_tokens" if newer else "max_tokens")
        self.prices = load_prices(config.prices)
        self.journal = Journal(journal, config.max_calls, config.max_cost)
        limits = httpx2.Limits(max_connections=config.concurrency, keepalive_expiry=60.0)
        self._http = openai.DefaultAioHttpClient(limits=limits, timeout=None, follow_redirects=False)
        key, address, own = self.access.key or "none", self.access.address, self.access.headers
        none: dict[str, Any] = {} if "authorization" in map(str.lower, own) else {"Authorization": openai.Omit()}
        self.sdk = openai.AsyncOpenAI(
            api_key=key,
            base_url=address,
            max_retries=0,
            timeout=None,
            http_client=self._http,
            default_headers={**none, **own},
            default_query=self.access.query,
        )
        headers = {name: value for name, value in self.sdk.default_headers.items() if isinstance(value, str)}
        self._headers = httpx2.Headers({**headers, **own})
        self._url = httpx2.URL(f"{address}/chat/completions", params=self.access.query or None)
        self.answered = False
        """Whether it has answered a call of this process."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="truing-endpoint", daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Callable[[], Awaitable[None]] | None = None) -> None:
        """End the thread and the connections, after a last thing to do in the loop."""
        if self.process != os.getpid() or not self._thread.is_alive():
            return
        if self._thread is threading.current_thread():  # dropped as garbage there: it cannot wait for its own end
            threading.Thread(target=self.close, args=(last,), name="truing-endpoint-end").start()
            return

        async def end() -> None:
            if last is not None:
                await last()
            await self.sdk.close()

        self.do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.journal.close()

    def calls(self, requests: Iterable[ChatRequest], batch: bool = False) -> list[tuple[Call, ChatResult | None]]:
        """The calls for some requests, with the results of those that are finished or cannot be made.

        Raises:
            ConfigError: A cap on the cost, and a model whose price is unknown.
        """
        calls = []
        for request in requests:
            if self.config.max_cost is not None and self.prices.of(request.model) is None:
                raise self.unpriced(request.model, request.model)
            content = encode(request, self.max_tokens_field, self.config.body)
            key = call_key(self.identity, content, request.sample)
            calls.append(Call(key, request, content, self.most(request, batch)))
        found = self.journal.find([call.key for call in calls])
        return [(call, self._known(call, found.get(call.key))) for call in calls]

    def unpriced(self, what: str, needed: str) -> ConfigError:
        """The error for a cap on the cost of something whose price is unknown."""
        return ConfigError(
            "a cap on the cost needs the price of every model",
            f"no price of {what}",
            f"{needed} in {self.config.prices or 'the built-in prices'}",
            "add its price to a file and name that in endpoint.prices, or cap endpoint.max_calls instead",
        )

    def _known(self, call: Call, found: str | None) -> ChatResult | None:
        if found is not None:
            return load_result(found)
        if call.request.prefilled and not self.config.prefill:  # it would begin a new answer, in silence
            error = "the endpoint cannot go on from a last message of the assistant (if it can: endpoint.prefill)"
            return ChatResult(None, error=error)
        return None

    def most(self, request: ChatRequest, batch: bool = False) -> float:
        """The most that a call can cost, in dollars; 0 if its price is unknown."""
        given = [self.config.body.get(name) for name in ("max_tokens", "max_completion_tokens")]
        own = [n for n in given if isinstance(n, int)]
        request = replace(request, max_tokens=max(request.max_tokens, *own)) if own else request
        return self.prices.cost(request.model, most_tokens(request), batch) or 0.0

    def paid(self, call: Call, reply: Reply | None, batch: bool = False) -> Paid:
        """The cost of a call; without a reply it may have been paid for. An endpoint that counts nothing: the most."""
        model, most = call.request.model, call.most if self.prices.of(call.request.model) else None
        if reply is None:
            return Paid(model, cost=most)
        cost = most if reply.tokens is None else self.prices.cost(model, reply.tokens, batch)
        result = reply.result
        return Paid(model, call.key, dump_result(result), result.prompt_tokens, result.completion_tokens, cost)

    async def chat(self, content: bytes) -> bytes:
        """The body of the reply to a chat request.

        Raises:
            openai.APIStatusError: A status of 300 or more.
            openai.APIConnectionError: No whole reply.
        """
        import httpx2
        import openai

        # without a timeout: that of the attempt covers the whole call, slow drips too
        request = httpx2.Request("POST", self._url, headers=self._headers, content=content)
        try:
            response = await self._http.send(request)
        except httpx2.TransportError as error:
            raise openai.APIConnectionError(request=request) from error
        if response.status_code < 300:
            return response.content
        try:
            body = response.json()
        except ValueError:
            body = response.text
        text = f"Error code: {response.status_code} - {body}"
        raise openai.APIStatusError(text, response=response, body=body.get("error") if isinstance(body, dict) else body)

    async def attempt(self, call: Callable[[], Awaitable[T]], timeout: float) -> T:
        """Make one attempt at a call, of at most so many seconds.

        Raises:
            Trouble: It failed.
            EndpointError: The endpoint refuses the key, the quota or the model: nothing will succeed.
        """
        import openai

        try:
            async with asyncio.timeout(timeout):
                found = await call()
                self.answered = True
                return found
        except TimeoutError:
            raise Trouble(f"no whole answer within {timeout:g} s", congested=True, unconfirmed=True) from None
        except (openai.APIStatusError, openai.APIConnectionError) as error:
            raise read_fault(error, self.access, self.answered) from None
        except ErrorReply as error:
            raise read_status(error.status, error.body, self.access, self.answered) from None
        except (openai.APIError, ValueError) as error:  # a body that is not what the protocol says
            text = str(error) if isinstance(error, DamagedReply) else type(error).__name__
            raise Trouble(f"a damaged reply: {text}", unconfirmed=True) from None

    async def pause(self, failed: int, trouble: Trouble) -> None:
        """Wait after `failed` attempts: as long as the endpoint says, and a little more, or by our own rule."""
        own = backoff(failed - 1, self.config.backoff)
        await asyncio.sleep(own if trouble.wait is None else trouble.wait + 0.1 * min(own, trouble.wait))

    def ask(self, call: Callable[[Any], Awaitable[T]], kind: type[WorkError], what: str, timeout: float = UPLOAD) -> T:
        """The answer to a request of any other kind, tried as often as it may help, each time for `timeout` seconds.

        Each attempt makes the `call` of the SDK's client anew; where none succeeds, a `kind` says `what` happened.
        """
        for number in count(1):
            try:
                return self.do(self.attempt(lambda: call(self.sdk), timeout))
            except Trouble as trouble:
                if not trouble.again or number >= self.config.attempts:
                    todo = "run the same command again: it goes on" if trouble.again else "fix what it names"
                    raise kind(what, trouble.reason, todo=todo) from None
                self.do(self.pause(number, trouble))
        raise AssertionError("unreachable")  # the last attempt returns or raises


async def find_marked(listing: AsyncIterable[Any], key: str, gone: Container[str]) -> Any | None:
    """The batch or job that carries a key of ours, unless its state is of no use any more; None if there is none."""
    async for each in listing:
        if (each.metadata or {}).get(MARK) == key and each.status not in gone:
            return each
    return None
