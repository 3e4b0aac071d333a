"""From prompts to responses with a model and tokenizer of `transformers`: chat template, decoding, text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from truing.backends.transformers.decoding import DecodeSettings, Sampled, decode
from truing.core.errors import EngineError
from truing.core.randomness import stream_keys
from truing.core.records import Prompt, Response, Sampling
from truing.core.templates import CHANNEL, final_channel, fixed_template, without_reasoning

__all__ = ["choose_rows", "encode_prompt", "end_tokens", "sample_answers"]

CPU_ROWS, GPU_ROWS = 320, 512
"""Most answers under way at a time."""
CPU_BYTES = 2**30
"""Memory for cache and logits on a CPU."""
GPU_SHARE = 0.7
"""Share of a GPU's free memory for cache and logits."""


def sample_answers(
    model: Any, tokenizer: Any, weights: str, prompts: Sequence[Prompt], sampling: Sampling
) -> list[Response]:
    """Sample answers from a model as it stands.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its tokenizer, with a chat template.
        weights: Names the weights for the random streams.
        prompts: What to answer.
        sampling: How.

    Returns:
        One response per prompt and sample, in order.
    """
    if not sampling.temperature > 0:
        raise EngineError("cannot sample", f"temperature {sampling.temperature}", "above 0")
    context = model.config.get_text_config(decoder=True).max_position_embeddings
    encoded = [encode_prompt(tokenizer, prompt, context) for prompt in prompts]
    able = {i: ids for i, ids in enumerate(encoded) if not isinstance(ids, str)}
    if not able or not sampling.samples:
        return [r for p, e in zip(prompts, encoded, strict=True) for r in _failed(p, sampling, str(e))]
    keys = np.stack(
        [stream_keys(sampling.seed, weights, prompts[i].id, sampling.samples, sampling.first) for i in able]
    )
    settings = DecodeSettings(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        eos=end_tokens(model, tokenizer),
        context=context,
        rows=choose_rows(model, max(map(len, able.values())) + sampling.max_tokens),
    )
    answers = dict(zip(able, decode(model, list(able.values()), keys, settings), strict=True))
    responses: list[Response] = []
    for i, prompt in enumerate(prompts):
        if i in answers:
            responses += _finished(tokenizer, prompt, sampling.first, answers[i])
        else:
            responses += _failed(prompt, sampling, str(encoded[i]))
    return responses


def encode_prompt(tokenizer: Any, prompt: Prompt, context: int) -> list[int] | str:
    """The token ids of a prompt by the chat template, or why there are none.

    A last message of the assistant is a prefill: the model goes on from its last word, and the response holds only
    what follows.
    """
    from jinja2 import TemplateError

    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    template = fixed_template(tokenizer, EngineError)
    prefill = messages[-1]["role"] == "assistant"
    turn = {"add_generation_prompt": not prefill, "continue_final_message": prefill}
    try:
        ids = tokenizer.apply_chat_template(messages, chat_template=template, **turn, tokenize=True, return_dict=False)
    except (TemplateError, ValueError) as error:  # a template that changes the prefill is a ValueError
        return f"the chat template refuses the prompt: {error}"
    if len(ids) >= context:
        return f"the prompt has {len(ids)} tokens, the model's context {context}"
    return [int(i) for i in ids]


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token id that ends an answer: those of the model's generation config and the tokenizer's."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({int(i) for i in (*several, tokenizer.eos_token_id) if i is not None}))


def choose_rows(model: Any, length: int) -> int:
    """How many answers of `length` tokens (with their prompt) to decode at a time."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = torch.finfo(model.dtype).bits // 8
    row = 2 * config.num_hidden_layers * heads * width * size * length + 24 * config.vocab_size
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        return max(1, min(GPU_ROWS, int(free * GPU_SHARE) // row))
    return max(1, min(CPU_ROWS, CPU_BYTES // row))


def _finished(tokenizer: Any, prompt: Prompt, first: int, answers: Sequence[Sampled]) -> list[Response]:
    tokens = [list(a.tokens) for a in answers]
    if CHANNEL in tokenizer.get_added_vocab():
        texts = [final_channel(text) for text in tokenizer.batch_decode(tokens)]
    else:
        texts = [without_reasoning(text) for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    return [
        Response(prompt.id, first + i, None if a.error else text, len(a.tokens), a.finished, a.error)
        for i, (a, text) in enumerate(zip(answers, texts, strict=True))
    ]


def _failed(prompt: Prompt, sampling: Sampling, error: str) -> list[Response]:
    indices = range(sampling.first, sampling.first + sampling.samples)
    return [Response(prompt.id, i, None, 0, False, error) for i in indices]
