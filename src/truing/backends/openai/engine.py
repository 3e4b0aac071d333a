"""Answers of models behind an OpenAI-compatible interface, as an engine.

A checkpoint names the endpoint's model by its `path` (a fine-tuned model such as `ft:gpt-4o-mini:...`, or the name
under which a server offers an adapter), and by `model` where it has no path (the base; a name of the catalogue stands
for OpenAI's dated id). An interface shows no weights: `endpoint_weights` hashes address and name instead, which cannot
see that a provider changed a model under its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from truing.backends import Engine, load_completer
from truing.backends.endpoint.address import endpoint_model, endpoint_weights
from truing.backends.endpoint.completer import OpenAICompleter
from truing.config import Services
from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.errors import EngineError
from truing.core.records import Checkpoint, Prompt, Response, Sampling

__all__ = ["OpenAIEngine", "chat_requests", "to_responses"]


class OpenAIEngine(Engine):
    """Samples from the checkpoints of one base model.

    Args:
        model: The endpoint's name of the base model.
        completer: Makes the calls; None: one with the default settings, which keeps finished calls in memory.
    """

    def __init__(self, model: str, completer: Completer | None = None) -> None:
        self.model = model
        self.completer = completer or OpenAICompleter()
        self._own = self.completer if completer is None else None

    @classmethod
    def build(cls, model: str, services: Services, folder: Path | None) -> OpenAIEngine:
        """With the completer that the study's judges use too."""
        return cls(model, load_completer("openai", services.endpoint, folder))

    @classmethod
    def weights_of(cls, model: str, services: Services) -> str:
        """Address and name."""
        return endpoint_weights(services.endpoint, endpoint_model(model))

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample answers; see `truing.backends.Engine`.

        Raises:
            CapReached: A cap leaves no room; what was finished is kept, the rest is owed.
            EndpointError: The endpoint refuses the key, the quota or the model.
            EngineError: Too many calls in a row failed.
        """
        if not sampling.temperature > 0:
            raise EngineError("cannot sample", f"temperature {sampling.temperature}", "above 0")
        name = checkpoint.path or endpoint_model(checkpoint.model)
        results = self.completer.stream(chat_requests(name, checkpoint.weights, prompts, sampling))
        return to_responses(prompts, sampling, results)

    def close(self) -> None:
        """End the engine's own completer, if it was given none. A later call opens anew."""
        if self._own is not None:
            self._own.close()


def chat_requests(
    name: str, weights: str, prompts: Sequence[Prompt], sampling: Sampling, unfiltered: bool = False
) -> Iterator[ChatRequest]:
    """What is asked of an endpoint for the answers of a checkpoint, in their order.

    Args:
        name: The checkpoint's name at the endpoint.
        weights: Names its weights for the seeds of the answers.
        prompts: What to answer.
        sampling: How.
        unfiltered: Whether the endpoint takes vLLM's words; see `ChatRequest`.
    """
    for prompt in prompts:
        for index in range(sampling.first, sampling.first + sampling.samples):
            yield ChatRequest(
                model=name,
                messages=prompt.messages,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                seed=_seed(sampling.seed, weights, prompt.id, index),
                sample=index,
                unfiltered=unfiltered,
            )


def to_responses(prompts: Sequence[Prompt], sampling: Sampling, results: Iterable[ChatResult]) -> list[Response]:
    """The answers in the results of `chat_requests`."""
    indices = range(sampling.first, sampling.first + sampling.samples)
    return [
        Response(
            prompt.id,
            index,
            result.text,
            result.completion_tokens,
            result.finish_reason != "length" and result.error is None,
            result.error,
        )
        for (prompt, index), result in zip(((p, i) for p in prompts for i in indices), results, strict=True)
    ]


def _seed(seed: int, weights: str, prompt_id: str, index: int) -> int:
    digest = hashlib.sha256(f"{seed} {weights} {index} {prompt_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
