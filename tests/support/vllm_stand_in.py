"""A server in a thread that speaks as much of vLLM's interface as the engine uses, and can be told to misbehave.

`stand_in_python` makes what an environment with vLLM looks like from outside: an interpreter that starts the stand-in.

Answers and log-probabilities are a function of the request and of what stands for the weights: the model's folder, or
the bytes of an adapter's file at the time when it was loaded.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


class StandIn:
    """The server; `with StandIn(folder) as server: server.address`."""

    def __init__(self, model: str, context: int = 256, name: str = "served", port: int = 0) -> None:
        self.model, self.context, self.name = model, context, name
        self.weights = {name: model}
        self.roots: dict[str, str] = {name: model}
        self.asked: list[dict[str, Any]] = []
        """Every chat request but probes."""
        self.most_adapters = 0
        self.ignores_adapters = False
        """Whether it answers as the base under every name."""
        self.loads_others = False
        """Whether it lists another folder than it was told to load."""
        self.refuses = ""
        """What it says in place of loading an adapter."""
        self.template = ""
        """Its chat template, if it is not the model's; "hidden": it does not tell."""
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def adapters(self) -> list[str]:
        return [name for name in self.roots if name != self.name]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "id": name,
                "root": root,
                "parent": None if name == self.name else self.name,
                "max_model_len": self.context if name == self.name else None,
            }
            for name, root in self.roots.items()
        ]

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, folder = body["lora_name"], body["lora_path"]
        if self.refuses:
            return 500, {"error": {"message": self.refuses}}
        if name in self.roots:
            return 400, {"error": {"message": "has already been loaded"}}
        self.roots[name] = "/elsewhere" if self.loads_others else folder
        data = (Path(folder) / "adapter_model.safetensors").read_bytes()
        self.weights[name] = self.model if self.ignores_adapters else hashlib.sha256(data).hexdigest()
        self.most_adapters = max(self.most_adapters, len(self.adapters))
        return 200, "loaded"

    def unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.roots.pop(body["lora_name"], None) is None:
            return 404, {"error": {"message": "no such adapter"}}
        return 200, "unloaded"

    def tokenize(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.template == "hidden":
            return 404, {"detail": "Not Found"}
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        more = {"chat_template": self.template} if self.template else {}
        ids = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, tokenize=True, return_dict=False, **more
        )
        return 200, {"tokens": ids, "count": len(ids)}

    def chat(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] not in self.roots:
            return 404, {"error": {"message": "no such model"}}
        if body["max_tokens"] > self.context:
            return 400, {"error": {"message": "max_tokens cannot be greater than max_model_len"}}
        weights = self.weights[body["model"]]
        if "prompt_logprobs" in body:
            digest = hashlib.sha256(weights.encode()).digest()
            places = [None, *({str(i): {"logprob": -value / 50}} for i, value in enumerate(digest))]
            return 200, {"choices": [_choice("x")], "prompt_logprobs": places}
        self.asked.append(body)
        text = hashlib.sha256(json.dumps([weights, body["messages"], body["seed"]]).encode()).hexdigest()
        usage = {"prompt_tokens": 5, "completion_tokens": 3}
        return 200, {"choices": [_choice(text)], "usage": usage}


def stand_in_python(folder: Path) -> Path:
    """An executable that takes as much of Python's command line as the engine uses."""
    root = Path(__file__).parents[2]
    script = folder / "python"
    script.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "if '-c' in sys.argv: sys.exit(print('vllm', '0'))\n"
        f"sys.path.insert(0, {str(root)!r})\n"
        "from tests.support.vllm_stand_in import serve\nserve(sys.argv)\n"
    )
    script.chmod(0o755)
    return script


def serve(arguments: list[str]) -> None:
    """Serve what vLLM's flags say, until the process is ended."""
    flags = dict(pairwise(arguments))
    sys.stdout.write(" ".join(arguments) + "\n")
    sys.stdout.flush()
    with StandIn(flags["--model"], name=flags["--served-model-name"], port=int(flags["--port"])):
        threading.Event().wait()


def _choice(text: str) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {"data": self.stand_in.rows()} if self.path == "/v1/models" else "")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        routes = {
            "/v1/load_lora_adapter": self.stand_in.load,
            "/v1/unload_lora_adapter": self.stand_in.unload,
            "/v1/chat/completions": self.stand_in.chat,
            "/tokenize": self.stand_in.tokenize,
        }
        self._answer(*routes[self.path](body))

    def _answer(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Silent."""
