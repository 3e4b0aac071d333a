"""Sampling with `transformers` in this process: from a base model, a checkpoint of it, or a live model.

The base model is loaded once and never written to. A small model gets a copy per checkpoint with the adapter
merged in (faster to sample from, and the base's bits cannot drift); a big one gets the adapter's layers put
on and taken off again. Weights are read from safetensors only and no code of a model is run.

Invariant: what was loaded is what was asked for. The hash of base and adapter is compared with the
checkpoint's, every tensor of an adapter's file with what the model holds after loading, and full weights may
lack nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from truing.backends import Engine
from truing.backends.transformers.answers import answer_logprobs, sample_answers
from truing.catalog.models import resolve_model
from truing.core.adapters import attached, is_small, load_model, merged_copy, snapshot, without_global_rng
from truing.core.records import Checkpoint, Prompt, Response, Sampling
from truing.core.templates import asked_as, load_tokenizer, own_format
from truing.core.weights import check_weights, checkpoint_hash, hash_or_fail, model_hash


class TransformersEngine(Engine):
    """Samples from the checkpoints of one base model, named as `truing.catalog.models.resolve_model` takes it."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._source = resolve_model(model)
        self._base: Any = None
        self._base_hash = ""
        self._tokenizer: Any = None
        self._own: tuple[str, Any] | None = None
        self._last: tuple[str, Any] | None = None

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample answers; see `truing.backends.Engine`."""
        self._load_base()
        with self._model_of(checkpoint) as model:
            return sample_answers(model, self._tokenizer_of(checkpoint), self._stream_of(checkpoint), prompts, sampling)

    def _stream_of(self, checkpoint: Checkpoint) -> str:
        """Names the random streams: by the weights alone, so a format that the base has too gives the same answers."""
        if checkpoint.path is None or not own_format(folder := Path(checkpoint.path), self._source):
            return checkpoint.weights
        return checkpoint_hash(self._base_hash, folder)

    def score(self, checkpoint: Checkpoint, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        """The log-probability of each answer, in nats; see `answer_logprobs`."""
        self._load_base()
        with self._model_of(checkpoint) as model:
            return answer_logprobs(model, self._tokenizer_of(checkpoint), prompt, answers)

    def _tokenizer_of(self, checkpoint: Checkpoint) -> Any:
        """The checkpoint's own tokenizer and chat template if they are not the base's, else the base's."""
        if checkpoint.path is None or not own_format(Path(checkpoint.path), self._source):
            return self._tokenizer
        if self._own is None or self._own[0] != checkpoint.path:
            self._own = (checkpoint.path, load_tokenizer(checkpoint.path))
        return self._own[1]

    def _load_base(self) -> None:
        if self._base is None:
            self._base_hash = hash_or_fail(lambda: model_hash(self._source))
            base = load_model(self._source)
            self._tokenizer = load_tokenizer(self._source)
            self._base = base

    @contextmanager
    def _model_of(self, checkpoint: Checkpoint) -> Iterator[Any]:
        """The model with the weights of a checkpoint, checked to be those."""
        if checkpoint.path is None:
            check_weights(checkpoint, self._base_hash)
            yield self._base
            return
        if self._last is None or self._last[0] != checkpoint.weights:
            folder, self._last = Path(checkpoint.path), None
            found = hash_or_fail(lambda: asked_as(checkpoint_hash(self._base_hash, folder), folder, self._source))
            check_weights(checkpoint, found)
            model = self._copy_with(folder)
            if model is None:
                base, self._base = self._base, None  # loaded again if the adapter cannot be taken off again
                with attached(base, folder) as model:
                    yield model
                self._base = base
                return
            self._last = (checkpoint.weights, model)
        yield self._last[1]

    def _copy_with(self, folder: Path) -> Any:
        """A model of its own with the weights of a folder; None where an adapter is better put on the base."""
        if not (folder / "adapter_config.json").is_file():
            return load_model(str(folder))
        return merged_copy(self._base, folder) if is_small(self._base) else None


class LiveEngine(Engine):
    """Samples from a model in training and leaves no trace on it.

    It is a causal language model of `transformers`, with or without PEFT layers; its tokenizer has a chat template. A
    small model is copied and its adapter merged into the copy; a big one is sampled from as it is, in eval mode.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any) -> None:
        self._model: Any = model
        self._tokenizer = tokenizer

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample from the weights as they are now, which the checkpoint only names; see `truing.backends.Engine`."""
        with _untouched(self._model):
            copied = snapshot(self._model) if is_small(self._model) else None
            model = self._model if copied is None else copied
            return sample_answers(model, self._tokenizer, checkpoint.weights, prompts, sampling)


@contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """Eval mode inside; afterwards modes, the attention setting and torch's random state are as before."""
    modes = [(module, module.training) for module in model.modules()]
    config = model.config.get_text_config(decoder=True)
    attention = config._attn_implementation
    try:
        with without_global_rng():
            model.eval()
            if attention not in ("sdpa", "eager"):
                config._attn_implementation = "eager"  # the others do not take masks made by us
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        if config._attn_implementation != attention:
            config._attn_implementation = attention
