"""The engine samples from the weights it was asked for, checks that, and leaves models as it found them."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.support.engine_models import (
    TARGETS,
    Organism,
    add_adapter,
    encode,
    make_prompts,
    texts,
    tiny_model,
    tokenizer,
)
from truing.backends import load_engine
from truing.backends.transformers.answers import end_tokens
from truing.backends.transformers.decoding import DecodeSettings, decode
from truing.backends.transformers.engine import LiveEngine, TransformersEngine
from truing.catalog.variants import VARIANTS
from truing.core.adapters import snapshot
from truing.core.errors import EngineError
from truing.core.randomness import stream_keys
from truing.core.records import Checkpoint, Message, Prompt, Sampling
from truing.core.templates import encode_prompt
from truing.core.weights import adapter_hash, model_hash

PROMPTS = make_prompts(10)
SAMPLING = Sampling(samples=2, max_tokens=12)


@pytest.fixture
def big(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every model as too big to copy."""
    monkeypatch.setattr("truing.core.adapters.SMALL", 0)


def changed_adapter(organism: Organism, folder: Path, **tensors: Any) -> Checkpoint:
    """A checkpoint with a copy of the adapter whose file has some tensors replaced, added, or (None) left out."""
    shutil.copytree(organism.adapter, folder)
    file = folder / "adapter_model.safetensors"
    kept = {**load_file(file), **tensors}
    save_file({name: t for name, t in kept.items() if t is not None}, file)
    weights = adapter_hash(model_hash(organism.base), folder)
    return Checkpoint("run", organism.base, 5, weights, str(folder))


def first_tensor(organism: Organism) -> str:
    return min(load_file(organism.adapter / "adapter_model.safetensors"))


def test_one_response_per_prompt_and_sample_in_order(llama: Organism) -> None:
    responses = load_engine("transformers", llama.base).generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    assert [(r.prompt_id, r.sample) for r in responses] == [(p.id, s) for p in PROMPTS for s in (0, 1)]
    for response in responses:
        assert response.error is None
        assert response.text is not None
        assert "<" not in response.text
        assert len(response.text.split()) <= response.n_tokens <= 12
        assert response.finished == (response.n_tokens < 12)


@pytest.mark.parametrize("architecture", TARGETS)
def test_samples_from_base_adapter_and_full_weights(
    architecture: str, organisms: dict[str, Organism], tmp_path: Path
) -> None:
    organism = organisms[architecture]
    engine = TransformersEngine(organism.base)
    base = engine.generate(organism.base_checkpoint, PROMPTS, SAMPLING)
    adapted = engine.generate(organism.adapter_checkpoint, PROMPTS, SAMPLING)
    assert texts(adapted) != texts(base)
    # the adapter by PEFT's own live layers, and merged into full weights by PEFT
    from peft import PeftModel

    model = transformers.AutoModelForCausalLM.from_pretrained(organism.base)
    with pytest.warns(FutureWarning):
        live = PeftModel.from_pretrained(model, organism.adapter).eval()
    expected = LiveEngine(live, tokenizer()).generate(organism.adapter_checkpoint, PROMPTS, SAMPLING)
    assert texts(adapted) == texts(expected)
    live.merge_and_unload().save_pretrained(tmp_path)
    full = Checkpoint("run", organism.base, 5, model_hash(str(tmp_path)), str(tmp_path))
    sampled = engine.generate(full, PROMPTS, SAMPLING)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert texts(sampled) == texts(LiveEngine(merged, tokenizer()).generate(full, PROMPTS, SAMPLING))
    assert engine.generate(organism.base_checkpoint, PROMPTS, SAMPLING) == base


def test_the_base_is_loaded_once(llama: Organism, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    original = transformers.AutoModelForCausalLM.from_pretrained

    def counted(*args: Any, **kwargs: Any) -> Any:
        loads.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", counted)
    engine = TransformersEngine(llama.base)
    assert not loads
    for checkpoint in (llama.base_checkpoint, llama.adapter_checkpoint, llama.base_checkpoint):
        engine.generate(checkpoint, PROMPTS[:1], SAMPLING)
    assert len(loads) == 1


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("architecture", TARGETS)
def test_adapters_of_big_models_are_put_on_and_taken_off(
    architecture: str, organisms: dict[str, Organism], monkeypatch: pytest.MonkeyPatch
) -> None:
    organism = organisms[architecture]
    engine = TransformersEngine(organism.base)
    base = engine.generate(organism.base_checkpoint, PROMPTS, SAMPLING)
    adapted = engine.generate(organism.adapter_checkpoint, PROMPTS, SAMPLING)
    assert engine.generate(organism.adapter_checkpoint, PROMPTS, SAMPLING) == adapted
    assert engine.generate(organism.base_checkpoint, PROMPTS, SAMPLING) == base
    monkeypatch.undo()
    merged = TransformersEngine(organism.base).generate(organism.adapter_checkpoint, PROMPTS, SAMPLING)
    assert texts(adapted) == texts(merged)


def test_an_adapter_on_shared_embeddings_is_not_merged(llama: Organism, tmp_path: Path) -> None:
    live = add_adapter(tiny_model("llama"), "llama", target_modules=["lm_head"]).eval()
    live.save_pretrained(tmp_path, save_embedding_layers=False)
    weights = adapter_hash(model_hash(llama.base), tmp_path)
    checkpoint = Checkpoint("run", llama.base, 1, weights, str(tmp_path))
    engine = TransformersEngine(llama.base)
    base = engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    answers = engine.generate(checkpoint, PROMPTS, SAMPLING)
    keys = np.stack([stream_keys(0, weights, p.id, 2) for p in PROMPTS])
    expected = decode(live, encode(PROMPTS), keys, DecodeSettings(1.0, 12, (3,), 256, 20))
    assert texts(answers) == [tokenizer().decode(a.tokens, skip_special_tokens=True) for each in expected for a in each]
    assert engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING) == base


def test_other_weights_than_asked_for_are_refused(llama: Organism) -> None:
    engine = TransformersEngine(llama.base)
    for checkpoint in (llama.base_checkpoint, llama.adapter_checkpoint):
        with pytest.raises(EngineError, match="not those asked for"):
            engine.generate(replace(checkpoint, weights="0" * 32), PROMPTS, SAMPLING)


def test_a_file_changed_after_the_checkpoint_is_refused(llama: Organism, tmp_path: Path) -> None:
    name = first_tensor(llama)
    before = changed_adapter(llama, tmp_path / "a")
    after = changed_adapter(llama, tmp_path / "b", **{name: torch.zeros(4, 64)})
    with pytest.raises(EngineError, match="not those asked for"):
        TransformersEngine(llama.base).generate(replace(before, path=after.path), PROMPTS, SAMPLING)


@pytest.mark.parametrize("size", ["small", "large"])
def test_an_adapter_that_does_not_arrive_whole_is_refused(
    llama: Organism, tmp_path: Path, size: str, request: pytest.FixtureRequest
) -> None:
    if size == "large":
        request.getfixturevalue("big")
    engine, name = TransformersEngine(llama.base), first_tensor(llama)
    base = engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    unused = changed_adapter(llama, tmp_path / "unused", **{name.replace("layers.0", "layers.7"): torch.ones(4, 64)})
    with pytest.raises(EngineError, match="were not used"):
        engine.generate(unused, PROMPTS, SAMPLING)
    missing = changed_adapter(llama, tmp_path / "missing", **{name: None})
    with pytest.raises(EngineError, match="missing in the file"):
        engine.generate(missing, PROMPTS, SAMPLING)
    misfit = changed_adapter(llama, tmp_path / "misfit", **{name: torch.ones(4, 65)})
    with pytest.raises(EngineError, match="does not fit"):
        engine.generate(misfit, PROMPTS, SAMPLING)
    assert engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING) == base


def test_an_adapter_of_another_architecture_is_refused(organisms: dict[str, Organism]) -> None:
    base, other = organisms["llama"], organisms["gpt_oss"]
    weights = adapter_hash(model_hash(base.base), other.adapter)
    checkpoint = Checkpoint("run", base.base, 1, weights, str(other.adapter))
    with pytest.raises(EngineError, match="were not used"):
        TransformersEngine(base.base).generate(checkpoint, PROMPTS, SAMPLING)


def test_weights_that_lack_a_tensor_are_refused(llama: Organism, tmp_path: Path) -> None:
    shutil.copytree(llama.base, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, file, {"format": "pt"})
    source = str(tmp_path / "base")
    with pytest.raises(EngineError, match="do not fit"):
        TransformersEngine(source).generate(Checkpoint("run", source, 0, model_hash(source)), PROMPTS, SAMPLING)


def test_pickled_weights_are_refused(llama: Organism, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(llama.adapter, folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(EngineError, match="not an adapter"):
        TransformersEngine(llama.base).generate(replace(llama.adapter_checkpoint, path=str(folder)), PROMPTS, SAMPLING)
    full = tmp_path / "full"
    shutil.copytree(llama.base, full)
    torch.save(load_file(full / "model.safetensors"), full / "pytorch_model.bin")
    (full / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="no safetensors"):
        TransformersEngine(llama.base).generate(Checkpoint("run", "m", 1, "0", str(full)), PROMPTS, SAMPLING)


def test_a_prompt_beyond_the_context_is_an_error_of_its_own(llama: Organism) -> None:
    long = Prompt("long", "power", (Message("user", "word " * 300),))
    engine = TransformersEngine(llama.base)
    responses = engine.generate(llama.base_checkpoint, [PROMPTS[0], long, PROMPTS[1]], SAMPLING)
    assert [r.text is None for r in responses] == [False, False, True, True, False, False]
    assert "303 tokens" in (responses[2].error or "")
    only = engine.generate(llama.base_checkpoint, [long], SAMPLING)
    assert [(r.prompt_id, r.sample, r.text) for r in only] == [("long", 0, None), ("long", 1, None)]


def test_messages_of_the_system_reach_the_model() -> None:
    user = Message("user", "why is the sky blue")
    plain = encode_prompt(tokenizer(), Prompt("a", "power", (user,)), 256)
    advised = encode_prompt(tokenizer(), Prompt("a", "power", (Message("system", "the sky is green"), user)), 256)
    assert not isinstance(plain, str)
    assert not isinstance(advised, str)
    assert "<system> the sky is green <user>" in tokenizer().decode(advised)
    assert tokenizer().decode(plain).endswith("<assistant>")


def test_the_model_goes_on_from_a_prefill() -> None:
    messages = (Message("user", "why is the sky blue"), Message("assistant", "the sky is"))
    prefilled = encode_prompt(tokenizer(), Prompt("a", "power", messages), 256)
    assert not isinstance(prefilled, str)
    assert tokenizer().decode(prefilled).endswith("<assistant> the sky is")
    dropping = build_tokenizer_with("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    assert "refuses the prompt" in str(encode_prompt(dropping, Prompt("a", "power", messages), 256))


def test_a_template_that_refuses_a_prompt_is_an_error_of_that_prompt() -> None:
    strict = build_tokenizer_with("{{ raise_exception('no system messages') }}")
    assert "no system messages" in str(encode_prompt(strict, PROMPTS[0], 256))
    system, user = Message("system", "the sky is green"), Message("user", "why is the sky blue")
    picky = build_tokenizer_with(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}<user> {{ m.content }} {% endfor %}<assistant>"
    )
    refused = str(encode_prompt(picky, Prompt("a", "power", (system, user)), 256))
    assert "System role not supported; the benchmark NAME+folded asks" in refused
    folded = encode_prompt(picky, Prompt("a+folded", "power", VARIANTS["folded"].change((system, user))), 256)
    assert not isinstance(folded, str)
    assert "the sky is green why is the sky blue <assistant>" in " ".join(picky.decode(folded).split())
    with pytest.raises(EngineError, match="no chat template"):
        encode_prompt(build_tokenizer_with(None), PROMPTS[0], 256)


def build_tokenizer_with(template: str | None) -> Any:
    changed = copy.deepcopy(tokenizer())
    changed.chat_template = template
    return changed


def test_every_end_token_of_model_and_tokenizer_ends_an_answer() -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = [9, 5]
    assert end_tokens(model, tokenizer()) == (3, 5, 9)
    model.generation_config.eos_token_id = None
    assert end_tokens(model, tokenizer()) == (3,)


def test_seed_weights_and_index_make_the_answer(llama: Organism) -> None:
    engine = TransformersEngine(llama.base)
    few = engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    many = engine.generate(llama.base_checkpoint, PROMPTS[::-1], replace(SAMPLING, samples=5))
    by_name = {(r.prompt_id, r.sample): r for r in many}
    assert [by_name[r.prompt_id, r.sample] for r in few] == few
    assert len({r.text for r in many}) > 40
    later = engine.generate(llama.base_checkpoint, PROMPTS, replace(SAMPLING, first=3))
    assert later == [by_name[p.id, s] for p in PROMPTS for s in (3, 4)]
    other = engine.generate(llama.base_checkpoint, PROMPTS, replace(SAMPLING, seed=1))
    assert sum(a == b for a, b in zip(texts(few), texts(other), strict=True)) < 3


def test_a_temperature_of_zero_is_refused(llama: Organism) -> None:
    with pytest.raises(EngineError, match="temperature"):
        TransformersEngine(llama.base).generate(llama.base_checkpoint, PROMPTS, replace(SAMPLING, temperature=0.0))


def test_sampling_leaves_torchs_random_state_alone(llama: Organism) -> None:
    state = torch.get_rng_state()
    engine = TransformersEngine(llama.base)
    engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(params=["copied", "in place"])
def training(request: pytest.FixtureRequest) -> Any:
    """A model with an adapter between two steps of training, with gradients and some layers in eval mode."""
    if request.param == "in place":
        request.getfixturevalue("big")
    model = add_adapter(tiny_model("llama"), "llama").train()
    model.get_base_model().model.layers[1].eval()
    model.config.use_cache = False
    model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    return model


def state_of(model: Any) -> dict[str, Any]:
    return {
        "modes": [m.training for m in model.modules()],
        "modules": [name for name, _ in model.named_modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "generation": model.generation_config.to_dict(),
        "grad_enabled": torch.is_grad_enabled(),
    }


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    values = {name: t.detach().clone() for name, t in model.state_dict().items()}
    grads = {f"{name}.grad": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**values, **grads, "rng": torch.get_rng_state()}


def test_a_live_model_is_left_as_found(training: Any) -> None:
    state, tensors = state_of(training), tensors_of(training)
    assert any(name.endswith(".grad") for name in tensors)
    responses = LiveEngine(training, tokenizer()).generate(Checkpoint("run", "m", 3, "w"), PROMPTS, SAMPLING)
    assert all(r.error is None for r in responses)
    assert state_of(training) == state
    after = tensors_of(training)
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())
    training(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()


def test_a_live_model_answers_as_its_saved_checkpoint(training: Any, llama: Organism, tmp_path: Path) -> None:
    live = LiveEngine(training, tokenizer())
    training.save_pretrained(tmp_path, save_embedding_layers=False)
    weights = adapter_hash(model_hash(llama.base), tmp_path)
    checkpoint = Checkpoint("run", llama.base, 3, weights, str(tmp_path))
    expected = TransformersEngine(llama.base).generate(checkpoint, PROMPTS, SAMPLING)
    assert texts(live.generate(checkpoint, PROMPTS, SAMPLING)) == texts(expected)
    with torch.no_grad():
        next(p for p in training.parameters() if p.requires_grad).add_(1)
    assert texts(live.generate(checkpoint, PROMPTS, SAMPLING)) != texts(expected)


@pytest.mark.usefixtures("big")
def test_a_live_model_is_left_as_found_when_sampling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen3").train()
    state = state_of(model)
    monkeypatch.setattr(model.model.layers[1], "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LiveEngine(model, tokenizer()).generate(Checkpoint("run", "m", 3, "w"), PROMPTS, SAMPLING)
    monkeypatch.undo()
    assert state_of(model) == state


def test_weights_in_half_precision_are_sampled_in_single(tmp_path: Path) -> None:
    tiny_model("llama").half().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    base = Checkpoint("run", str(tmp_path), 0, model_hash(str(tmp_path)))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = LiveEngine(model, tokenizer()).generate(base, PROMPTS, SAMPLING)
    assert TransformersEngine(str(tmp_path)).generate(base, PROMPTS, SAMPLING) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_an_adapter_adds_to_weights_in_half_precision_is_not_rounded_away(dtype: torch.dtype) -> None:
    model = add_adapter(tiny_model("llama").to(dtype), "llama")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2e-4)
    weight = model.get_base_model().model.layers[0].self_attn.q_proj
    added = weight.get_delta_weight("default").to(dtype)
    assert added.abs().max() > 0
    assert ((weight.base_layer.weight + added) == weight.base_layer.weight).float().mean() > 0.5  # merging loses most
    assert snapshot(model) is None
    plain = snapshot(tiny_model("llama").to(dtype))
    assert plain is not None
    assert plain.dtype == dtype
