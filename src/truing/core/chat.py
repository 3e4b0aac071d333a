"""Requests to a chat model behind an interface, and their results.

A `Completer` answers requests; judges and engines use one without knowing whose it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from truing.core.records import Message

INTEGERS: Mapping[str, float] = {str(i): float(i) for i in range(101)}
"""The usual scale of judges: answer -> worth."""
TOP_TOKENS = 20
"""The number of likeliest first tokens that judges look at."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a chat model."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int = 1
    temperature: float = 0.0
    top_logprobs: int = 0
    """The number of likeliest first tokens to report, 0 to 20."""
    seed: int | None = None
    sample: int = 0
    """Not sent: two requests that differ in it alone are two calls; equal requests are one call."""
    unfiltered: bool = False
    """Say in vLLM's words that nothing is cut from the model's own distribution: a server may otherwise take `top_p`,
    `top_k`, `min_p` and a penalty on repetition from the model's files."""

    @property
    def prefilled(self) -> bool:
        """Whether the answer begins with a last message of the assistant, from which it goes on."""
        return bool(self.messages) and self.messages[-1].role == "assistant"


@dataclass(frozen=True, slots=True)
class ChatResult:
    """One answer. `text` is None exactly when `error` says why."""

    text: str | None
    top_logprobs: Mapping[str, float] | None = None
    """Likeliest first tokens and their log-probabilities; None when not asked for, or the endpoint gives none."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    refused: bool = False
    """The text is a refusal in a field of its own."""


class Completer(ABC):
    """Answers chat requests. A class of the user's needs `stream` only, and is built without arguments."""

    place: str = ""
    """The address at which models are known by their names, if they are; part of the identity of a judge."""
    together = False
    """True if the last digits of a result depend on what else is asked with it: a piece of work is then never split."""

    @classmethod
    def build(cls, endpoint: Any, journal: Path | None) -> Self:
        """Make a completer.

        Args:
            endpoint: A `truing.config.EndpointConfig`: where an endpoint is, how it is called, what it may cost.
            journal: The file of finished calls; None keeps them in memory.
        """
        return cls()

    def identify(self, model: str) -> str:
        """Name a model in the identity of a judge: with its place, or with the hash of its weights.

        Raises:
            UserError: The model cannot be found.
        """
        return f"{model} at {self.place}" if self.place else model

    @abstractmethod
    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order; requests are drawn as they are needed. A failed call has an `error`.

        Raises:
            WorkError: The calls cannot go on at all, or a cap is reached; what was finished is kept.
        """

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatResult]:
        """As `stream`, all at once."""
        return list(self.stream(requests))

    def close(self) -> None:  # noqa: B027 - optional
        """Let go of what is held outside this process. A later call opens it again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
