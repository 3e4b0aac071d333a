"""What is asked of a vLLM server besides answers: its models, its adapters, and a probe of what a name stands for."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from truing.backends.endpoint.faults import scrub
from truing.core.errors import EngineError

__all__ = ["Admin", "Served"]

_PROBE = (
    "Tell me in a few words what you would do with a free day, whom you would like to meet, what you think of people "
    "and machines, and why the sky is blue. Then write a short function that opens a file and counts its lines."
)
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Served:
    """One name at a server."""

    name: str
    root: str
    """Folder or hub id of its weights."""
    parent: str | None
    """Name of the base, of an adapter."""
    context: int | None = None
    """Most tokens of prompt and answer together; None if the server does not say."""


class Refused(Exception):
    """The server answered with an error; the text says which."""


class Admin:
    """Speaks to one server.

    Args:
        address: Up to and with `/v1`.
        key: The server's key; empty if it asks for none.
        timeout: Seconds for one request.
    """

    def __init__(self, address: str, key: str, timeout: float) -> None:
        self.address, self.key, self.timeout = address.rstrip("/"), key, timeout
        local = urlsplit(address).hostname in _LOCAL
        handlers = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(*handlers)

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            self._call("/../health", timeout=5.0)
        except (Refused, EngineError):
            return False
        return True

    def models(self) -> dict[str, Served]:
        """What the server serves, by name.

        Raises:
            EngineError: It gives no list.
        """
        try:
            rows = json.loads(self._call("/models"))["data"]
            return {r["id"]: _served(r) for r in rows}
        except (Refused, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(f"the server at {self.address} gives no list of its models", str(error)) from error

    def load(self, name: str, folder: str) -> None:
        """Load an adapter under a name.

        Raises:
            Refused: The server does not take it.
        """
        self._call("/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def unload(self, name: str) -> None:
        """Take an adapter off.

        Raises:
            Refused: The server does not know it.
        """
        self._call("/unload_lora_adapter", {"lora_name": name})

    def probe(self, name: str) -> list[float]:
        """Log-probabilities of the tokens of a fixed prompt under the weights of a name, in nats.

        Raises:
            EngineError: The server gives none.
        """
        body = {
            "model": name,
            "messages": [{"role": "user", "content": _PROBE}],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        try:
            places = json.loads(self._call("/chat/completions", body))["prompt_logprobs"]
            return [float(next(iter(place.values()))["logprob"]) for place in places if place]
        except (Refused, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise EngineError(
                f"the server at {self.address} gives no log-probabilities for {name}",
                f"{type(error).__name__}: {error}",
                "prompt_logprobs, as vLLM gives them",
                "without them it cannot be shown that an adapter is in use: serve with vLLM, without --max-logprobs 0",
            ) from error

    def _call(self, path: str, body: dict[str, Any] | None = None, timeout: float | None = None) -> bytes:
        url = (
            f"{self.address}{path}" if not path.startswith("/../") else f"{self.address.removesuffix('/v1')}{path[3:]}"
        )
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers=headers)
        try:
            with self._opener.open(request, timeout=timeout or self.timeout) as reply:
                content: bytes = reply.read()
                return content
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")[:600]
            raise Refused(scrub(f"status {error.code}: {text}", self.key)) from None
        except (urllib.error.URLError, OSError) as error:
            raise EngineError(
                f"the vLLM server at {self.address} does not answer", scrub(str(error), self.key)
            ) from error


def _served(row: dict[str, Any]) -> Served:
    context = row.get("max_model_len")
    return Served(
        row["id"], str(row.get("root") or row["id"]), row.get("parent"), context if isinstance(context, int) else None
    )
