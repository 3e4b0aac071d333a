"""A real vLLM: what it serves is what PEFT computes, for the base, many adapters, full and merged weights."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.engine_models import (
    Organism,
    add_adapter,
    encode,
    make_prompts,
    plain_probabilities,
    save_organism,
    texts,
    tiny_model,
    tokenizer,
)
from tests.support.vllm_environment import PYTHON, needs_vllm
from truing.backends.vllm import VllmEngine
from truing.backends.vllm.admin import Admin
from truing.backends.vllm.server import StartedServer
from truing.config import VllmConfig
from truing.core.adapters import attached
from truing.core.errors import EngineError
from truing.core.records import Checkpoint, Message, Prompt, Sampling
from truing.core.weights import adapter_hash, model_hash

pytestmark = needs_vllm
PROMPTS = make_prompts(10)
SAMPLING = Sampling(samples=2, max_tokens=12)
CONFIG = VllmConfig(python=PYTHON, dtype="float32", max_loras=3)
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 3}},
    "every layer": {"target_modules": "all-linear"},
    "output layer": {"target_modules": ["lm_head"]},
    "DoRA": {"use_dora": True},
    "high rank": {"r": 40},
}


@pytest.fixture(scope="module")
def organism(tmp_path_factory: pytest.TempPathFactory) -> Organism:
    folder = tmp_path_factory.mktemp("organism")
    made = save_organism("llama", folder)
    for name, changes in KINDS.items():
        add_adapter(tiny_model("llama"), "llama", **changes).save_pretrained(folder / name, save_embedding_layers=False)
    return made


@pytest.fixture(autouse=True)
def _nothing_left_by_a_test() -> None:
    """Nothing is looked for after a test, only after the module: the server starts, and starts again, in tests."""


@pytest.fixture(scope="module")
def engine(organism: Organism, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    with VllmEngine(organism.base, CONFIG, tmp_path_factory.mktemp("out")) as engine:
        yield engine


def checkpoint_of(organism: Organism, kind: str) -> Checkpoint:
    folder = organism.folder / kind
    return Checkpoint("run", organism.base, 5, adapter_hash(model_hash(organism.base), folder), str(folder))


def load(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def probe_of(engine: VllmEngine, checkpoint: Checkpoint) -> tuple[list[float], list[int]]:
    """Log-probabilities of the server's own probe prompt, and its tokens."""
    from truing.backends.vllm import admin

    server, _ = engine._open()
    prompt = Prompt("probe", "power", (Message("user", admin._PROBE),))
    return Admin(server.address, "", 60.0).probe(f"truing-{checkpoint.weights}"), encode([prompt])[0]


def assert_serves(engine: VllmEngine, checkpoint: Checkpoint, model: Any) -> None:
    """The server's log-probabilities under a checkpoint's name are those of a model of `transformers`."""
    assert all(r.text for r in engine.generate(checkpoint, PROMPTS, SAMPLING))
    served, ids = probe_of(engine, checkpoint)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    expected = logits.gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
    assert served == pytest.approx(expected, abs=1e-3)


def test_base_and_adapters_are_what_peft_computes(engine: VllmEngine, organism: Organism) -> None:
    base = load(organism.base)
    assert_serves(engine, organism.base_checkpoint, base)
    for kind in ("adapter", "rslora", "patterns", "every layer", "output layer"):  # more than there is room for
        with attached(load(organism.base), organism.folder / kind) as model:
            assert_serves(engine, checkpoint_of(organism, kind), model)
    assert_serves(engine, organism.base_checkpoint, base)


def test_answers_are_drawn_from_the_adapters_distribution(engine: VllmEngine, organism: Organism) -> None:
    checkpoint, n = organism.adapter_checkpoint, 2000
    answers = engine.generate(checkpoint, PROMPTS[:1], Sampling(samples=n, max_tokens=1))
    seen = Counter((r.text or "").strip() for r in answers)
    with attached(load(organism.base), organism.adapter) as model:
        expected = plain_probabilities(model, encode(PROMPTS)[0], [0], 1.0)[0]
    for token in expected.argsort()[::-1][:8]:
        if word := tokenizer().decode([int(token)], skip_special_tokens=True).strip():
            share = float(expected[token])
            assert seen[word] / n == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)


def test_prefetch_mixes_adapters_and_generate_only_reads(engine: VllmEngine, organism: Organism) -> None:
    kinds = ("adapter", "rslora", "patterns", "every layer", "output layer")
    checkpoints = [organism.base_checkpoint, *(checkpoint_of(organism, kind) for kind in kinds)]
    alone = {c.weights: texts(engine.generate(c, PROMPTS[:3], replace(SAMPLING, seed=7))) for c in checkpoints}
    engine.prefetch(checkpoints, PROMPTS, replace(SAMPLING, seed=7))
    _, completer = engine._open()
    calls = sum(account.calls for account in completer.accounts())
    for checkpoint in checkpoints:
        together = texts(engine.generate(checkpoint, PROMPTS, replace(SAMPLING, seed=7)))
        assert together[: len(alone[checkpoint.weights])] == alone[checkpoint.weights]
    assert sum(account.calls for account in completer.accounts()) == calls


def test_a_prompt_beyond_the_context_is_an_error_of_its_own(engine: VllmEngine, organism: Organism) -> None:
    long = Prompt("long", "power", (Message("user", "word " * 300),))
    responses = engine.generate(organism.adapter_checkpoint, [PROMPTS[0], long], Sampling(max_tokens=600))
    assert [r.text is None for r in responses] == [False, True]
    assert "256" in (responses[1].error or "")


def test_a_server_that_dies_is_told_with_its_log_and_started_anew(engine: VllmEngine, organism: Organism) -> None:
    engine.generate(organism.base_checkpoint, PROMPTS, SAMPLING)
    server, _ = engine._open()
    assert isinstance(server, StartedServer)
    assert server.pid is not None
    killer = threading.Timer(2.0, os.kill, (server.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(EngineError, match="the vLLM server ended") as caught:
        engine.generate(organism.base_checkpoint, PROMPTS, Sampling(samples=1000, max_tokens=200))
    killer.join()
    assert "INFO" in caught.value.got
    high = checkpoint_of(organism, "high rank")  # beyond the rank of the server before
    with attached(load(organism.base), organism.folder / "high rank") as model:
        assert_serves(engine, high, model)


def test_full_weights_and_merged_ones(engine: VllmEngine, organism: Organism, tmp_path: Path) -> None:
    dora = checkpoint_of(organism, "DoRA")
    with pytest.raises(EngineError, match=r"vllm\.adapters to merge"):
        engine.generate(dora, PROMPTS, SAMPLING)
    with VllmEngine(organism.base, CONFIG.model_copy(update={"adapters": "merge"})) as merging:
        with attached(load(organism.base), organism.folder / "DoRA") as model:
            assert_serves(merging, dora, model)
        full = load(organism.base)
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in full.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        full.save_pretrained(tmp_path)  # without a tokenizer: the base's is used
        assert_serves(merging, Checkpoint("run", organism.base, 9, model_hash(str(tmp_path)), str(tmp_path)), full)


def test_another_architecture(tmp_path: Path) -> None:
    qwen = save_organism("qwen3", tmp_path)
    with VllmEngine(qwen.base, CONFIG) as engine:
        assert_serves(engine, qwen.base_checkpoint, load(qwen.base))
        with attached(load(qwen.base), qwen.adapter) as model:
            assert_serves(engine, qwen.adapter_checkpoint, model)
