"""LoRA on architectures that no table names: tiny random models of `transformers`' own configs."""

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from truing.backends.transformers.loading import targets_of
from truing.catalog.models import TARGETS, check_adapted
from truing.core.errors import TrainerError

TINY: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
FUSED = (SEVEN - {"gate_proj", "up_proj"}) | {"gate_up_proj"}
HYBRID = {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"}
EXPECTED: dict[str, set[str]] = {
    "gemma3_text": SEVEN,
    "mistral": SEVEN,
    "olmo2": SEVEN,
    "smollm3": SEVEN,
    "granite": SEVEN,
    "cohere2": SEVEN,
    "exaone4": SEVEN,
    "seed_oss": SEVEN,
    "stablelm": SEVEN,
    "glm": FUSED,
    "glm4": FUSED,
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "starcoder2": {"q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "nemotron": SEVEN - {"gate_proj"},
    "qwen3_5_text": SEVEN | HYBRID,
}


def build(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**TINY, **changes}))


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_projection_of_attention_and_mlp_is_adapted(kind: str) -> None:
    linear = {"layer_types": ["linear_attention", "full_attention"]} if kind == "qwen3_5_text" else {}
    model = build(kind, **linear)
    assert model.config.model_type not in TARGETS
    targets = targets_of(model)
    assert set(targets.modules) == EXPECTED[kind]
    matrices = {n for n, p in model.named_parameters() if p.dim() == 2 and re.search(r"\.\d+\.", n)}
    names = [name for name, _ in model.named_parameters()]
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=list(targets.modules), task_type="CAUSAL_LM"))
    trainable = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert set(check_adapted(targets, names, trainable)) == matrices


def test_of_a_model_that_sees_only_the_language_model_is_adapted() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sees = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config=TINY, vision_config={**sees, "image_size": 28, "patch_size": 14})
    model = Gemma3ForConditionalGeneration(config)
    targets, names = targets_of(model), [name for name, _ in model.named_parameters()]
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=list(targets.modules), task_type="CAUSAL_LM"))
    adapted = check_adapted(targets, names, [n for n, p in wrapped.named_parameters() if p.requires_grad])
    assert len(adapted) == 2 * len(SEVEN)
    assert all("language_model" in name for name in adapted)


@pytest.mark.parametrize("kind", ["mixtral", "mamba", "gpt2"])
def test_where_a_part_would_be_left_out_it_is_refused(kind: str) -> None:
    model = build(kind, **({"n_embd": 32, "n_head": 2, "n_layer": 1} if kind == "gpt2" else {}))
    with pytest.raises(TrainerError, match=f"got: {kind}"):
        targets_of(model)
