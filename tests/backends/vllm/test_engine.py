"""The engine against a server that can be told to misbehave: nothing but the adapter asked for is ever scored."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.support.engine_models import Organism, make_prompts, texts
from tests.support.vllm_stand_in import StandIn, stand_in_python
from truing.backends import load_engine
from truing.backends.vllm import VllmEngine
from truing.backends.vllm.engine import _rendered
from truing.backends.vllm.server import StartedServer
from truing.config import Services, VllmConfig
from truing.core.errors import ConfigError, EngineError
from truing.core.records import Checkpoint, Sampling
from truing.core.weights import adapter_hash, model_hash

PROMPTS = make_prompts(5)
SAMPLING = Sampling(samples=2, max_tokens=12)
Adapters = Callable[..., Checkpoint]


@pytest.fixture
def server(llama: Organism) -> Iterator[StandIn]:
    with StandIn(llama.base) as stand_in:
        yield stand_in


@pytest.fixture
def engine(server: StandIn, llama: Organism, tmp_path: Path) -> Iterator[VllmEngine]:
    with VllmEngine(llama.base, VllmConfig(base_url=server.address, max_loras=2), tmp_path / "out") as engine:
        yield engine


@pytest.fixture
def adapters(llama: Organism, tmp_path: Path) -> Adapters:
    """Makes checkpoints with changed copies of the organism's adapter."""

    def make(name: str, change: Callable[[dict[str, Any]], None] = lambda tensors: None) -> Checkpoint:
        folder = tmp_path / name
        shutil.copytree(llama.adapter, folder)
        tensors = load_file(folder / "adapter_model.safetensors")
        first = min(tensors)
        tensors[first] = tensors[first] + float(len(name))
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")
        weights = adapter_hash(model_hash(llama.base), folder)
        return Checkpoint("run", llama.base, len(name), weights, str(folder))

    return make


def test_base_and_adapters_are_served_by_the_names_of_their_weights(
    engine: VllmEngine, server: StandIn, llama: Organism
) -> None:
    base = engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    adapted = engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING)
    assert texts(base) != texts(adapted)
    assert server.roots == {
        "served": llama.base,
        f"truing-{llama.adapter_checkpoint.weights}": str(llama.adapter.resolve()),
    }
    for body in server.asked:  # the model's own distribution, whatever the model's files say
        assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)


def test_what_is_in_the_journal_is_not_asked_for_again(
    engine: VllmEngine, server: StandIn, llama: Organism, tmp_path: Path
) -> None:
    first = engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING)
    n = len(server.asked)
    assert engine.generate(llama.adapter_checkpoint, PROMPTS[1:], SAMPLING) == first[2:]
    engine.close()
    with VllmEngine(llama.base, engine.config, tmp_path / "out") as other:
        assert other.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING) == first
    assert len(server.asked) == n


def test_prefetch_answers_many_checkpoints_before_they_are_asked(
    engine: VllmEngine, server: StandIn, llama: Organism, adapters: Adapters
) -> None:
    checkpoints = [llama.base_checkpoint, *(adapters("x" * i) for i in range(1, 6))]
    broken = replace(adapters("broken"), weights="0" * 32)
    engine.prefetch([*checkpoints, checkpoints[0], broken], PROMPTS, SAMPLING)
    n = len(server.asked)
    assert n == 6 * len(PROMPTS) * 2
    answers = {c.weights: texts(engine.generate(c, PROMPTS, SAMPLING)) for c in checkpoints}
    assert len(server.asked) == n
    assert len({str(a) for a in answers.values()}) == 6
    with pytest.raises(EngineError, match="not those asked for"):
        engine.generate(broken, PROMPTS, SAMPLING)


def test_the_least_recently_used_adapter_makes_room(engine: VllmEngine, server: StandIn, adapters: Adapters) -> None:
    a, b, c = (adapters(name) for name in ("a", "bb", "ccc"))
    for i, checkpoint in enumerate((a, b, a, c)):
        engine.generate(checkpoint, PROMPTS, replace(SAMPLING, seed=i))
    assert sorted(server.adapters) == sorted(f"truing-{x.weights}" for x in (a, c))
    assert server.most_adapters == 2


def test_a_server_that_ignores_the_adapter_is_found_out(engine: VllmEngine, server: StandIn, llama: Organism) -> None:
    server.ignores_adapters = True
    with pytest.raises(EngineError, match=r"as if the adapter .* were not there"):
        engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING)
    assert not server.adapters
    assert not server.asked
    server.ignores_adapters = False
    assert all(r.text for r in engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING))


def test_an_adapter_that_changes_nothing_needs_not_differ_from_the_base(
    engine: VllmEngine, server: StandIn, adapters: Adapters
) -> None:
    def empty(tensors: dict[str, Any]) -> None:
        tensors.update({name: torch.zeros_like(t) for name, t in tensors.items() if "lora_B" in name})

    server.ignores_adapters = True  # as it must be
    assert all(r.text for r in engine.generate(adapters("empty", empty), PROMPTS, SAMPLING))


def test_a_name_that_stands_for_another_folder_is_refused(engine: VllmEngine, server: StandIn, llama: Organism) -> None:
    server.loads_others = True
    with pytest.raises(EngineError, match="other weights under the name"):
        engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING)
    assert not server.asked


def test_a_refusal_to_load_is_told(engine: VllmEngine, server: StandIn, llama: Organism) -> None:
    server.refuses = "LoRA rank 64 is greater than max_lora_rank 16."
    with pytest.raises(EngineError, match="does not take the adapter") as caught:
        engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING)
    assert "greater than max_lora_rank" in caught.value.got
    assert "--max-lora-rank" in caught.value.allowed


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(2, 2)}), "tensor .*lm_head"),
        (lambda t: t.update({f"{PREFIX}.7.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)}), "module .*layers.7"),
        (lambda t: t.update({f"{PREFIX}.0.mlp.experts.lora_A.weight": torch.ones(4, 64)}), "tensor .*experts"),
        (lambda t: t.update({f"{PREFIX}.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}), r"lora_A \[4, 32\]"),
        (lambda t: t.update({f"{PREFIX}.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(64)}), "magnitude"),
    ],
)
def test_what_vllm_would_leave_out_in_silence_is_refused(
    engine: VllmEngine, server: StandIn, adapters: Adapters, change: Any, got: str
) -> None:
    with pytest.raises(EngineError, match=f"(?s)would not apply all.*{got}.*vllm.adapters to merge"):
        engine.generate(adapters("changed", change), PROMPTS, SAMPLING)
    assert not server.adapters


PREFIX = "base_model.model.model.layers"


def test_files_that_changed_are_refused(engine: VllmEngine, server: StandIn, llama: Organism) -> None:
    for checkpoint in (llama.base_checkpoint, llama.adapter_checkpoint):
        with pytest.raises(EngineError, match="not those asked for"):
            engine.generate(replace(checkpoint, weights="0" * 32), PROMPTS, SAMPLING)
    assert not server.asked


def test_a_server_of_another_model_is_refused(server: StandIn, llama: Organism, tmp_path: Path) -> None:
    shutil.copytree(llama.base, tmp_path / "other")
    with (
        VllmEngine(str(tmp_path / "other"), VllmConfig(base_url=server.address)) as engine,
        pytest.raises(EngineError, match="does not serve"),
    ):
        engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)


def test_a_server_with_another_chat_template_is_refused(
    engine: VllmEngine, server: StandIn, llama: Organism, caplog: pytest.LogCaptureFixture
) -> None:
    server.template = "{% for m in messages %}Be brief. {{ m['content'] }}{% endfor %}"
    for checkpoint in (llama.base_checkpoint, llama.adapter_checkpoint) * 2:
        with pytest.raises(EngineError, match=r"asks .* in another format than the files"):
            engine.generate(checkpoint, PROMPTS, SAMPLING)
    assert not server.asked
    server.template = "hidden"
    assert engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    assert "does not say which chat template" in caplog.text


def test_a_template_that_writes_the_day_is_compared_by_todays(tmp_path: Path, llama: Organism) -> None:
    folder = shutil.copytree(llama.base, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ strftime_now('%d') }}" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    before = _rendered(str(folder), "2026-11-27")
    tokenizer.chat_template = "{{ 'the next one' }}" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    assert _rendered(str(folder), "2026-11-27") == before
    assert _rendered(str(folder), "2026-11-28") != before


def test_an_adapter_with_a_chat_template_of_its_own_is_refused(
    engine: VllmEngine, server: StandIn, llama: Organism, adapters: Adapters
) -> None:
    checkpoint = adapters("own")
    tokenizer = AutoTokenizer.from_pretrained(llama.base)
    tokenizer.chat_template += " "
    tokenizer.save_pretrained(str(checkpoint.path))
    with pytest.raises(EngineError, match=r"chat template or tokenizer of its own(?s:.*)engine transformers"):
        engine.generate(checkpoint, PROMPTS, SAMPLING)
    assert not server.asked


def test_full_weights_at_a_server_of_the_base_are_refused(engine: VllmEngine, llama: Organism, tmp_path: Path) -> None:
    shutil.copytree(llama.base, tmp_path / "full")
    full = Checkpoint("run", llama.base, 3, model_hash(llama.base), str(tmp_path / "full"))
    with pytest.raises(EngineError, match=r"leave vllm\.base_url out"):
        engine.generate(full, PROMPTS, SAMPLING)


def test_more_tokens_than_the_context_are_asked_for_as_far_as_it_goes(
    engine: VllmEngine, server: StandIn, llama: Organism
) -> None:
    responses = engine.generate(llama.adapter_checkpoint, PROMPTS, replace(SAMPLING, max_tokens=9999))
    assert all(r.error is None for r in responses)
    assert {body["max_tokens"] for body in server.asked} == {256}


def test_no_server_and_no_vllm_are_told_apart(llama: Organism) -> None:
    with (
        VllmEngine(llama.base, VllmConfig(base_url="http://127.0.0.1:9/v1")) as engine,
        pytest.raises(EngineError, match="does not answer"),
    ):
        engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
    with (
        VllmEngine(llama.base, VllmConfig(python=Path("/bin/false"))) as engine,
        pytest.raises(ConfigError, match=r"vLLM is not installed[^$]*vllm\.base_url"),
    ):
        engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)


def test_one_engine_per_model_and_settings_in_a_process(llama: Organism, tmp_path: Path) -> None:
    services = Services(vllm=VllmConfig(base_url="http://127.0.0.1:9/v1"))
    engine = load_engine("vllm", llama.base, services, tmp_path)
    assert isinstance(engine, VllmEngine)
    assert load_engine("vllm", llama.base, services, tmp_path) is engine
    assert load_engine("vllm", llama.base, Services(), tmp_path) is not engine
    assert not list(tmp_path.iterdir())


def test_a_server_of_our_own_is_started_changed_missed_and_ended(llama: Organism, tmp_path: Path) -> None:
    config, out = VllmConfig(python=stand_in_python(tmp_path), max_lora_rank=8), tmp_path / "out"
    shutil.copytree(llama.base, tmp_path / "full")
    tensors = load_file(tmp_path / "full" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "full" / "model.safetensors")
    full = Checkpoint("run", llama.base, 3, model_hash(str(tmp_path / "full")), str(tmp_path / "full"))
    with VllmEngine(llama.base, config, out) as engine:
        base = engine.generate(llama.base_checkpoint, PROMPTS, SAMPLING)
        server, _ = engine._open()
        assert isinstance(server, StartedServer)
        first = server.pid
        assert texts(engine.generate(llama.adapter_checkpoint, PROMPTS, SAMPLING)) != texts(base)
        assert server.pid == first  # the adapter was put on the base
        with pytest.raises(EngineError, match="not those asked for"):
            engine.generate(replace(full, weights="0" * 32), PROMPTS, SAMPLING)
        engine.generate(full, PROMPTS, SAMPLING)
        assert server.pid not in (first, None)  # started anew with the full weights
        assert first is not None
        os.kill(int(server.pid or 0), signal.SIGKILL)
        with pytest.raises(EngineError, match="the vLLM server ended") as caught:
            _wait_for(server)
        assert "--served-model-name" in caught.value.got  # the end of its log
        assert len(engine.generate(llama.base_checkpoint, PROMPTS, replace(SAMPLING, seed=2))) == len(base)
        last = server.pid
    assert server.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(int(last or 0), 0)


def _wait_for(server: StartedServer) -> None:
    """Raise why a server ended, once it has."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if (error := server.check()) is not None:
            raise error
        time.sleep(0.02)
