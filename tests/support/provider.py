"""A server of chat completions in this process, which answers as a test says: `provider(answer)`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Answer", "Asked", "Provider", "completion", "provider"]


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """All messages."""
        return "\n".join(str(message["content"]) for message in self.body["messages"])


Answer = Callable[[Asked], tuple[int, Any]]


@dataclass
class Provider:
    """The server while it runs."""

    url: str
    asked: list[Asked] = field(default_factory=list)


def completion(text: str | None, finish: str = "stop", top: int = 0, **message: Any) -> tuple[int, Any]:
    """A sound reply."""
    tokens = [{"token": text, "logprob": -0.01}, *({"token": f"x{i}", "logprob": -9.0} for i in range(top - 1))]
    logprobs = {"content": [{"token": text, "logprob": -0.01, "top_logprobs": tokens}]} if top else None
    inner = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": inner, "finish_reason": finish, "logprobs": logprobs}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


@contextmanager
def provider(answer: Answer) -> Iterator[Provider]:
    """A server whose replies are a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            running.asked.append(asked)
            status, reply = answer(asked)
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Provider(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
