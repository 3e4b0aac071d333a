"""A local server in a process of its own, which its `/control` sets and tells of."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["ServerProcess"]


class ServerProcess:
    """Runs a script that prints `PORT N` once it listens."""

    def __init__(self, script: Path) -> None:
        self.process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline().split()[1])}"
        self.url = f"{self.address}/v1"

    def set(self, **settings: Any) -> None:
        """Forget all, take all defaults but these; `keep=True` forgets nothing."""
        body = json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/control", data=body, method="POST")).close()

    def told(self) -> dict[str, Any]:
        """What it has seen."""
        with urllib.request.urlopen(f"{self.address}/control") as reply:
            told: dict[str, Any] = json.load(reply)
        return told

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
