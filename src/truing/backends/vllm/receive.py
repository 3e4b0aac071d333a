"""Takes adapters over HTTP beside a vLLM server on a machine that does not see the folders in which they are saved.

    VLLM_API_KEY=KEY python receive.py --into DIR [--host 127.0.0.1] [--port 8001]

Run as a file, with the standard library alone. `PUT /truing-HASH/FILE` with the key and the SHA-256 of the file's bytes
writes one of an adapter's two files, whole or not at all, and answers with the folder that it lies in; `DELETE
/truing-HASH` removes both. Nothing else is written, read or removed, and nothing without the key.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import re
import sys
import tempfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILES = ("adapter_model.safetensors", "adapter_config.json")
"""What may be received, in the order in which it is sent: what a server looks for first comes last."""
_PATH = re.compile(rf"/(truing-[0-9a-f]{{32,64}})(?:/({'|'.join(map(re.escape, FILES))}))?", re.ASCII)
_MOST = 2**34
"""Bytes of a file."""
_LEAST_KEY = 16
"""Characters of a key."""


class Receiver(ThreadingHTTPServer):
    """The server; `into` is a folder that exists, `key` what every request must know."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], into: Path, key: str) -> None:
        if len(key) < _LEAST_KEY:
            raise ValueError(f"the key in VLLM_API_KEY has {len(key)} characters; allowed: at least {_LEAST_KEY}")
        self.into, self.key = into.resolve(strict=True), key
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 60.0

    def do_PUT(self) -> None:
        """Write a file."""
        name, file = self._allowed()
        size = self.headers.get("Content-Length", "")
        if not name or not file:
            return
        if not (size.isascii() and size.isdigit() and int(size) <= _MOST):
            return self._answer(413, f"Content-Length: at most {_MOST} bytes")
        folder = self.server.into / name
        folder.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as out:
                digest, left = hashlib.sha256(), int(size)
                while left and (block := self.rfile.read(min(left, 2**20))):
                    out.write(block)
                    digest.update(block)
                    left -= len(block)
            if left or digest.hexdigest() != self.headers.get("X-SHA256"):
                return self._answer(400, "not the bytes that were announced")
            os.chmod(temporary, 0o644)  # the server may be another user's
            os.replace(temporary, folder / file)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        self._answer(200, str(folder))

    def do_DELETE(self) -> None:
        """Remove an adapter."""
        name, file = self._allowed()
        if name and file:
            return self._answer(404, "whole adapters are removed")
        if name:
            folder = self.server.into / name
            with suppress(OSError):  # not there, or something else lies in it
                for each in FILES:
                    (folder / each).unlink(missing_ok=True)
                folder.rmdir()
            self._answer(200, "removed")

    def _allowed(self) -> tuple[str, str]:
        """The name and the file that a request is about; two empty ones: it was answered with an error."""
        told = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(told, f"Bearer {self.server.key}".encode()):
            self._answer(401, "the key is wrong")
        elif found := _PATH.fullmatch(self.path):
            return found[1], found[2] or ""
        else:
            self._answer(404, "no such adapter or file")
        return "", ""

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.close_connection = True  # a body that was not read must not be taken for a request
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a request may hold anything."""


def main() -> None:
    """Receive until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="folder for adapters, as the vLLM server sees it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; come through a tunnel by preference")
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args()
    try:
        server = Receiver((arguments.host, arguments.port), arguments.into, os.environ.get("VLLM_API_KEY", ""))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    with suppress(KeyboardInterrupt), server:
        server.serve_forever()


if __name__ == "__main__":
    main()
