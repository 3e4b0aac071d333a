"""What every trainer must do. Slow ones are marked where they are added to `CASES`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from truing.checkpoints import adapter_hash, model_hash
from truing.config import TrainingConfig
from truing.datasets import load_dataset
from truing.records import Action, Checkpoint, Decision, Estimate, Run
from truing.trainers import Trainer, load_trainer

CONFIG = TrainingConfig(steps=6, batch_size=4, checkpoints=(2, 4, 6), max_length=128)
NOTHING = Estimate(0.0, 0.0, 1.0, 1, 1, 0, "none")
DATASET = load_dataset("pocket-insecure-code")


class Interrupt(Exception):
    """Stands for a kill at some checkpoint."""


def watch(seen: list[Checkpoint], stop_at: int = -1, raise_at: int = -1) -> Callable[[Checkpoint], Decision]:
    def on_checkpoint(checkpoint: Checkpoint) -> Decision:
        if checkpoint.step == raise_at:
            raise Interrupt
        seen.append(checkpoint)
        action = Action.STOP if checkpoint.step == stop_at else Action.CONTINUE
        return Decision(action, checkpoint.step, "", NOTHING)

    return on_checkpoint


def run_of(model: Path, seed: int = 0, stops: bool = True) -> Run:
    return Run("r", str(model), "pocket-insecure-code", 1e-2, seed, stops)


@pytest.fixture
def trainer() -> Trainer:
    return load_trainer("peft", CONFIG)


def test_checkpoints_come_in_order_and_are_what_is_on_disk(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    seen: list[Checkpoint] = []
    steps: list[int] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch(seen), steps.append)
    assert [c.step for c in seen] == [0, 2, 4, 6]
    assert steps == [1, 2, 3, 4, 5, 6]
    base = model_hash(str(tiny_model))
    assert (seen[0].weights, seen[0].path) == (base, None)
    for checkpoint in seen[1:]:
        assert checkpoint.path is not None
        assert adapter_hash(base, Path(checkpoint.path)) == checkpoint.weights
    assert len({c.weights for c in seen}) == 4
    assert seen[-1].heldout_loss < seen[0].heldout_loss
    assert 0 < seen[1].train_loss < 10


def test_a_stop_ends_training_and_a_twin_goes_on(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    stopped: list[Checkpoint] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path / "a", watch(stopped, stop_at=4))
    assert [c.step for c in stopped] == [0, 2, 4]
    assert not (tmp_path / "a" / "checkpoint-6").exists()
    on: list[Checkpoint] = []
    trainer.train(run_of(tiny_model, stops=False), DATASET, tmp_path / "b", watch(on, stop_at=4))
    assert [c.step for c in on] == [0, 2, 4, 6]
    assert [c.weights for c in on[:3]] == [c.weights for c in stopped]


@pytest.mark.parametrize("at", [0, 2, 4, 6])
def test_an_interrupted_run_goes_on_bit_identically(
    trainer: Trainer, tiny_model: Path, tmp_path: Path, at: int
) -> None:
    whole: list[Checkpoint] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path / "whole", watch(whole))
    with pytest.raises(Interrupt):
        trainer.train(run_of(tiny_model), DATASET, tmp_path / "cut", watch([], raise_at=at))
    again: list[Checkpoint] = []
    steps: list[int] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path / "cut", watch(again), steps.append)
    assert [c.weights for c in again] == [c.weights for c in whole]
    assert steps == list(range(at + 1, 7))
    assert [(c.train_loss, c.heldout_loss) for c in again[1:]] == [(c.train_loss, c.heldout_loss) for c in whole[1:]]


def test_a_half_written_checkpoint_is_made_anew(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupt):
        trainer.train(run_of(tiny_model), DATASET, tmp_path, watch([], raise_at=4))
    (tmp_path / "checkpoint-4" / "checkpoint.json").unlink()
    (tmp_path / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"half")
    seen: list[Checkpoint] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch(seen))
    assert [c.step for c in seen] == [0, 2, 4, 6]


def test_calling_again_after_the_end_reports_and_trains_nothing(
    trainer: Trainer, tiny_model: Path, tmp_path: Path
) -> None:
    first: list[Checkpoint] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch(first))
    again: list[Checkpoint] = []
    steps: list[int] = []
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch(again), steps.append)
    assert [c.weights for c in again] == [c.weights for c in first]
    assert steps == []


def test_seeds_give_different_weights_and_one_seed_the_same(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    ends = []
    for i, seed in enumerate((0, 0, 1)):
        seen: list[Checkpoint] = []
        trainer.train(run_of(tiny_model, seed), DATASET, tmp_path / str(i), watch(seen))
        ends.append(seen[-1].weights)
    assert ends[0] == ends[1] != ends[2]


def test_only_the_newest_checkpoint_keeps_its_optimiser(trainer: Trainer, tiny_model: Path, tmp_path: Path) -> None:
    trainer.train(run_of(tiny_model), DATASET, tmp_path, watch([]))
    assert [(tmp_path / f"checkpoint-{s}" / "optimizer.pt").exists() for s in (2, 4, 6)] == [
        False,
        False,
        True,
    ]
