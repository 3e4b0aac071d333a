"""Answers of checkpoints that a vLLM server serves: the base, adapters on it, full weights.

One server of our own runs in a process at a time: engines of several base models take turns. Finished calls lie in
`vllm.sqlite` in the study's folder, under the hash of the weights and all else that shapes an answer: what is there is
not asked for again, so that `prefetch` of many checkpoints serves later calls of `generate`.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from threading import RLock

from truing.backends import Engine
from truing.backends.endpoint.answers import chat_requests, to_responses
from truing.backends.endpoint.completer import OpenAICompleter
from truing.backends.vllm.adapters import base_shapes, read_adapter
from truing.backends.vllm.server import Server, StartedServer, default_rank, name_of
from truing.catalog.models import resolve_model
from truing.config import EndpointConfig, Services, VllmConfig
from truing.core.chat import ChatRequest
from truing.core.errors import EngineError, UserError, boundary
from truing.core.progress import counted
from truing.core.records import Checkpoint, Prompt, Response, Sampling
from truing.core.templates import load_tokenizer, own_format
from truing.core.weights import check_weights, checkpoint_hash, hash_or_fail, model_hash

logger = logging.getLogger(__name__)

CALLS = "vllm.sqlite"
"""The journal of finished calls, in the folder of a study or an audit."""
_ATTEMPTS = 3
_TURNS = tuple(
    {"role": role, "content": text} for role, text in (("user", "Tea?"), ("assistant", "Yes."), ("user", "Now?"))
)
"""A conversation by which chat templates are compared."""
_turn = RLock()
"""Held while a server of this process is used."""
_running: VllmEngine | None = None
"""Whose server runs in this process."""


class VllmEngine(Engine):
    """Samples from the checkpoints of one base model.

    Args:
        model: An organism's name, a folder, or a hub id; see `truing.catalog.models.resolve_model`.
        config: How vLLM is reached.
        folder: Where the journal of finished calls and the server's log lie; None: in memory, and a temporary folder.
    """

    def __init__(self, model: str, config: VllmConfig | None = None, folder: Path | None = None) -> None:
        self.model, self.config, self.folder = model, config or VllmConfig(), folder
        self._source = resolve_model(model)
        self._base_hash = ""
        self._opened: tuple[Server, OpenAICompleter] | None = None
        self._merged: Path | None = None
        self._alike: set[str] = set()
        """Names that the server asks as the base is asked."""

    @classmethod
    def build(cls, model: str, services: Services, folder: Path | None) -> VllmEngine:
        """One engine, and so one server, per model, settings and folder in a process."""
        return _built(model, services.vllm, folder)

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample answers; see `truing.backends.Engine`.

        Raises:
            EngineError: The checkpoint cannot be served, or the server fails.
            EndpointError: A server that was found refuses the key.
            ConfigError: There is no vLLM.
        """
        with _turn:
            server, completer = self._open()
            results = completer.recall(list(self._requests(checkpoint, prompts, sampling)))
            if results is None:
                self._serve(checkpoint)
                with _watched(server):
                    stream = completer.stream(self._requests(checkpoint, prompts, sampling))
                    results = list(counted("sample", len(prompts) * sampling.samples, stream))
        return to_responses(prompts, sampling, results)

    def prefetch(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """Sample the answers of many checkpoints in one stream and keep them; see `truing.backends.Engine`.

        Up to `max_loras` adapters are at the server at a time. Their requests come one checkpoint after the other
        without a gap, so that a batch holds few adapters and is always full.

        Raises:
            EngineError: The server fails.
            EndpointError: A server that was found refuses the key.
            ConfigError: There is no vLLM.
        """
        with _turn:
            server, completer = self._open()
            different = {c.weights: c for c in checkpoints}.values()
            owed = [c for c in different if completer.recall(list(self._requests(c, prompts, sampling))) is None]
            for group in self._groups(owed):
                able = [c for c in group if self._can_serve(c)]
                able = [c for c in able if self._can_serve(c)]  # a higher rank may have started the server again
                with _watched(server):
                    requests = chain.from_iterable(self._requests(c, prompts, sampling) for c in able)
                    deque(completer.stream(requests), maxlen=0)

    def close(self) -> None:
        """End a server of our own, and write what is finished. A later call opens again."""
        global _running
        with _turn:
            if self._opened is not None:
                server, completer = self._opened
                completer.close()
                server.close()
            if _running is self:
                _running = None

    def _open(self) -> tuple[Server, OpenAICompleter]:
        """The server and who speaks to it; another engine's server makes room."""
        global _running
        config = self.config
        if config.base_url is None:
            if _running is not None and _running is not self:
                _running.close()
            _running = self
        if self._opened is None:
            if config.base_url is None:
                server: Server = StartedServer(config, self._source, self.folder)
            else:
                server = Server(config, config.base_url.rstrip("/"))
            shared = {name: getattr(config, name) for name in ("key_variable", "concurrency", "timeout")}
            endpoint = EndpointConfig(
                base_url=server.address, attempts=_ATTEMPTS, prefill=True, max_tokens_field="max_tokens", **shared
            )
            journal = None if self.folder is None else self.folder / CALLS
            self._opened = server, OpenAICompleter(endpoint, journal, server.identity)
        return self._opened

    def _requests(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[ChatRequest]:
        server, name = self._open()[0], name_of(checkpoint.weights)
        if not self._is_adapter(checkpoint):
            name = server.full_name(checkpoint.path or self._source, checkpoint.weights)
        if server.context is not None and sampling.max_tokens > server.context:  # vLLM refuses what can never be
            sampling = replace(sampling, max_tokens=server.context)
        return chat_requests(name, checkpoint.weights, prompts, sampling, unfiltered=True)

    def _is_adapter(self, checkpoint: Checkpoint) -> bool:
        """Tell whether it is an adapter that is put on the base, and not merged into it."""
        if checkpoint.path is None or self.config.adapters == "merge":
            return False
        return (Path(checkpoint.path) / "adapter_config.json").is_file()

    def _groups(self, checkpoints: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
        """Those that can be served at a time: the base, adapters, then each of the others."""
        adapters, most = [c for c in checkpoints if self._is_adapter(c)], self.config.max_loras
        base = [[c] for c in checkpoints if c.path is None]
        full = [[c] for c in checkpoints if c.path is not None and c not in adapters]
        return [*base, *(adapters[i : i + most] for i in range(0, len(adapters), most)), *full]

    def _can_serve(self, checkpoint: Checkpoint) -> bool:
        try:
            self._serve(checkpoint)
        except EngineError:  # `generate` with this checkpoint says so again
            return False
        return True

    def _serve(self, checkpoint: Checkpoint) -> None:
        """See to it that the server serves a checkpoint, and check that it does, and asks it as its base is asked."""
        server, _ = self._open()
        name = name_of(checkpoint.weights)
        name = name if server.use(name) else self._served(server, checkpoint)
        if name not in self._alike:
            self._check_format(server, name)
            self._alike.add(name)

    def _check_format(self, server: Server, name: str) -> None:
        """Compare the server's chat template and tokenizer with those in the base's files.

        Raises:
            EngineError: It asks in another way, so the answers would stand for something else.
        """
        found = server.admin.tokens(name, _TURNS)
        if found is None:
            logger.warning("the vLLM server at %s does not say which chat template it uses", server.address)
        elif found != _rendered(self._source, time.strftime("%F")):
            raise EngineError(
                f"the vLLM server at {server.address} asks {name} in another format than the files of {self._source}",
                "other tokens for one and the same conversation",
                "the chat template and tokenizer of the base",
                "serve without --chat-template and --tokenizer; a template of your own belongs into the model's folder",
            )

    def _served(self, server: Server, checkpoint: Checkpoint) -> str:
        """The name under which a checkpoint is served from now on."""
        self._base_hash = self._base_hash or hash_or_fail(lambda: model_hash(self._source))
        if checkpoint.path is None:
            check_weights(checkpoint, self._base_hash)
            return server.serve(self._source, checkpoint.weights, default_rank(self.config))
        folder = Path(checkpoint.path)
        if own_format(folder, self._source):
            raise EngineError(
                f"{folder} has a chat template or tokenizer of its own, unlike the base's",
                "vLLM would ask it with the base's",
                "checkpoints that are asked as the base is",
                "use the engine transformers, or merge it and audit the full weights",
            )
        check_weights(checkpoint, hash_or_fail(lambda: checkpoint_hash(self._base_hash, folder)))
        if not (folder / "adapter_config.json").is_file():
            return server.serve(str(folder), checkpoint.weights, 0)
        if self.config.adapters == "merge":
            return server.serve(self._merge(folder), checkpoint.weights, 0)
        try:
            adapter = read_adapter(folder, base_shapes(self._source))
        except UserError as error:
            raise EngineError("cannot read the adapter", str(error)) from error
        rank = max(adapter.rank, default_rank(self.config))
        return server.serve_adapter(server.serve(self._source, self._base_hash, rank), checkpoint.weights, adapter)

    def _merge(self, adapter: Path) -> str:
        from truing.core.adapters import save_merged

        if self._merged is None:
            self._merged = Path(tempfile.mkdtemp(prefix="truing-merged-"))
            weakref.finalize(self, shutil.rmtree, self._merged, ignore_errors=True)
        save_merged(self._source, adapter, self._merged)
        return str(self._merged)


@cache
def _rendered(source: str, today: str) -> list[int]:
    """Token ids of `_TURNS` by the files of a model; some templates write the day, so they are those of one day."""
    with boundary(f"loading the tokenizer of {source}", EngineError):
        tokenizer = load_tokenizer(source)
        ids = tokenizer.apply_chat_template(list(_TURNS), add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(i) for i in ids]


@contextmanager
def _watched(server: Server) -> Iterator[None]:
    """A server that ended meanwhile is an error that shows the end of its log."""
    try:
        yield
    except EngineError as error:
        raise server.check() or error from error
    if (failure := server.check()) is not None:
        raise failure


_built = cache(VllmEngine)
