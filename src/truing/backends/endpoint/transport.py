"""The `openai` SDK on its aiohttp transport, with what a call does not need left out.

The SDK spends more time on a call than the network does. Two things are left to it (addresses, headers and keys;
status codes and errors), and two are spared through its own extension points: answers are read as bytes and not built
into pydantic objects, and the HTTP client that is passed to it neither merges settings that it has not got nor follows
redirects, which no endpoint of this protocol uses and which could carry the key elsewhere.

The SDK's own retries are off: ours count attempts and know the pace.
"""

from __future__ import annotations

from typing import Any

from truing.backends.endpoint.address import Access
from truing.config import EndpointConfig

__all__ = ["Transport"]


class Transport:
    """One client of one endpoint; belongs to the event loop in which it was made.

    Args:
        config: Names the endpoint and the variable that holds the key.
        identity: What stands for the endpoint in the journal; empty: its address.
    """

    def __init__(self, config: EndpointConfig, identity: str = "") -> None:
        import openai

        self.access = Access.of(config)
        self.identity = identity or self.access.address
        self.client = openai.AsyncOpenAI(
            api_key=self.access.key or "none",
            base_url=self.access.address,
            max_retries=0,
            timeout=None,
            http_client=_lean_client(config.concurrency),
        )
        self._raw = _response_type()

    async def chat(self, content: bytes) -> bytes:
        """The body of the reply to a chat request.

        Raises:
            openai.APIError: A status of 300 or more, or no whole reply.
        """
        response: Any = await self.client.post("/chat/completions", cast_to=self._raw, content=content)
        body: bytes = response.content
        return body

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()


def _response_type() -> Any:
    import httpx2

    return httpx2.Response


def _lean_client(connections: int) -> Any:
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
