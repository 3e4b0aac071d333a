"""Answers of models behind an OpenAI-compatible interface, as an engine.

A checkpoint names the endpoint's model by its `path` (a fine-tuned model such as `ft:gpt-4o-mini:...`, or the name
under which a server offers an adapter), and by `model` where it has no path (the base; a name of the catalogue stands
for OpenAI's dated id). An interface shows no weights: `endpoint_weights` hashes address and name instead, which cannot
see that a provider changed a model under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from truing.backends import Engine, load_completer
from truing.backends.endpoint.address import endpoint_model, endpoint_weights
from truing.backends.endpoint.answers import chat_requests, to_responses
from truing.backends.endpoint.completer import OpenAICompleter
from truing.config import Services
from truing.core.chat import Completer
from truing.core.progress import counted
from truing.core.records import Checkpoint, Prompt, Response, Sampling


class OpenAIEngine(Engine):
    """Samples from the checkpoints of one base model.

    Args:
        model: The endpoint's name of the base model.
        completer: Makes the calls; None: one with the default settings, which keeps finished calls in memory.
    """

    def __init__(self, model: str, completer: Completer | None = None) -> None:
        self.model, self._own = model, completer is None
        self.completer = completer or OpenAICompleter()

    @classmethod
    def build(cls, model: str, services: Services, folder: Path | None) -> OpenAIEngine:
        """Make an engine with the completer that the study's judges use too."""
        return cls(model, load_completer("openai", services.endpoint, folder))

    @classmethod
    def weights_of(cls, model: str, services: Services) -> str:
        """Name the weights of a model by address and name."""
        return endpoint_weights(services.endpoint, endpoint_model(model))

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample answers; see `truing.backends.Engine`.

        Raises:
            CapReached: A cap leaves no room; what was finished is kept, the rest is owed.
            EndpointError: The endpoint refuses the key, the quota or the model.
            EngineError: Too many calls in a row failed.
        """
        name = checkpoint.path or endpoint_model(checkpoint.model)
        results = self.completer.stream(chat_requests(name, checkpoint.weights, prompts, sampling))
        return to_responses(prompts, sampling, counted("sample", len(prompts) * sampling.samples, results))

    def close(self) -> None:
        """Close the completer, if the engine was given none. A later call opens it again."""
        if self._own:
            self.completer.close()
