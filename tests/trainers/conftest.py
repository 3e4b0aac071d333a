"""A server that fine-tunes, and the settings that reach it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from truing.config import EndpointConfig

SERVER = Path(__file__).parent / "openai_server.py"


class Provider:
    """The process of `openai_server.py`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline().split()[1])}"
        self.url = f"{self.address}/v1"

    def set(self, **settings: Any) -> None:
        """Forget all, take all defaults but these; `keep=True` forgets nothing."""
        body = json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/control", data=body, method="POST")).close()

    def seen(self) -> dict[str, Any]:
        """Jobs, files and how often each part was asked."""
        with urllib.request.urlopen(f"{self.address}/control") as reply:
            seen: dict[str, Any] = json.load(reply)
        return seen

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first."""
        jobs: list[dict[str, Any]] = self.seen()["jobs"]
        return jobs

    def endpoint(self, **changes: Any) -> EndpointConfig:
        """The settings that reach it."""
        return EndpointConfig(**{"base_url": self.url, "timeout": 10.0, "backoff": 0.005, "poll": 0.01, **changes})

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


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
