"""What is special about training with PEFT: adapters on disk, optimiser states, architectures."""

from pathlib import Path

import pytest

from tests.backends.test_trainers import DATASET, Interrupt, watch
from truing.backends import Trainer, load_trainer
from truing.config import TrainingConfig
from truing.core.records import Checkpoint, Run
from truing.core.weights import adapter_hash, model_hash

CONFIG = TrainingConfig(steps=6, batch_size=4, checkpoints=(2, 4, 6), max_length=128)


def run_of(model: Path) -> Run:
    return Run("r", str(model), "pocket-insecure-code", 1e-2, 0)


@pytest.fixture
def trainer() -> Trainer:
    return load_trainer("peft", CONFIG)


def test_what_is_reported_is_what_is_on_disk(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    seen: list[Checkpoint] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch(seen))
    base = model_hash(str(tiny_model))
    assert seen[0].weights == base
    for checkpoint in seen[1:]:
        assert checkpoint.path is not None
        assert adapter_hash(base, Path(checkpoint.path)) == checkpoint.weights


def test_a_stop_saves_nothing_further(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch([], stop_at=4))
    assert not (tmp_path / "checkpoint-6").exists()


def test_a_half_written_checkpoint_is_made_anew(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupt):
        trainer.train(run_of(tiny_model), DATASET, tmp_path, watch([], raise_at=4))
    (tmp_path / "checkpoint-4" / "checkpoint.json").unlink()
    (tmp_path / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"half")
    seen: list[Checkpoint] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch(seen))
    assert [c.step for c in seen] == [0, 2, 4, 6]


def test_only_the_newest_checkpoint_keeps_its_optimiser(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch([]))
    kept = [(tmp_path / f"checkpoint-{step}" / "optimizer.pt").exists() for step in (2, 4, 6)]
    assert kept == [False, False, True]
