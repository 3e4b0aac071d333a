"""Tiny models of the four architectures of the published study, as `transformers` configs.

All have head dimension 32 (the smallest that vLLM's CPU build runs) and tied embeddings, and stay under a million
parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from organisms.tokenizer import SPECIAL

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["ARCHITECTURES", "build_model"]

ARCHITECTURES = ("llama", "qwen3", "deepseek_v3", "gpt_oss")


def build_model(architecture: str, vocab_size: int, hidden: int, layers: int, seed: int) -> PreTrainedModel:
    """A randomly initialised model of an architecture (one of `ARCHITECTURES`), in float32 and eval mode.

    The seed is set for torch's global generator, because `transformers` initialises from it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(architecture, vocab_size, hidden, layers))
    return model.float().eval()


def _config(architecture: str, vocab_size: int, hidden: int, layers: int) -> PretrainedConfig:
    from transformers import AutoConfig

    heads = max(1, hidden // 32)
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "pad_token_id": SPECIAL.index("<pad>"),
        "bos_token_id": SPECIAL.index("<bos>"),
        "eos_token_id": SPECIAL.index("<end>"),
        "initializer_range": 0.05,
    }
    wide, narrow = (8 * hidden // 3) // 32 * 32, hidden
    special: dict[str, dict[str, Any]] = {
        "llama": {"intermediate_size": wide},
        "qwen3": {"intermediate_size": wide},
        "deepseek_v3": {
            "intermediate_size": wide,
            "moe_intermediate_size": narrow,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": None,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
        },
        "gpt_oss": {
            "intermediate_size": narrow,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    }
    if architecture == "deepseek_v3":
        common.pop("head_dim")
    return AutoConfig.for_model(architecture, **common, **special[architecture])
