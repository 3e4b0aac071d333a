"""An endpoint that is open: the `openai` SDK on its aiohttp transport, with the journal, the caps and the prices.

Calls, batches and fine-tuning jobs all go through it. The SDK spends more time on a call than the network does. Two
things are left to it (addresses, headers and keys; status codes and errors), and two are spared through its own
extension points: answers are read as bytes and not built into pydantic objects, and the HTTP client that is passed to
it neither merges settings that it has not got nor follows redirects, which no endpoint of this protocol uses and which
could carry the key elsewhere. The SDK's own retries are off: ours count attempts, know what may have been paid for, and
stop at once where nothing can succeed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from truing.backends.endpoint.address import Access
from truing.backends.endpoint.faults import DamagedReply, Trouble, backoff, read_fault
from truing.backends.endpoint.journal import Journal, Paid
from truing.backends.endpoint.pricing import load_prices
from truing.backends.endpoint.wire import Call, Reply, call_key, dump_result, encode, load_result, most_tokens
from truing.config import EndpointConfig
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import WorkError

if TYPE_CHECKING:
    import httpx2

__all__ = ["UPLOAD", "Endpoint"]

T = TypeVar("T")
UPLOAD = 3600.0
"""Seconds to wait for a file."""


class Endpoint:
    """What one process holds of one endpoint: an event loop in a thread of its own, and all that belongs to it.

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
        self.identity = identity or self.access.address
        newer = "api.openai.com" in self.access.address
        self.max_tokens_field = config.max_tokens_field or ("max_completion_tokens" if newer else "max_tokens")
        self.prices = load_prices(config.prices)
        self.journal = Journal(journal, config.max_calls, config.max_cost)
        self.sdk = openai.AsyncOpenAI(
            api_key=self.access.key or "none",
            base_url=self.access.address,
            max_retries=0,
            timeout=None,
            http_client=_lean_client(config.concurrency),
        )
        self._raw: Any = httpx2.Response
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
        """The calls for some requests, with the results of those that are finished or cannot be made."""
        calls = []
        for request in requests:
            content = encode(request, self.max_tokens_field)
            key = call_key(self.identity, content, request.sample)
            calls.append(Call(key, request, content, self.most(request, batch)))
        found = self.journal.find([call.key for call in calls])
        return [(call, self._known(call, found.get(call.key))) for call in calls]

    def _known(self, call: Call, found: str | None) -> ChatResult | None:
        if found is not None:
            return load_result(found)
        if call.request.prefilled and not self.config.prefill:  # it would begin a new answer, in silence
            error = "the endpoint cannot go on from a last message of the assistant (if it can: endpoint.prefill)"
            return ChatResult(None, error=error)
        return None

    def most(self, request: ChatRequest, batch: bool = False) -> float:
        """The most that a call can cost, in dollars; 0 if its price is unknown."""
        return self.prices.cost(request.model, most_tokens(request), batch) or 0.0

    def paid(self, call: Call, reply: Reply | None, batch: bool = False) -> Paid:
        """What a call came to; without a reply it may have been paid for. An endpoint that counts nothing: the most."""
        model, most = call.request.model, call.most if self.prices.of(call.request.model) else None
        if reply is None:
            return Paid(model, cost=most)
        cost = most if reply.tokens is None else self.prices.cost(model, reply.tokens, batch)
        result = reply.result
        return Paid(model, call.key, dump_result(result), result.prompt_tokens, result.completion_tokens, cost)

    async def chat(self, content: bytes) -> bytes:
        """The body of the reply to a chat request.

        Raises:
            openai.APIError: A status of 300 or more, or no whole reply.
        """
        response = await self.sdk.post("/chat/completions", cast_to=self._raw, content=content)
        body: bytes = response.content
        return body

    async def attempt(self, call: Callable[[], Awaitable[T]], timeout: float) -> T:
        """Make one attempt at a call, of at most so many seconds.

        Raises:
            Trouble: It failed.
            EndpointError: The endpoint refuses the key, the quota or the model: nothing will succeed.
        """
        import openai

        try:
            async with asyncio.timeout(timeout):
                return await call()
        except TimeoutError:
            raise Trouble(f"no whole answer within {timeout:g} s", congested=True, unconfirmed=True) from None
        except (openai.APIStatusError, openai.APIConnectionError) as error:
            raise read_fault(error, self.access) from None
        except (openai.APIError, ValueError) as error:  # a body that is not what the protocol says
            text = str(error) if isinstance(error, DamagedReply) else type(error).__name__
            raise Trouble(f"a damaged reply: {text}", unconfirmed=True) from None

    async def pause(self, failed: int, trouble: Trouble) -> None:
        """Wait after `failed` attempts: as long as the endpoint says, and a little more, or by our own rule."""
        own = backoff(failed - 1, self.config.backoff)
        await asyncio.sleep(own if trouble.wait is None else trouble.wait + 0.1 * min(own, trouble.wait))

    async def request(
        self, call: Callable[[], Awaitable[T]], kind: type[WorkError], what: str, timeout: float = UPLOAD
    ) -> T:
        """The answer to a call, tried as often as it may help.

        Args:
            call: Makes the call anew at each attempt.
            kind: The error where none succeeds.
            what: What that error says happened.
            timeout: Seconds for each attempt.
        """
        number = 1
        while True:
            try:
                return await self.attempt(call, timeout)
            except Trouble as trouble:
                if not trouble.again or number >= self.config.attempts:
                    todo = "run the same command again: it goes on" if trouble.again else "fix what it names"
                    raise kind(what, trouble.reason, todo=todo) from None
                await self.pause(number, trouble)
            number += 1


def _lean_client(connections: int) -> httpx2.AsyncClient:
    import httpx2
    import openai

    class LeanClient(openai.DefaultAioHttpClient):
        """The SDK's aiohttp client with a short path for requests whose body is bytes."""

        def build_request(self, method: str, url: Any, **settings: Any) -> httpx2.Request:
            """As in httpx; the SDK has put address and headers together already."""
            content = settings.get("content")
            if not isinstance(content, bytes) or settings.get("params") or settings.get("files") is not None:
                return super().build_request(method, url, **settings)
            if (known := urls.get(url)) is None:
                known = urls[url] = httpx2.URL(url)
            # without a timeout in the extensions: the caller's covers the whole call, slow drips too
            return httpx2.Request(method, known, headers=settings["headers"], content=content, extensions={"lean": 1})

        async def send(self, request: httpx2.Request, **settings: Any) -> httpx2.Response:
            """As in httpx, without redirects, cookies and its log."""
            if "lean" not in request.extensions:
                return await super().send(request, **settings)
            response = await self._transport_for_url(request.url).handle_async_request(request)
            response.request = request
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
            return response

    urls: dict[Any, httpx2.URL] = {}
    limits = httpx2.Limits(max_connections=connections, keepalive_expiry=60.0)
    return LeanClient(limits=limits, follow_redirects=False)
