"""A server of Tinker's interface for tests, which the real SDK of today talks to over HTTP.

It keeps the semantics that the trainer and the engine rely on: requests are futures and are worked off in order; a
forward-backward adds to the gradient, weighted by the datum's weights and summed; an optimiser step applies and clears
it; saved weights for sampling and saved training states are two kinds of things, with names that are taken once; a
deleted state is gone. Underneath, a real model of `transformers` is trained by PEFT and AdamW and sampled from.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from tinker.proto import tinker_public_pb2 as wire
from transformers import AutoModelForCausalLM

from tests.support.tinker_model import Refusal, Training, adapted, draw, losses, read_datum

KEY = "tml-test-key"
PROTOBUF = "application/x-protobuf"
NAME = re.compile(r"^[A-Za-z0-9_-]{1,255}$")


@dataclass
class Saved:
    """Saved weights: for sampling, or a training state with the optimiser's."""

    base: str
    rank: int
    weights: dict[str, Any]
    optimizer: dict[str, Any] | None = None


@dataclass
class TinkerServer:
    """The server; `url` is its address and `key` the key that it takes."""

    bases: dict[str, Path]
    """Name of each base model -> its folder."""
    key: str = KEY
    models: dict[str, Training] = field(default_factory=dict)
    saved: dict[str, Saved] = field(default_factory=dict)
    adam: list[dict[str, float]] = field(default_factory=list)
    """What every optimiser step was asked to do."""
    batches: list[list[list[int]]] = field(default_factory=list)
    """Token ids of every forward-backward."""
    weights: list[float] = field(default_factory=list)
    """Sum of the weights of every forward-backward."""
    calls: Counter[str] = field(default_factory=Counter)
    seeds: list[int] = field(default_factory=list)
    """Of every answer."""
    created: list[dict[str, Any]] = field(default_factory=list)
    """What every new model was asked to be."""
    finished_sessions: list[str] = field(default_factory=list)
    refuse: Callable[[list[int]], bool] = lambda tokens: False
    """Which prompts sampling fails for."""

    def __post_init__(self) -> None:
        self._worker = ThreadPoolExecutor(1)
        self._futures: dict[str, Future[Any]] = {}
        self._samplers: dict[str, str] = {}
        self._sampled_from: tuple[str, Any] = ("", None)
        self._count = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"tinker": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()
        self._worker.shutdown()

    def put_weights(self, base: str) -> str:
        """Save weights for sampling that answer otherwise than the base; their name."""
        path, model = f"tinker://{self._new('run')}/sampler_weights/put", adapted(self._base(base), 4, 1)
        weights = {name: 0.5 + value for name, value in get_peft_model_state_dict(model).items()}
        self.saved[path] = Saved(base, 4, weights)
        return path

    # what is asked for, by path

    def post(self, path: str, body: Any) -> Any:
        """The reply to a request: a dictionary, or a future's id."""
        with self._lock:
            self.calls[path] += 1
        if path.startswith("sessions/"):
            self.finished_sessions.append(body["reason"]["type"])
            return {}
        plain = {
            "client/config": {},
            "client/dynamic_config": {},
            "telemetry": {"status": "accepted"},
            "session_heartbeat": {},
        }
        if path in plain:
            return plain[path]
        handlers: dict[str, Callable[[Any], Any]] = {
            "create_session": lambda body: {"session_id": self._new("session")},
            "create_sampling_session": self._create_sampler,
            "get_info": lambda body: self._info(body["model_id"]),
            "create_model": self._create_model,
            "load_weights": self._load,
            "forward_backward": self._forward_backward,
            "optim_step": self._optim_step,
            "save_weights": lambda body: self._save(body, "weights"),
            "save_weights_for_sampler": lambda body: self._save(body, "sampler_weights"),
            "asample": self._sample,
        }
        if path not in handlers:
            raise Refusal(404, f"no such call: {path}")
        return handlers[path](body)

    def get(self, path: str) -> Any:
        self.calls[path.split("/")[0]] += 1
        if path == "healthz":
            return {"status": "ok"}
        if path == "get_server_capabilities":
            return {"supported_models": [{"model_name": name} for name in self.bases]}
        if path.startswith("samplers/"):
            name = self._samplers[path.split("/")[1]]
            base = self.saved[name].base if name in self.saved else name
            return {"sampler_id": path.split("/")[1], "base_model": base}
        raise Refusal(404, f"no such call: {path}")

    def delete(self, path: str) -> Any:
        _, run, _, *checkpoint = path.split("/")
        name = f"tinker://{run}/{'/'.join(checkpoint)}"
        if name not in self.saved:
            raise Refusal(404, f"no checkpoint {name}")
        del self.saved[name]
        return {}

    def result(self, request_id: str) -> Any:
        """What a future came to: bytes of a protocol message, or a dictionary."""
        return self._futures[request_id].result()

    # training

    def _create_model(self, body: Any) -> Any:
        if body["base_model"] not in self.bases:
            raise Refusal(400, f"base model {body['base_model']} is not supported")
        self.created.append(body["lora_config"])
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        return self._later(lambda: self._start(model_id, body["base_model"], body["lora_config"]))

    def _start(self, model_id: str, base: str, settings: dict[str, Any]) -> dict[str, Any]:
        model = adapted(self._base(base), settings["rank"], settings.get("seed") or 0)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
        self.models[model_id] = Training(base, model, settings["rank"], optimizer, settings)
        return {"model_id": model_id}

    def _load(self, body: Any) -> Any:
        if body["path"] not in self.saved or "/weights/" not in body["path"]:
            raise Refusal(404, f"no training state {body['path']}")
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        saved = self.saved[body["path"]]

        def load() -> dict[str, Any]:
            self._start(model_id, saved.base, {"rank": saved.rank})
            training = self.models[model_id]
            set_peft_model_state_dict(training.model, saved.weights)
            assert saved.optimizer is not None
            if body["optimizer"]:
                training.optimizer.load_state_dict(copy.deepcopy(saved.optimizer))
            return {"path": body["path"]}

        return self._later(load)

    def _info(self, model_id: str) -> Any:
        training = self.models[model_id]
        return {"model_id": model_id, "model_data": {"model_name": training.base}, "lora_rank": training.rank}

    def _forward_backward(self, body: bytes) -> Any:
        message = wire.ForwardBackwardRequest.FromString(body)
        training = self._training(message.model_id)
        if message.loss_fn != "cross_entropy":
            raise Refusal(400, f"loss {message.loss_fn} is not known here")
        data = [read_datum(datum) for datum in message.data]
        if not message.forward_only:
            self.batches.append([ids for ids, _, _ in data])
            self.weights.append(sum(float(weights.sum()) for _, _, weights in data))
        return self._later(lambda: losses(training, data, backward=not message.forward_only), message.model_id)

    def _optim_step(self, body: Any) -> Any:
        params, training = body["adam_params"], self._training(body["model_id"])
        self.adam.append(params)

        def step() -> dict[str, Any]:
            for group in training.optimizer.param_groups:
                group.update(lr=params["learning_rate"], betas=(params["beta1"], params["beta2"]))
                group.update(eps=params["eps"], weight_decay=params["weight_decay"])
            if params["grad_clip_norm"]:
                torch.nn.utils.clip_grad_norm_(training.model.parameters(), params["grad_clip_norm"])
            training.optimizer.step()
            training.optimizer.zero_grad()
            return {}

        return self._later(step, body["model_id"])

    def _save(self, body: Any, kind: str) -> Any:
        training, path = self._training(body["model_id"]), f"tinker://{body['model_id']}/{kind}/{body['path']}"
        if not NAME.match(body["path"]):
            raise Refusal(400, f"{body['path']} is no name")
        if path in self.saved:
            raise Refusal(409, f"{path} exists")

        def save() -> dict[str, Any]:
            weights = {k: v.clone() for k, v in get_peft_model_state_dict(training.model).items()}
            state = copy.deepcopy(training.optimizer.state_dict()) if kind == "weights" else None
            self.saved[path] = Saved(training.base, training.rank, weights, state)
            return {"path": path}

        return self._later(save, body["model_id"])

    def _training(self, model_id: str) -> Training:
        if model_id not in self.models:
            raise Refusal(404, f"no model {model_id}")
        return self.models[model_id]

    # sampling

    def _create_sampler(self, body: Any) -> Any:
        name = body.get("model_path") or body["base_model"]
        if name not in self.bases and (name not in self.saved or "/sampler_weights/" not in name):
            raise Refusal(404, f"nothing to sample from: {name}")
        sampler = self._new("sampler")
        self._samplers[sampler] = name
        return {"sampling_session_id": sampler}

    def _sample(self, body: Any) -> Any:
        params, name = body["sampling_params"], self._samplers[body["sampling_session_id"]]
        tokens = [t for chunk in body["prompt"]["chunks"] for t in chunk["tokens"]]
        with self._lock:
            self.seeds.append(params["seed"])

        def sample() -> Any:
            if self.refuse(tokens):
                return {"error": "the prompt is not to the server's liking", "category": "user"}
            message = wire.SampleResponse()
            for n in range(body["num_samples"]):
                drawn, ended = draw(self._model_of(name), tokens, params, params["seed"] + n)
                sequence = message.sequences.add()
                sequence.tokens = np.array(drawn, np.int32).tobytes()
                sequence.stop_reason = wire.STOP_REASON_STOP if ended else wire.STOP_REASON_LENGTH
            return message.SerializeToString()

        reply = self._later(sample)
        return {**reply, "sample_sequence_ids": [self._new("sequence") for _ in range(body["num_samples"])]}

    def _model_of(self, name: str) -> Any:
        if self._sampled_from[0] != name:
            model = self._base(self.saved[name].base if name in self.saved else name)
            if name in self.saved:
                model = adapted(model, self.saved[name].rank, 0)
                set_peft_model_state_dict(model, self.saved[name].weights)
            self._sampled_from = (name, model.eval())
        return self._sampled_from[1]

    def _base(self, name: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.bases[name], dtype=torch.float32, use_safetensors=True)

    # futures

    def _later(self, work: Callable[[], Any], model_id: str | None = None) -> dict[str, Any]:
        request_id = self._new("request")
        self._futures[request_id] = self._worker.submit(work)
        return {"request_id": request_id, "model_id": model_id}

    def _new(self, kind: str) -> str:
        with self._lock:
            self._count += 1
            return f"{kind}-{self._count}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tinker: TinkerServer

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = data if self.headers.get("Content-Type") == PROTOBUF else json.loads(data or b"{}")
        if self._path() == "retrieve_future":
            self._answer(lambda: self.tinker.result(body["request_id"]))
        else:
            self._answer(lambda: self.tinker.post(self._path(), body))

    def do_GET(self) -> None:
        self._answer(lambda: self.tinker.get(self._path()))

    def do_DELETE(self) -> None:
        self._answer(lambda: self.tinker.delete(self._path()))

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _path(self) -> str:
        return self.path.split("?")[0].removeprefix("/api/v1/")

    def _answer(self, reply: Callable[[], Any]) -> None:
        try:
            if self._path() != "healthz" and self.headers.get("X-API-Key") != self.tinker.key:
                raise Refusal(401, f"the key {self.headers.get('X-API-Key')} is not known")
            status, content = 200, reply()
        except Refusal as refusal:
            status, content = refusal.status, {"detail": str(refusal)}
        except Exception as error:  # noqa: BLE001 - as a service does: the caller is told, the server goes on
            status, content = 500, {"detail": f"{type(error).__name__}: {error}"}
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", PROTOBUF if isinstance(content, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self._path() == "client/config":  # the SDK forgets to close the connection that it asks this on
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
