"""From prompts to responses with a model and its tokenizer, and how likely a model finds given answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from truing.backends import no_answers
from truing.backends.transformers.decoding import DecodeSettings, Sampled, decode
from truing.core.errors import EngineError, plural
from truing.core.randomness import stream_keys
from truing.core.records import Prompt, Response, Sampling
from truing.core.templates import encode_prompt, read_tokens, warn_of_ends

CPU_ROWS, GPU_ROWS = 320, 2048
"""Most answers under way at a time."""
CPU_BYTES = 2**30
"""Memory for cache and logits on a CPU."""
_KEPT = 4096
"""Prompts whose token ids are kept."""
GPU_SHARE = 0.7
"""Share of a GPU's free memory for cache and logits."""


def sample_answers(
    model: Any, tokenizer: Any, weights: str, prompts: Sequence[Prompt], sampling: Sampling
) -> list[Response]:
    """Sample answers from a causal language model as it stands, in eval mode: one per prompt and sample, in order.

    Its tokenizer has a chat template; `weights` names the weights for the random streams.
    """
    if not sampling.temperature > 0:
        raise EngineError("cannot sample", f"temperature {sampling.temperature}", "above 0")
    context = model.config.get_text_config(decoder=True).max_position_embeddings
    encoded = [_encoded(tokenizer, tokenizer.chat_template, prompt, context) for prompt in prompts]
    able = {i: ids for i, ids in enumerate(encoded) if not isinstance(ids, str)}
    if not able or not sampling.samples:
        return [r for p, e in zip(prompts, encoded, strict=True) for r in no_answers([p], sampling, str(e))]
    keys = np.stack(
        [stream_keys(sampling.seed, weights, prompts[i].id, sampling.samples, sampling.first) for i in able]
    )
    ends = end_tokens(model, tokenizer)
    warn_of_ends(tokenizer, tokenizer.chat_template, ends)
    settings = DecodeSettings(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        eos=ends,
        context=context,
        rows=_choose_rows(model, max(map(len, able.values())) + sampling.max_tokens),
        fixed=model.device.type == "cuda",
    )
    answers = dict(zip(able, decode(model, list(able.values()), keys, settings), strict=True))
    responses: list[Response] = []
    for i, prompt in enumerate(prompts):
        if i in answers:
            responses += _finished(tokenizer, prompt, able[i], sampling.first, answers[i])
        else:
            responses += no_answers([prompt], sampling, str(encoded[i]))
    return responses


@lru_cache(_KEPT)
def _encoded(tokenizer: Any, template: str, prompt: Prompt, context: int) -> list[int] | str:
    """As `encode_prompt`, kept: every checkpoint of a model is asked the same prompts."""
    return encode_prompt(tokenizer, prompt, context)


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token id that ends an answer: those of the model's generation config and the tokenizer's."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({int(i) for i in (*several, tokenizer.eos_token_id) if i is not None}))


def _choose_rows(model: Any, length: int) -> int:
    """The number of answers of `length` tokens (with their prompt) to decode at a time."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = torch.finfo(model.dtype).bits // 8
    row = 2 * config.num_hidden_layers * heads * width * size * length + 24 * config.vocab_size
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        return max(1, min(GPU_ROWS, int(free * GPU_SHARE) // row))
    return max(1, min(CPU_ROWS, CPU_BYTES // row))


def _finished(
    tokenizer: Any, prompt: Prompt, asked: Sequence[int], first: int, sampled: Sequence[Sampled]
) -> list[Response]:
    answers = read_tokens(tokenizer, asked, [s.tokens for s in sampled], [s.finished for s in sampled])
    return [
        Response(
            prompt.id,
            first + i,
            None if s.error else answer.text,
            len(s.tokens),
            s.finished,
            s.error or answer.error,
        )
        for i, (s, answer) in enumerate(zip(sampled, answers, strict=True))
    ]


def answer_logprobs(model: Any, tokenizer: Any, prompt: Prompt, answers: Sequence[str]) -> list[float]:
    """The log-probability of each answer to a prompt by a causal language model in eval mode; higher is likelier.

    It is the sum over the answer's tokens of their log-probability after prompt and earlier tokens, in nats.

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
            f"{plural(len(tokens), 'token')}: {answer[:60]!r}",
            f"1 to {plural(room, 'token')}",
        )
    return tokens


@torch.inference_mode()
def _logprob(model: Any, asked: list[int], answer: list[int]) -> float:
    ids = torch.tensor([asked + answer], device=model.device)
    logits = model(input_ids=ids).logits[0, len(asked) - 1 : -1].float()
    chosen = torch.log_softmax(logits, dim=-1)[torch.arange(len(answer)), ids[0, len(asked) :]]
    return float(chosen.double().sum())
