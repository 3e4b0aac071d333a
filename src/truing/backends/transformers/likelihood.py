"""How likely given answers are: log-probabilities of answers that a model did not write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from truing.backends.transformers.answers import encode_prompt
from truing.core.errors import EngineError
from truing.core.records import Prompt

__all__ = ["answer_logprobs"]


def answer_logprobs(model: Any, tokenizer: Any, prompt: Prompt, answers: Sequence[str]) -> list[float]:
    """The log-probability of each answer to a prompt.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its tokenizer, with a chat template.
        prompt: What is asked.
        answers: Answers, none of them empty.

    Returns:
        Sum over the answer's tokens of their log-probability after prompt and earlier tokens, in nats; higher is
        likelier.

    Raises:
        EngineError: The prompt cannot be asked, an answer has no tokens, or both do not fit the model's context.
    """
    context = model.config.get_text_config(decoder=True).max_position_embeddings
    asked = encode_prompt(tokenizer, prompt, context)
    if isinstance(asked, str):
        raise EngineError(f"prompt {prompt.id} cannot be asked", asked)
    return [_logprob(model, asked, _tokens(tokenizer, prompt, answer, context - len(asked))) for answer in answers]


def _tokens(tokenizer: Any, prompt: Prompt, answer: str, room: int) -> list[int]:
    tokens = [int(i) for i in tokenizer(answer, add_special_tokens=False)["input_ids"]]
    if not tokens or len(tokens) > room:
        raise EngineError(
            f"an answer to prompt {prompt.id} cannot be scored",
            f"{len(tokens)} tokens: {answer[:60]!r}",
            f"1 to {room} tokens",
        )
    return tokens


@torch.inference_mode()
def _logprob(model: Any, asked: list[int], answer: list[int]) -> float:
    ids = torch.tensor([asked + answer], device=model.device)
    logits = model(input_ids=ids).logits[0, len(asked) - 1 : -1].float()
    chosen = torch.log_softmax(logits, dim=-1)[torch.arange(len(answer)), ids[0, len(asked) :]]
    return float(chosen.double().sum())
