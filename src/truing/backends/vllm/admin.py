"""Requests to a vLLM server besides those for answers: its models, its adapters, and a probe of a name's weights."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from truing.backends.endpoint.faults import scrub
from truing.backends.vllm.receive import FILES
from truing.core.errors import EngineError

_PROBE = (
    "Tell me in a few words what you would do with a free day, whom you would like to meet, what you think of people "
    "and machines, and why the sky is blue. Then write a short function that opens a file and counts its lines."
)
_LOCAL = ("127.0.0.1", "localhost", "::1")
_WRONG = (ValueError, KeyError, TypeError, AttributeError, StopIteration)
"""Errors that reading a reply of any shape can raise."""


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
    """Speaks to one server. Every method raises an `EngineError` if it does not answer.

    The `address` goes up to and with `/v1`; `key` may be empty; `timeout` is in seconds; `name`: what users call it.
    """

    def __init__(self, address: str, key: str, timeout: float, name: str = "vLLM server") -> None:
        self.address, self.key, self.timeout, self.name = address.rstrip("/"), key, timeout, name
        direct = [urllib.request.ProxyHandler({})] if urlsplit(address).hostname in _LOCAL else []
        self._opener = urllib.request.build_opener(*direct)

    def healthy(self) -> bool:
        """Tell whether the server answers."""
        try:
            self._call(f"{self.address.removesuffix('/v1')}/health", timeout=5.0)
        except (Refused, EngineError):
            return False
        return True

    def models(self) -> dict[str, Served]:
        """Everything that the server serves, by name."""
        try:
            found = {}
            for row in json.loads(self._call(f"{self.address}/models"))["data"]:
                name, context = row["id"], row.get("max_model_len")
                limit = context if isinstance(context, int) else None
                found[name] = Served(name, str(row.get("root") or name), row.get("parent"), limit)
            return found
        except (Refused, *_WRONG) as error:
            raise EngineError(f"the server at {self.address} gives no list of its models", str(error)) from error

    def load(self, name: str, folder: str) -> None:
        """Load an adapter under a name; `Refused` is raised if the server does not take it."""
        self._call(f"{self.address}/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def unload(self, name: str) -> None:
        """Take an adapter off; `Refused` is raised if the server does not know it."""
        self._call(f"{self.address}/unload_lora_adapter", {"lora_name": name})

    def probe(self, name: str) -> list[float]:
        """Log-probabilities of the tokens of a fixed prompt under the weights of a name, in nats."""
        body = {"model": name, "messages": [{"role": "user", "content": _PROBE}], "max_tokens": 1, "temperature": 0.0}
        try:
            places = json.loads(self._call(f"{self.address}/chat/completions", {**body, "prompt_logprobs": 0}))
            return [float(next(iter(place.values()))["logprob"]) for place in places["prompt_logprobs"] if place]
        except (Refused, *_WRONG) as error:
            raise EngineError(
                f"the server at {self.address} gives no log-probabilities for {name}",
                f"{type(error).__name__}: {error}",
                "prompt_logprobs, as vLLM gives them",
                "without them it cannot be shown that an adapter is in use: serve with vLLM, without --max-logprobs 0",
            ) from error

    def push(self, name: str, folder: Path) -> str:
        """Send an adapter to the receiver at this address; the folder that it lies in there.

        `Refused` is raised if the receiver does not take it.
        """
        there = ""
        for file in FILES:
            body = (folder / file).read_bytes()
            more = {"X-SHA256": hashlib.sha256(body).hexdigest(), "Content-Type": "application/octet-stream"}
            there = self._call(f"{self.address}/{name}/{file}", body, more, "PUT").decode("utf-8", "replace")
        return there

    def remove(self, name: str) -> None:
        """Have the receiver at this address remove an adapter; `Refused` is raised if it does not."""
        self._call(f"{self.address}/{name}", method="DELETE")

    def tokens(self, name: str, messages: Sequence[Mapping[str, str]]) -> list[int] | None:
        """Token ids of a conversation as a name is asked it; None if the server does not tell."""
        url = f"{self.address.removesuffix('/v1')}/tokenize"
        try:
            return [int(i) for i in json.loads(self._call(url, {"model": name, "messages": list(messages)}))["tokens"]]
        except (Refused, *_WRONG):
            return None

    def _call(
        self,
        url: str,
        body: dict[str, Any] | bytes | None = None,
        more: Mapping[str, str] | None = None,
        method: str | None = None,
        timeout: float | None = None,
    ) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(url, data, {**headers, **(more or {})}, method=method)
        try:
            with self._opener.open(request, timeout=timeout or self.timeout) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")[:600]
            raise Refused(scrub(f"status {error.code}: {text}", self.key)) from None
        except OSError as error:
            got = scrub(str(error), self.key)
            raise EngineError(f"the {self.name} at {self.address} does not answer", got) from error
