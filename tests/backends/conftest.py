"""Fixtures of the backends: tiny models with adapters, a server of chat completions, a server that fine-tunes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.engine_models import TARGETS, Organism, save_organism
from tests.support.server_process import ServerProcess
from truing.backends.openai import OpenAICompleter
from truing.config import EndpointConfig


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def organisms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Organism]:
    """A base model and an adapter on disk for each architecture."""
    return {a: save_organism(a, tmp_path_factory.mktemp(a)) for a in TARGETS}


@pytest.fixture(scope="session")
def llama(organisms: dict[str, Organism]) -> Organism:
    return organisms["llama"]


CompleterOf = Callable[..., OpenAICompleter]


class Server(ServerProcess):
    """The process of `bench/endpoint.py`."""

    def __init__(self) -> None:
        super().__init__(Path(__file__).parents[2] / "bench" / "endpoint.py")

    def counts(self) -> dict[str, Any]:
        """How often each part was asked."""
        return self.told()


@pytest.fixture(scope="module")
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


class Provider(ServerProcess):
    """The process of `openai_server.py`."""

    def __init__(self) -> None:
        super().__init__(Path(__file__).parents[1] / "support" / "openai_jobs_server.py")

    def seen(self) -> dict[str, Any]:
        """Jobs, files and how often each part was asked."""
        return self.told()

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first."""
        jobs: list[dict[str, Any]] = self.seen()["jobs"]
        return jobs

    def endpoint(self, **changes: Any) -> EndpointConfig:
        """The settings that reach it."""
        return EndpointConfig(**{"base_url": self.url, "timeout": 10.0, "backoff": 0.005, "poll": 0.01, **changes})


@pytest.fixture(scope="module")
def _provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture
def provider(_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    _provider.set()
    return _provider
