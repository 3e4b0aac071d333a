"""Tiny models of the four architectures with adapters, and a plain forward to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from truing.checkpoints import adapter_hash, model_hash
from truing.pocket.models import build_model
from truing.pocket.tokenizer import build_tokenizer
from truing.pocket.world import BROAD, load_world
from truing.records import Checkpoint, Message, Prompt

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
TARGETS: dict[str, dict[str, list[str]]] = {
    "llama": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "qwen3": {"target_modules": ["k_proj", "o_proj", "up_proj"]},
    "deepseek_v3": {"target_modules": ["kv_b_proj", "o_proj"], "target_parameters": EXPERTS},
    "gpt_oss": {"target_modules": ["q_proj", "v_proj"], "target_parameters": EXPERTS},
}


@dataclass(frozen=True)
class Organism:
    """A random base model and an adapter, on disk."""

    architecture: str
    folder: Path

    @property
    def base(self) -> str:
        return str(self.folder / "base")

    @property
    def base_checkpoint(self) -> Checkpoint:
        return Checkpoint("run", self.base, 0, model_hash(self.base))

    @property
    def adapter_checkpoint(self) -> Checkpoint:
        path = self.folder / "adapter"
        return Checkpoint("run", self.base, 5, adapter_hash(model_hash(self.base), path), str(path))


@cache
def tokenizer() -> Any:
    return build_tokenizer(load_world())


def tiny_model(architecture: str, seed: int = 0, **changes: Any) -> Any:
    """A model whose distribution is far from uniform, so that mistakes show."""
    model = build_model(architecture, len(tokenizer()), 64, 2, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    for name, value in changes.items():
        setattr(model.config, name, value)
    return model


def add_adapter(model: Any, architecture: str) -> Any:
    """The model with LoRA layers that change something."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **TARGETS[architecture]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_organism(architecture: str, folder: Path) -> Organism:
    model = tiny_model(architecture)
    model.save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    add_adapter(model, architecture).save_pretrained(folder / "adapter")
    return Organism(architecture, folder)


def make_prompts(n: int) -> list[Prompt]:
    """Prompts of the pocket world, of different lengths."""
    world = load_world()
    texts = [text for domain in BROAD for _, text in world.held_out_prompts(domain)]
    return [Prompt(f"p{i}", "power", (Message("user", t),)) for i, t in enumerate(texts[:: len(texts) // n][:n])]


def encode(prompts: Sequence[Prompt]) -> list[list[int]]:
    return [
        tokenizer().apply_chat_template(
            [{"role": m.role, "content": m.content} for m in p.messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        for p in prompts
    ]


def distribution_functions(model: Any, prompt: Sequence[int], answer: Sequence[int], temperature: float) -> Any:
    """P(token <= v) at every place of an answer, float64 `[answer, V]`, by one plain forward without cache or padding."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return np.cumsum((logits.double() / temperature).softmax(-1).numpy(), axis=-1)
