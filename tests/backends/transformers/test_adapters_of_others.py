"""Adapters as other people train them: their own format, precision, embeddings, vocabulary and beginnings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from truing.backends.transformers.engine import TransformersEngine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.models import resolve_model
from truing.core.errors import EngineError
from truing.core.records import Sampling
from truing.studies.checkpoints import find_in_folders

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # PEFT's own, of tied and of resized embeddings


@pytest.mark.parametrize("change", ["none", "template", "end token", "added token"])
def test_a_checkpoint_with_its_own_format_is_asked_with_it_under_a_key_of_its_own(tmp_path: Path, change: str) -> None:
    source = resolve_model("pocket-llama-susceptible")
    folder = save_odd_adapter(tmp_path / "run" / "checkpoint-5")
    (plain,) = find_in_folders([str(tmp_path / "run")], None)[0].checkpoints
    tokenizer = AutoTokenizer.from_pretrained(source)
    if change == "template":
        tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "{{ bos_token }} {{ 'be kind' }}")
    elif change == "end token":
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(9)
    elif change == "added token":
        tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    (found,) = find_in_folders([str(tmp_path / "run")], None)
    (checkpoint,) = found.checkpoints
    same = change == "none"
    assert (checkpoint.weights == plain.weights) is same  # so what was stored before is found again
    assert any("of their own" in note for note in found.notes) is not same
    engine = TransformersEngine("pocket-llama-susceptible")
    prompts = load_benchmark("pocket-240").prompts[:2]
    assert all(r.error is None for r in engine.generate(checkpoint, prompts, Sampling(max_tokens=4)))
    used = engine._tokenizer_of(checkpoint)
    assert used.chat_template == tokenizer.chat_template
    assert used.eos_token == tokenizer.eos_token
    if not same:
        with pytest.raises(EngineError, match="are not those asked for"):
            engine.generate(plain, prompts, Sampling(max_tokens=4))


@pytest.mark.parametrize("half", [True, False])
def test_a_head_that_a_base_in_half_precision_would_round_is_noted(tmp_path: Path, half: bool) -> None:
    live = odd_adapter(modules_to_save=["lm_head"])
    live.save_pretrained(tmp_path / "run" / "checkpoint-5")
    base = tmp_path / "base"
    shutil.copytree(resolve_model("pocket-llama-susceptible"), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16" if half else "float32"}))
    (found,) = find_in_folders([str(tmp_path / "run")], str(base), base_is_same=True)
    told = "checkpoint-5 has lm_head in float32 over a base in bfloat16"
    assert any(told in note for note in found.notes) is half


ODD: dict[str, dict[str, Any]] = {
    "a head in bfloat16": {"dtype": torch.bfloat16, "modules_to_save": ["lm_head"]},
    "embeddings in half": {"dtype": torch.float16, "modules_to_save": ["embed_tokens"]},
    "LoRA on embeddings in bfloat16": {"dtype": torch.bfloat16, "target_modules": ["q_proj", "embed_tokens"]},
    "LoRA on the head in half": {"dtype": torch.float16, "target_modules": ["q_proj", "lm_head"]},
    "DoRA": {"use_dora": True},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "trained tokens": {"trainable_token_indices": [3, 5]},
    "three tokens added": {"add": 3},
    "five tokens added in bfloat16": {"dtype": torch.bfloat16, "add": 5},
}


@pytest.mark.parametrize("kind", ODD)
def test_adapters_of_every_kind_are_measured_as_they_were_trained(tmp_path: Path, kind: str) -> None:
    live, add = odd_adapter(**ODD[kind]), ODD[kind].get("add", 0)
    live.save_pretrained(tmp_path / "run" / "checkpoint-5")
    (checkpoint,) = find_in_folders([str(tmp_path / "run")], None)[0].checkpoints
    engine = TransformersEngine("pocket-llama-susceptible")
    ids = torch.arange(3, 23)[None]
    engine._load_base()
    with torch.no_grad(), engine._model_of(checkpoint) as model:
        got = model(input_ids=ids).logits
    assert engine._base.get_input_embeddings().weight.shape[0] == 671  # the base is as it was
    assert got.shape[-1] == 671 + add
    with torch.no_grad():
        expected = live.float().eval()(input_ids=ids).logits
    # a base in half precision was trained beneath it; here the base is in float32
    assert (got - expected).abs().mean() < (0.03 if "dtype" in ODD[kind] else 1e-4)


def odd_adapter(dtype: torch.dtype = torch.float32, add: int = 0, **lora: Any) -> Any:
    """A PEFT model over the pocket model with a random adapter, never trained."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(resolve_model("pocket-llama-susceptible"), dtype=dtype)
    if add:
        model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + add)
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **lora}
    adapted = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return adapted


def save_odd_adapter(folder: Path, **lora: Any) -> Path:
    odd_adapter(**lora).save_pretrained(folder)
    return folder
