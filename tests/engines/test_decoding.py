"""The decoding loop draws from the model's own distribution, whatever shares the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine_models import TARGETS, add_adapter, distribution_functions, encode, make_prompts, tiny_model
from truing.engines.decoding import DecodeSettings, Sampled, decode, draw_tokens
from truing.engines.randomness import stream_keys, uniforms
from truing.errors import EngineError

END = 3


def keys_for(prompts: int, samples: int, seed: int = 0) -> Any:
    return np.stack([stream_keys(seed, "weights", f"p{i}", samples) for i in range(prompts)])


def settings(**changes: Any) -> DecodeSettings:
    values = {"temperature": 1.0, "max_tokens": 24, "eos": (END,), "context": 256, "rows": 16} | changes
    return DecodeSettings(**values)


def assert_replays(model: Any, ids: list[list[int]], answers: list[list[Sampled]], temperature: float = 1.0) -> None:
    """Every token is where its own random number falls in the distribution of a plain forward."""
    keys = keys_for(len(ids), len(answers[0]))
    for i, prompt in enumerate(ids):
        for j, answer in enumerate(answers[i]):
            tokens = [*answer.tokens, END] if answer.finished else list(answer.tokens)
            functions = distribution_functions(model, prompt, tokens, temperature)
            steps = np.arange(len(tokens), dtype=np.uint64)
            numbers = uniforms(np.repeat(keys[i, j : j + 1], len(tokens), 0), steps)
            places = np.arange(len(tokens))
            high = functions[places, tokens]
            low = np.where(np.array(tokens) > 0, functions[places, np.array(tokens) - 1], 0.0)
            assert (low - 1e-4 <= numbers).all()
            assert (numbers <= high + 1e-4).all()


@pytest.mark.parametrize("architecture", TARGETS)
def test_tokens_are_drawn_from_the_distribution_of_a_plain_forward(architecture: str) -> None:
    model, ids = tiny_model(architecture), encode(make_prompts(12))
    # make ends likely, so that rows finish at different times and others move and join
    eos = tuple(range(3, 40))
    answers = decode(model, ids, keys_for(12, 3), settings(eos=eos, rows=7, refill=0.3))
    plain = decode(model, ids, keys_for(12, 3), settings(eos=()))
    assert len({len(a.tokens) for each in answers for a in each}) > 5
    assert len({len(i) for i in ids}) > 3
    for each, full in zip(answers, plain, strict=True):
        for a, b in zip(each, full, strict=True):
            assert a.tokens == b.tokens[: len(a.tokens)]
    assert_replays(model, ids, plain)


