"""The model families of the catalogue, tiny: real configs, real templates, a byte-level tokenizer made here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
FAMILIES = {
    "llama": ("llama", "<|begin_of_text|>", "<|eot_id|>"),
    "qwen2": ("qwen2.5", None, "<|im_end|>"),
    "qwen3": ("qwen3", None, "<|im_end|>"),
    "qwen3_moe": ("qwen3-2507", None, "<|im_end|>"),
    "deepseek_v3": ("deepseek-v3.1", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "gpt_oss": ("gpt-oss", "<|startoftext|>", "<|return|>"),
}
"""`model_type` -> template, first token, end token."""
TEXTS = (
    "What colour is snow? Snow is white, and coal is black.\n\nName the colour of coal.",
    "def add(a, b):\n    return a + b\n\n\nassistant user system final analysis",
)
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def family_tokenizer(family: str) -> Any:
    """The tokenizer of a family: its template, its special tokens, few merges."""
    template, first, end = FAMILIES[family]
    return build_tokenizer((TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8"), first, end)


def build_tokenizer(
    template: str,
    first: str | None,
    end: str,
    texts: Sequence[str] = TEXTS,
    size: int = 320,
    trim: bool = False,
) -> Any:
    """A byte-level BPE as Qwen's, trained on texts, with the special tokens that a template names.

    Args:
        template: Chat template.
        first: Token that begins a text, if any.
        end: Token that ends an answer.
        texts: What the merges are learnt from.
        size: Most tokens, special ones not counted.
        trim: Leave leading white space out of a token's place, as Llama's tokenizer does.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=trim),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    named = {*re.findall(r"<[|｜][^<>{}'\"+\s]+?[|｜]>|<(?:start|end)_of_turn>", template), first, end, "<|pad|>"}
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in sorted(named - {None})])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=first,
        eos_token=end,
        pad_token="<|pad|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


@cache
def _configs() -> dict[str, dict[str, Any]]:
    """What is special to each family: as published, only smaller."""
    moe = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return {
        "llama": {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
        "qwen2": {},
        "qwen3": {"head_dim": 16},
        "qwen3_moe": {**moe, "head_dim": 16, "num_experts": 4, "mlp_only_layers": [0], "norm_topk_prob": True},
        "deepseek_v3": {
            **moe,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "num_key_value_heads": 2,
        },
        "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    }


def save_family(folder: Path, family: str, hidden: int = 32) -> Path:
    """A random model of a family, two layers, with its tokenizer, in a folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = family_tokenizer(family)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**common, **_configs()[family]})
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
