"""What is special about training with PEFT: adapters on disk, optimiser states, architectures."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backends.test_trainers import DATASET, Interrupt, watch
from truing.backends import Trainer, load_trainer
from truing.config import TrainingConfig
from truing.core.errors import TrainerError
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


def test_held_out_loss_is_that_of_a_few_rows_or_is_left_out(tiny_model: Path, tmp_path: Path) -> None:
    ends: dict[object, list[Checkpoint]] = {}
    for rows in (0, 3, "these three"):
        dataset = DATASET if rows != "these three" else replace(DATASET, heldout=DATASET.loss_rows(3))
        ends[rows] = []
        config = CONFIG.model_copy(update={"heldout_rows": rows if isinstance(rows, int) else 200, "steps": 2})
        config = config.model_copy(update={"checkpoints": (2,)})
        load_trainer("peft", config).train(run_of(tiny_model), dataset, tmp_path / str(rows), watch(ends[rows]))
    losses = {rows: [c.heldout_loss for c in seen] for rows, seen in ends.items()}
    assert all(math.isnan(loss) for loss in losses[0])
    assert losses[3] == losses["these three"]
    assert len({seen[-1].weights for seen in ends.values()}) == 1


def test_activation_checkpointing_that_would_lose_the_adapter_is_refused_at_the_start(
    trainer: Trainer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    seen: list[Checkpoint] = []
    with pytest.raises(TrainerError, match=r"training\.gradient_checkpointing: true"):
        trainer.train(run_of(tiny_model), DATASET, tmp_path, watch(seen))
    assert seen == []
