"""Answers of a checkpoint that a server offers under a name: what is asked for them, and what the results say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from truing.core.answers import is_finished
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import EngineError
from truing.core.records import Prompt, Response, Sampling


def chat_requests(
    name: str, weights: str, prompts: Sequence[Prompt], sampling: Sampling, unfiltered: bool = False
) -> Iterator[ChatRequest]:
    """The requests for the answers of a checkpoint, in their order.

    `name` is the checkpoint's at the endpoint, `weights` names its weights for the seeds of the answers; `unfiltered`:
    the endpoint takes vLLM's words, see `ChatRequest`.

    Raises:
        EngineError: A temperature that is not above 0.
    """
    if not sampling.temperature > 0:
        raise EngineError("cannot sample", f"temperature {sampling.temperature}", "above 0")
    for prompt in prompts:
        for index in sampling.indices:
            digest = hashlib.sha256(f"{sampling.seed} {weights} {index} {prompt.id}".encode()).digest()
            yield ChatRequest(
                model=name,
                messages=prompt.messages,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                seed=int.from_bytes(digest[:4], "big") >> 1,
                sample=index,
                unfiltered=unfiltered,
            )


def to_responses(prompts: Sequence[Prompt], sampling: Sampling, results: Iterable[ChatResult]) -> list[Response]:
    """The answers in the results of `chat_requests`."""
    return [
        Response(
            prompt.id,
            index,
            result.text,
            result.completion_tokens,
            result.error is None and is_finished(result.finish_reason),
            result.error,
            result.refused,
        )
        for (prompt, index), result in zip(((p, i) for p in prompts for i in sampling.indices), results, strict=True)
    ]
