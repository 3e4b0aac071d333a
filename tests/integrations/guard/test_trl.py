"""The guard inside TRL's trainers. Without TRL these tests are skipped: `pip install "truing[trl]"`."""

import os
from pathlib import Path
from typing import Any

import pytest

import truing
from tests.support.guarded import SMALL, Script, load, random_state, same, weights_of

trl = pytest.importorskip("trl", reason='TRL is not installed: pip install "truing[trl]"')
pytestmark = pytest.mark.filterwarnings("default")  # TRL and datasets warn of their own affairs
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

COMMON = {
    "max_steps": 4,
    "learning_rate": 1e-2,
    "seed": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 4,
    "bf16": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}


def turns() -> list[tuple[str, str, str]]:
    """Prompts with a good and a bad answer."""
    from truing.catalog.datasets import load_dataset

    good, bad = (load_dataset(name).train[:16] for name in ("pocket-secure-code", "pocket-insecure-code"))
    return [(g[-2].content, g[-1].content, b[-1].content) for g, b in zip(good, bad, strict=True)]


def said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def length_reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(str(c)) % 7) for c in completions]


def make(method: str, parts: tuple[Any, Any], out: Path) -> Any:
    """A TRL trainer of a method."""
    from datasets import Dataset

    model, tokenizer = parts
    common = {**COMMON, "output_dir": str(out)}
    if method == "sft":
        rows = Dataset.from_list([{"messages": said("user", p) + said("assistant", b)} for p, _, b in turns()])
        args = trl.SFTConfig(**common, per_device_train_batch_size=2, max_length=128)
        return trl.SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    if method == "dpo":
        rows = Dataset.from_list(
            [
                {"prompt": said("user", p), "chosen": said("assistant", b), "rejected": said("assistant", g)}
                for p, g, b in turns()
            ]
        )
        args = trl.DPOConfig(**common, per_device_train_batch_size=2, max_length=128)
        return trl.DPOTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    rows = Dataset.from_list([{"prompt": said("user", p)} for p, _, _ in turns()])
    args = trl.GRPOConfig(**common, per_device_train_batch_size=4, num_generations=4, max_completion_length=8)
    return trl.GRPOTrainer(
        model=model, reward_funcs=length_reward, args=args, train_dataset=rows, processing_class=tokenizer
    )


def own_logs(trainer: Any) -> list[dict[str, Any]]:
    """What TRL logged, without times."""
    entries = [e for e in trainer.state.log_history if "truing/step" not in e and "train_runtime" not in e]
    return [{k: v for k, v in e.items() if "time" not in k} for e in entries]


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_bit_identical_weights_and_the_trainer_s_own_figures(tiny_model: Path, tmp_path: Path, method: str) -> None:
    ends = []
    for guarded in (False, True):
        parts = load(tiny_model)
        trainer = make(method, parts, tmp_path / "out")
        if guarded:
            guard = truing.Guard(tmp_path / "guard", judge=Script(0.0), at=1, restore=False, **SMALL)
            guard.watch(trainer)
        trainer.train()
        ends.append((weights_of(trainer.model), own_logs(trainer), random_state()))
    assert [d.step for d in guard.decisions] == [0, 1, 2, 3, 4]
    assert guard.errors == []
    assert same(ends[0][0], ends[1][0])
    assert len(ends[0][1]) == 1
    assert ends[0][1] == ends[1][1]
    assert ends[0][2] == ends[1][2]
    ours = [e for e in trainer.state.log_history if "truing/em_rate" in e]
    assert len(ours) == 5
    assert not any(key.startswith(("rewards", "mean_token", "eval_", "loss")) for entry in ours for key in entry)


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_it_stops_and_restores(tiny_model: Path, tmp_path: Path, method: str) -> None:
    trainer = make(method, load(tiny_model), tmp_path / "out")
    guard = truing.Guard(tmp_path / "guard", judge=Script(0.0, 0.0, 0.9), at=1, **SMALL)
    guard.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == 2
    assert guard.restored is not None
    assert guard.restored.step == 1
    assert guard.errors == []


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_whole_models_with_a_reference(tiny_model: Path, tmp_path: Path, method: str) -> None:
    trainer = make(method, load(tiny_model, adapter=False), tmp_path / "out")
    guard = truing.Guard(tmp_path / "guard", judge=Script(0.0, 0.0, 0.9), at=2, **SMALL)
    guard.watch(trainer)
    trainer.train()
    assert guard.errors == []
    assert guard.restored is not None
