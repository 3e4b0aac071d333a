"""A real S3 server, moto's, in an environment of its own, and a proxy before it that breaks connections by a seed.

python -m venv S && S/bin/pip install 'moto[server]==5.2.5'
TRUING_S3_PYTHON=S/bin/python pytest tests/monitor/test_shared.py
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from truing.monitor import shared

__all__ = ["PYTHON", "FaultProxy", "S3Server", "environment", "needs_s3", "serving", "taking"]

PYTHON = os.environ.get("TRUING_S3_PYTHON", "")
needs_s3 = pytest.mark.skipif(
    not PYTHON, reason="set TRUING_S3_PYTHON to the Python of an environment with moto[server]"
)
_START = 60.0


class S3Server:
    """moto's server, with the bucket `results`."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        self.address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _START
        while True:
            try:
                request = urllib.request.Request(f"{self.address}/results", method="PUT")
                urllib.request.urlopen(request, timeout=20).close()
                return
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)

    @property
    def environment(self) -> dict[str, str]:
        """What finds this one."""
        return environment(self.address)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def environment(address: str) -> dict[str, str]:
    """What AWS's own libraries read to find a server; the keys are any, for moto checks none."""
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    return keys | {"AWS_ENDPOINT_URL": address, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def serving(folder: Path) -> Iterator[S3Server | None]:
    """A server that logs into a folder; None where there is no Python for it."""
    server = S3Server(folder / "log.txt") if PYTHON else None
    try:
        yield server
    finally:
        if server is not None:
            server.close()


@contextmanager
def taking(server: S3Server, patch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Find a server, or from each call on what is at another address, and forget it at the end."""

    def take(address: str) -> None:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        shared.connect.cache_clear()

    take(server.address)
    try:
        yield take
    finally:
        shared.connect.cache_clear()


class FaultProxy:
    """Hands requests on to a server, a share of them wrongly, by a seed.

    Faults: `refuse` (503 and nothing is done), `error` (500 after it was done), `drop` (the connection ends before the
    request is handed on), `lose` (it is done, and the answer is lost), `cut` (half of the answer), `flip` (the answer
    with one byte changed) and `slow` (a second).
    """

    KINDS = ("refuse", "error", "drop", "lose", "cut", "flip", "slow")

    def __init__(self, address: str, share: float, seed: int, kinds: tuple[str, ...] = KINDS) -> None:
        self.share, self.kinds, self.seen = share, kinds, Counter[str]()
        self._to, self._random, self._lock = urlsplit(address).netloc, random.Random(seed), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._hand_on(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _fault(self) -> str:
        with self._lock:
            fault = self._random.choice(self.kinds) if self._random.random() < self.share else ""
            self.seen[fault or "none"] += 1
        return fault

    def _hand_on(self, asked: BaseHTTPRequestHandler) -> None:
        body = self._body(asked)
        fault = self._fault()
        if fault in ("refuse", "drop"):
            return self._answer(asked, 503, {}, b"") if fault == "refuse" else self._end(asked)
        if fault == "slow":
            time.sleep(1)
        to = HTTPConnection(self._to, timeout=30)
        headers = {k: v for k, v in asked.headers.items() if k.lower() != "transfer-encoding"}
        to.request(asked.command, asked.path, body, headers)
        reply = to.getresponse()
        data, told = reply.read(), dict(reply.getheaders())
        to.close()
        if fault == "lose":
            return self._end(asked)
        if fault == "error":
            return self._answer(asked, 500, {}, b"")
        if fault == "flip" and data and asked.command == "GET" and "list-type" not in asked.path:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return self._answer(asked, reply.status, told, data, len(data) // 2 if fault == "cut" else None)

    def _body(self, asked: BaseHTTPRequestHandler) -> bytes | None:
        if "chunked" in asked.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(asked.rfile.readline().split(b";")[0], 16):
                body += asked.rfile.read(size)
                asked.rfile.readline()
            while asked.rfile.readline().strip():  # the trailer
                pass
            return body
        length = int(asked.headers.get("Content-Length", 0))
        return asked.rfile.read(length) if length else None

    def _answer(
        self, asked: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, only: int | None = None
    ) -> None:
        with suppress(OSError):
            asked.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    asked.send_header(name, value)
            length = headers.get("Content-Length", "0") if asked.command == "HEAD" else str(len(data))
            asked.send_header("Content-Length", length)
            asked.end_headers()
            if asked.command != "HEAD":
                asked.wfile.write(data[:only])
        if only is not None:
            self._end(asked)

    def _end(self, asked: BaseHTTPRequestHandler) -> None:
        asked.close_connection = True
        with suppress(OSError):
            asked.connection.shutdown(socket.SHUT_RDWR)
