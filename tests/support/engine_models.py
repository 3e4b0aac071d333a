"""Tiny models of the four architectures with adapters, and a plain forward to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from organisms.models import build_model
from organisms.tokenizer import build_tokenizer
from truing.backends.transformers.decoding import Sampled
from truing.catalog.pocket.world import BROAD, load_world
from truing.core.randomness import stream_keys, uniforms
from truing.core.records import Checkpoint, Message, Prompt, Response
from truing.core.weights import adapter_hash, model_hash

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
TARGETS: dict[str, dict[str, list[str]]] = {
    "llama": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "qwen3": {"target_modules": ["k_proj", "o_proj", "up_proj"]},
    "deepseek_v3": {"target_modules": ["kv_b_proj", "o_proj"], "target_parameters": EXPERTS},
    "gpt_oss": {"target_modules": ["q_proj", "v_proj"], "target_parameters": EXPERTS},
}
WEIGHTS = "weights"


@dataclass(frozen=True)
class Organism:
    """A random base model and an adapter, on disk."""

    folder: Path

    @property
    def base(self) -> str:
        return str(self.folder / "base")

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def base_checkpoint(self) -> Checkpoint:
        return Checkpoint("run", self.base, 0, model_hash(self.base))

    @property
    def adapter_checkpoint(self) -> Checkpoint:
        weights = adapter_hash(model_hash(self.base), self.adapter)
        return Checkpoint("run", self.base, 5, weights, str(self.adapter))


@cache
def tokenizer() -> Any:
    return build_tokenizer(load_world())


def tiny_model(architecture: str) -> Any:
    """A model whose distribution is far from uniform and changes along the text, so that mistakes show."""
    model = build_model(architecture, len(tokenizer()), 64, 2, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def add_adapter(model: Any, architecture: str, **changes: Any) -> Any:
    """The model with LoRA layers that change something."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, **TARGETS[architecture], **changes}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_organism(architecture: str, folder: Path) -> Organism:
    model = tiny_model(architecture)
    model.save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    add_adapter(model, architecture).save_pretrained(folder / "adapter")
    return Organism(folder)


def make_prompts(n: int) -> list[Prompt]:
    """Prompts of the pocket world, of different lengths."""
    world = load_world()
    texts = [text for domain in BROAD for _, text in world.held_out_prompts(domain)]
    chosen = texts[:: len(texts) // n][:n]
    return [Prompt(f"p{i}", "power", (Message("user", t),)) for i, t in enumerate(chosen)]


def encode(prompts: Sequence[Prompt]) -> list[list[int]]:
    chats = [[{"role": m.role, "content": m.content} for m in p.messages] for p in prompts]
    ids: list[list[int]] = tokenizer().apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return ids


def keys_for(prompts: int, samples: int, weights: str = WEIGHTS) -> npt.NDArray[np.uint64]:
    return np.stack([stream_keys(0, weights, f"p{i}", samples) for i in range(prompts)])


def plain_probabilities(model: Any, prompt: Sequence[int], answer: Sequence[int], temperature: float) -> Any:
    """The softmax at every place of an answer, float64 `[answer, V]`: one forward, no cache, no padding."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return (logits.double() / temperature).softmax(-1).numpy()


def assert_replays(
    model: Any, ids: list[list[int]], answers: list[list[Sampled]], end: int, temperature: float = 1.0
) -> None:
    """Every token is where its own random number falls in the distribution of a plain forward."""
    keys = keys_for(len(ids), len(answers[0]))
    for prompt, streams, sampled in zip(ids, keys, answers, strict=True):
        for stream, answer in zip(streams, sampled, strict=True):
            tokens = np.array([*answer.tokens, end] if answer.finished else answer.tokens, np.int64)
            places = np.arange(len(tokens))
            high = np.cumsum(plain_probabilities(model, prompt, tokens.tolist(), temperature), axis=-1)
            numbers = uniforms(np.repeat(stream[None], len(tokens), 0), places)
            low = np.where(tokens > 0, high[places, tokens - 1], 0.0)
            assert (low - 1e-4 <= numbers).all()
            assert (numbers <= high[places, tokens] + 1e-4).all()


def texts(responses: Sequence[Response]) -> list[str | None]:
    return [r.text for r in responses]
