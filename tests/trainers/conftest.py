"""A server that fine-tunes, and the settings that reach it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import ServerProcess
from truing.config import EndpointConfig


class Provider(ServerProcess):
    """The process of `openai_server.py`."""

    def __init__(self) -> None:
        super().__init__(Path(__file__).parent / "openai_server.py")

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


@pytest.fixture(scope="session")
def _provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture
def provider(_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    _provider.set()
    return _provider
