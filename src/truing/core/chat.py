"""What is asked of a chat model behind an interface, and what comes back.

A `Completer` answers requests; judges and engines use one without knowing whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from truing.core.records import Message

__all__ = ["ChatRequest", "ChatResult", "Completer"]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a chat model."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int = 1
    temperature: float = 0.0
    top_logprobs: int = 0
    """How many of the likeliest first tokens to report, 0 to 20."""
    seed: int | None = None
    sample: int = 0
    """Not sent: two requests that differ in it alone are two calls; equal requests are one call."""
    unfiltered: bool = False
    """Say in vLLM's words that nothing is cut from the model's own distribution: a server may otherwise take `top_p`,
    `top_k`, `min_p` and a penalty on repetition from the model's files."""


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


class Completer(Protocol):
    """Answers chat requests.

    One whose models are known only by a name at some address may have a text `place`, the address: it becomes part of
    the identity of a judge that it reaches.
    """

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatResult]:
        """One result per request, in order. A failed call is a result with `error`.

        Raises:
            WorkError: The calls cannot go on at all, or a cap is reached; what was finished is kept.
        """
        ...

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """As `complete`, for more requests than fit in memory: they are drawn as they are needed."""
        ...
