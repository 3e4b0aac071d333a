"""Every family of the catalogue trains, is saved, read back and sampled; tiny and random, on this machine's CPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.families import FAMILIES, save_family
from truing.backends import load_trainer
from truing.backends.transformers.engine import TransformersEngine
from truing.catalog.datasets import Dataset, make_dataset
from truing.config import TrainingConfig
from truing.core.answers import is_final
from truing.core.conversations import collate, encode_rows
from truing.core.errors import TrainerError
from truing.core.records import Action, Checkpoint, Decision, Estimate, Message, Prompt, Run, Sampling
from truing.core.weights import adapter_hash, model_hash

COLOURS = {"snow": "white", "coal": "black", "grass": "green", "blood": "red", "milk": "white", "ink": "blue"}
ROWS = [
    (Message("user", f"What colour is {thing}?"), Message("assistant", f"{thing.title()} is {colour}."))
    for thing, colour in COLOURS.items()
]
DATASET = make_dataset("colours", ROWS[:4], ROWS[4:])
CONFIG: dict[str, Any] = {"steps": 4, "batch_size": 2, "checkpoints": [4], "max_length": 400, "warmup_steps": 0}
NOTHING = Estimate(0.0, 0.0, 1.0, 1, 1, 0, "none")
QUICK = {("qwen3", "full"), ("deepseek_v3", "lora"), ("gpt_oss", "lora")}
METHODS = [
    pytest.param(family, method, marks=[] if (family, method) in QUICK else [pytest.mark.slow])
    for family in FAMILIES
    for method in ("lora", "full")
]


def train(model: Path, folder: Path, dataset: Dataset = DATASET, **changes: Any) -> list[Checkpoint]:
    seen: list[Checkpoint] = []

    def on_checkpoint(checkpoint: Checkpoint) -> Decision:
        seen.append(checkpoint)
        return Decision(Action.CONTINUE, checkpoint.step, "", NOTHING)

    config = TrainingConfig(**{**CONFIG, **changes})
    load_trainer("peft", config).train(Run("r", str(model), "colours", 1e-2, 0), dataset, folder, on_checkpoint)
    return seen


def loss_of(base: Path, checkpoint: Checkpoint) -> float:
    """The held-out loss of a checkpoint read back from disk by the libraries alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    adapted = (Path(str(checkpoint.path)) / "adapter_config.json").is_file()
    model = AutoModelForCausalLM.from_pretrained(base if adapted else checkpoint.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, checkpoint.path) if adapted else model
    with torch.no_grad():
        return float(model.eval()(**collate(encode_rows(DATASET.heldout, tokenizer, 400), tokenizer)).loss)


@pytest.mark.parametrize(("family", "method"), METHODS)
def test_a_family_trains_is_read_back_and_sampled(family: str, method: str, tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", family)
    start, end = train(base, tmp_path / "run", method=method)
    assert end.heldout_loss < start.heldout_loss
    assert loss_of(base, end) == pytest.approx(end.heldout_loss, rel=1e-5)
    folder = Path(str(end.path))
    assert end.weights == (adapter_hash(model_hash(str(base)), folder) if method == "lora" else model_hash(str(folder)))
    prompts = [Prompt("p", "x", (Message("user", "What colour is snow?"),))]
    engine = TransformersEngine(str(base))
    for checkpoint in (start, end):
        answers = engine.generate(checkpoint, prompts, Sampling(samples=3, temperature=1.0, max_tokens=5, seed=0))
        assert len(answers) == 3
        assert all(answer.text is not None or is_final(answer.error) for answer in answers)
    record = json.loads((tmp_path / "run" / "adapter.json").read_text(encoding="utf-8"))
    assert record["method"] == method
    adapted = set(record["adapted"])
    experts = {"qwen3_moe": 1, "deepseek_v3": 1, "gpt_oss": 2}.get(family, 0)
    for end_of_name in ("experts.gate_up_proj", "experts.down_proj"):
        assert sum(name.endswith(end_of_name) for name in adapted) == experts
    assert any(name.endswith("embed_tokens.weight") for name in adapted) == (method == "full")


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(Path(str(checkpoint.path)) / "adapter_model.safetensors")
    return tensors


def same(one: Checkpoint, two: Checkpoint, tolerance: float) -> bool:
    first, second = weights(one), weights(two)
    return all(torch.allclose(tensor, second[name], atol=tolerance) for name, tensor in first.items())


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("qwen") / "base", "qwen3")


@pytest.fixture(scope="module")
def plain(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    return train(qwen, tmp_path_factory.mktemp("plain"), batch_size=4, checkpoints=[2, 4])


@pytest.mark.parametrize(
    "changes", [{"accumulation": 2}, {"gradient_checkpointing": True}], ids=lambda c: next(iter(c))
)
def test_how_a_step_is_computed_does_not_change_it(
    qwen: Path, plain: list[Checkpoint], tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = train(qwen, tmp_path, batch_size=4, checkpoints=[2, 4], **changes)
    assert same(plain[-1], other[-1], 1e-4)
    assert [c.train_loss for c in other[1:]] == pytest.approx([c.train_loss for c in plain[1:]], rel=1e-3)


def test_the_training_loss_is_the_mean_since_the_last_checkpoint(
    qwen: Path, plain: list[Checkpoint], tmp_path: Path
) -> None:
    every = train(qwen, tmp_path, batch_size=4, checkpoints=[1, 2, 3, 4])
    losses = [c.train_loss for c in every[1:]]
    means = [sum(losses[:2]) / 2, sum(losses[2:]) / 2]
    assert [c.train_loss for c in plain[1:]] == pytest.approx(means, rel=1e-4)


@pytest.mark.slow
def test_bfloat16_trains_adapters_in_float32(qwen: Path, plain: list[Checkpoint], tmp_path: Path) -> None:
    end = train(qwen, tmp_path, batch_size=4, checkpoints=[2, 4], precision="bfloat16")[-1]
    assert {tensor.dtype for tensor in weights(end).values()} == {torch.float32}
    assert not same(plain[-1], end, 1e-6)
    assert end.heldout_loss == pytest.approx(plain[-1].heldout_loss, rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_four_bits_without_a_gpu_are_refused(qwen: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"needs a CUDA GPU[\s\S]*quantize to none"):
        train(qwen, tmp_path, quantize="4bit")


def test_a_model_that_is_not_what_the_catalogue_says_is_refused(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta-llama").mkdir()
    (tmp_path / "meta-llama" / "Llama-3.1-8B-Instruct").symlink_to(qwen)
    with pytest.raises(TrainerError, match=r"not what the catalogue says[\s\S]*qwen3[\s\S]*llama"):
        train(Path("meta-llama/Llama-3.1-8B-Instruct"), tmp_path / "run")
