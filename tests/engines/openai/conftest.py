"""A server that speaks the protocol, and a completer that talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import ServerProcess
from truing.chat import ChatRequest
from truing.config import EndpointConfig
from truing.engines.openai import OpenAICompleter
from truing.records import Message

CompleterOf = Callable[..., OpenAICompleter]


class Server(ServerProcess):
    """The process of `bench/endpoint.py`."""

    def __init__(self) -> None:
        super().__init__(Path(__file__).parents[3] / "bench" / "endpoint.py")

    def counts(self) -> dict[str, Any]:
        """How often each part was asked."""
        return self.told()


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(_server: Server) -> Server:
    _server.set()
    return _server


@pytest.fixture
def completer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CompleterOf]:
    """Makes completers of the server; all share one journal."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    opened: list[OpenAICompleter] = []

    def make(**settings: Any) -> OpenAICompleter:
        defaults = {"base_url": server.url, "timeout": 10.0, "backoff": 0.005, "poll": 0.02}
        opened.append(OpenAICompleter(EndpointConfig(**{**defaults, **settings}), tmp_path / "calls.sqlite"))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def requests(n: int, first: int = 0, model: str = "judge", **settings: Any) -> list[ChatRequest]:
    """Different requests for a score."""
    settings = {"top_logprobs": 20, **settings}
    return [ChatRequest(model, (Message("user", f"score {i}"),), **settings) for i in range(first, first + n)]
