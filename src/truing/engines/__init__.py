"""Engines sample answers from checkpoints. One method; concurrency and batching live inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from truing.config import Services
from truing.engines.completers import CALLS, close_completers, load_completer
from truing.names import load_object
from truing.records import Checkpoint, Prompt, Response, Sampling

__all__ = ["CALLS", "ENGINES", "Engine", "close_completers", "close_engine", "load_completer", "load_engine"]

ENGINES = {
    "transformers": "truing.engines.transformers:TransformersEngine",
    "openai": "truing.engines.openai:OpenAIEngine",
    "tinker": "truing.engines.tinker:TinkerEngine",
    "vllm": "truing.engines.vllm:VllmEngine",
}


class Engine(Protocol):
    """Samples answers from the checkpoints of one base model.

    Built as `Engine(model)`; a class that needs more has a class method `build(model, services, folder)`.

    An engine that serves several checkpoints at a time may also have a method
    `prefetch(checkpoints, prompts, sampling) -> None`: it samples the answers of all of them in one stream and keeps
    them, so that later calls of `generate` with one of the checkpoints and the same settings are answered from there. A
    checkpoint that cannot be sampled is left out, and an error of its own `generate`.

    One that keeps something open between calls, such as a server or a session, also has a method `close() -> None`,
    after which a later call opens anew.
    """

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample `sampling.samples` answers to each prompt.

        Returns:
            One response per prompt and sample, prompts in the given order, samples `first`, `first + 1`, ... within a
            prompt. A failed call is a response with `error`, never a missing element.

        Raises:
            EngineError: The checkpoint cannot be sampled at all.
        """
        ...


def load_engine(name: str, model: str, services: Services | None = None, folder: Path | None = None) -> Engine:
    """The engine of a name (a key of `ENGINES` or `module:Class`) for a base model.

    Args:
        name: Which engine.
        model: The base model.
        services: How what runs outside this process is reached.
        folder: Where the engine may keep what it needs again, such as the journal of finished calls; None: nowhere.
    """
    kind = load_object("engine", name, ENGINES)
    build = getattr(kind, "build", None)
    engine: Engine = kind(model) if build is None else build(model, services or Services(), folder)
    return engine


def close_engine(engine: Engine) -> None:
    """End what an engine keeps open, if it is one that does."""
    close = getattr(engine, "close", None)
    if close is not None:
        close()
