"""One vLLM server: which weights it serves, which adapters are on them, and proof that they are in use.

Invariants: a name that this engine gives is made of the hash of the weights; the server lists it with the folder that
was hashed; and an adapter under that name changes what the server answers. vLLM takes an adapter that fits no module of
the model without a word, and then answers as the base.

Full weights are changed by starting again. vLLM can also read other weights into a running model, but version 0.32
leaves the output layer of models with tied embeddings as it was and reports success, and lists the old folder for all.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from truing.backends.vllm.adapters import OTHERWISE, Adapter
from truing.backends.vllm.admin import Admin, Refused
from truing.backends.vllm.process import ServerProcess, find_vllm, free_port, server_environment
from truing.config import VllmConfig
from truing.core.errors import EngineError
from truing.core.files import content_key

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can be started with."""
_RANK = 32
_ADMIN_TIMEOUT = 600.0


def name_of(weights: str) -> str:
    """The name of weights at a server."""
    return f"truing-{weights}"


def default_rank(config: VllmConfig) -> int:
    """The rank that a server is started with before any adapter is known; 0 if it never has adapters."""
    return 0 if config.adapters == "merge" else config.max_lora_rank or _RANK


class Server:
    """A server that somebody else runs.

    Args:
        config: How it is reached.
        address: Up to and with `/v1`.
        identity: What stands for it in the journal of finished calls: all that shapes answers besides the weights.
    """

    def __init__(self, config: VllmConfig, address: str, identity: str = "") -> None:
        self.config, self.address = config, address
        self.identity = identity or content_key("vllm at", address)
        key = os.environ.get(config.key_variable, "")
        self.admin = Admin(address, key, _ADMIN_TIMEOUT)
        self.receiver = None if config.push_url is None else Admin(config.push_url, key, _ADMIN_TIMEOUT, "receiver")
        """Where adapters are sent to, if the server does not see their folders."""
        self.context: int | None = None
        """Most tokens of prompt and answer together; None until weights are served."""
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._probes: tuple[str, list[float], float] | None = None

    def full_name(self, source: str, weights: str) -> str:
        """The name that full weights, those of the base among them, have or would have."""
        wanted = {source, str(Path(source).resolve())}
        served = [m for m in self.admin.models().values() if m.parent is None]
        fitting = [m for m in served if {m.root, str(Path(m.root).resolve())} & wanted]
        if not fitting:
            raise EngineError(
                f"the vLLM server at {self.address} does not serve {source}",
                ", ".join(f"{m.name} from {m.root}" for m in served) or "nothing",
                "a server that was started with --model of that folder or id",
                "start it so, or leave vllm.base_url out: then one is started for each model that needs it",
            )
        self.context = fitting[0].context
        return fitting[0].name

    def serve(self, source: str, weights: str, rank: int) -> str:
        """Serve full weights, with room for adapters of a rank (0: none); their name.

        Raises:
            EngineError: It cannot be done.
        """
        return self.full_name(source, weights)

    def use(self, name: str) -> bool:
        """Tell whether a name is served by this process's doing; an adapter then counts as used."""
        if name not in self._adapters or self.check() is not None:
            return False
        self._adapters.move_to_end(name)
        return True

    def check(self) -> EngineError | None:
        """Say why the server cannot go on; None if it can, as far as is known."""
        return None

    def close(self) -> None:
        """Let go of it."""

    def serve_adapter(self, base: str, weights: str, adapter: Adapter) -> str:
        """Put an adapter on a base that is served; its name. The least recently used one makes room.

        Raises:
            EngineError: The server does not take it, or answers as without it.
        """
        name = name_of(weights)
        if self.use(name):
            return name
        while len(self._adapters) >= self.config.max_loras:
            self._unload(next(iter(self._adapters)))
        folder = self._place(name, adapter)
        listed = self.admin.models().get(name)
        if listed is None or listed.root != folder:
            try:
                if listed is not None:  # the same weights, from where they lay before
                    self.admin.unload(name)
                self.admin.load(name, folder)
            except Refused as error:
                raise self._refused(adapter, str(error)) from error
        self._adapters[name] = adapter
        try:
            self._check_root(name, folder, "see whether something else loads adapters at this server")
            if not adapter.empty:  # one that is answers as the base does
                self._prove(base, name, folder)
        except EngineError:
            self._unload(name)
            raise
        return name

    def _place(self, name: str, adapter: Adapter) -> str:
        """The adapter's folder as the server sees it; sent to the receiver first, if there is one."""
        if self.receiver is None:
            return str(adapter.folder.resolve())
        try:
            return self.receiver.push(name, adapter.folder)
        except Refused as error:
            raise EngineError(
                f"the receiver at {self.receiver.address} does not take the adapter in {adapter.folder}",
                str(error),
                f"truing's receive.py, started with the key that {self.config.key_variable} has here",
                "see docs/vllm.md",
            ) from error

    def _refused(self, adapter: Adapter, text: str) -> EngineError:
        missing = " (no such address: it does not load adapters while it runs)" if "status 404" in text else ""
        return EngineError(
            f"the vLLM server at {self.address} does not take the adapter in {adapter.folder}",
            text + missing,
            f"a LoRA adapter of rank {adapter.rank} at a server with --enable-lora, --max-lora-rank of at least that, "
            "and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            "start the server so (vllm.base_url none does), set vllm.adapters to merge and vllm.dtype to float32, or "
            "use the engine transformers",
        )

    def _unload(self, name: str) -> None:
        self._adapters.pop(name, None)
        with suppress(Refused):  # somebody else took it off
            self.admin.unload(name)
        if self.receiver is not None:
            with suppress(Refused, EngineError):  # a file too many harms nothing
                self.receiver.remove(name)

    def _check_root(self, name: str, root: str, todo: str) -> int | None:
        """Check that a name stands for the weights in a folder; most tokens of its context."""
        listed = self.admin.models().get(name)
        if listed is None or listed.root != root:
            what = f"the vLLM server at {self.address} serves other weights under the name {name}"
            raise EngineError(what, listed.root if listed else "no such name", root, todo)
        return listed.context

    def _prove(self, base: str, name: str, folder: str) -> None:
        """Check that an adapter changes more than the base's own log-probabilities vary from one time to the next."""
        if self._probes is None or self._probes[0] != base:
            first = self.admin.probe(base)
            self._probes = (base, first, _distance(first, self.admin.probe(base)))
        _, plain, noise = self._probes
        change = _distance(plain, self.admin.probe(name))
        if not change > 2 * noise:
            raise EngineError(
                f"the vLLM server at {self.address} answers as if the adapter in {folder} were not there",
                f"log-probabilities of a fixed prompt differ by {change:g} from the base's, which vary by {noise:g}",
                "an adapter that changes them",
                "set vllm.dtype to float32 if the adapter is very weak; else use the engine transformers, and see the "
                "server's log",
            )


class StartedServer(Server):
    """A server of our own, started with the first weights that are asked for and again with others.

    Args:
        config: How it is started.
        tokenizer: Folder or hub id of the base model, whose tokenizer and chat template all weights use.
        folder: Where its log goes; None: a temporary folder.
    """

    def __init__(self, config: VllmConfig, tokenizer: str, folder: Path | None) -> None:
        self.port, self.tokenizer = free_port(), tokenizer
        self.installation = find_vllm(config.python)
        identity = content_key("vllm", self.installation.version, config.dtype, list(config.arguments))
        super().__init__(config, f"http://127.0.0.1:{self.port}/v1", identity)
        self.log = None if folder is None else folder / f"vllm-{os.getpid()}.log"
        self._process: ServerProcess | None = None
        self._serves: tuple[str, int] = ("", 0)
        """Name and rank that it was started with."""

    @property
    def pid(self) -> int | None:
        """The process whose end is the server's; None if none runs."""
        return None if self._process is None else self._process.pid

    def full_name(self, source: str, weights: str) -> str:
        """See `Server`."""
        return name_of(weights)

    def use(self, name: str) -> bool:
        """See `Server`."""
        return self._process is not None and self._process.alive and (name == self._serves[0] or super().use(name))

    def serve(self, source: str, weights: str, rank: int) -> str:
        """See `Server`."""
        name, most = name_of(weights), self._serves[1]
        if not (self.use(name) and name == self._serves[0] and rank <= most):
            self.close()
            self._start(source, name, _permitted(rank))
        return name

    def check(self) -> EngineError | None:
        """See `Server`."""
        if self._process is None or self._process.alive:
            return None
        return self._process.failure("the vLLM server ended")

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.stop()
        self._process, self._serves, self._probes = None, ("", 0), None
        self._adapters.clear()

    def _start(self, source: str, name: str, rank: int) -> None:
        flags = ["--model", source, "--tokenizer", self.tokenizer, "--served-model-name", name]
        flags += ["--dtype", self.config.dtype, "--generation-config", "vllm"]
        if rank:
            most = str(self.config.max_loras)
            flags += ["--enable-lora", "--max-loras", most, "--max-cpu-loras", most, "--max-lora-rank", str(rank)]
        process = ServerProcess(self.installation, [*flags, *self.config.arguments], self.port, self.log)
        environment = server_environment(Path(source).is_dir(), own=self.config.python is None)
        process.start(self.admin, environment, self.config.start_timeout)
        self._process, self._serves = process, (name, rank)
        try:
            todo = "leave --model and --served-model-name out of vllm.arguments"
            self.context = self._check_root(name, source, todo)
        except EngineError:
            self.close()
            raise


def _distance(a: list[float], b: list[float]) -> float:
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)


def _permitted(rank: int) -> int:
    """The least rank of those that vLLM can be started with that is enough."""
    if rank > _RANKS[-1]:
        raise EngineError("vLLM cannot serve the adapter", f"rank {rank}", f"at most {_RANKS[-1]}", OTHERWISE)
    return rank and next(r for r in _RANKS if r >= rank)
