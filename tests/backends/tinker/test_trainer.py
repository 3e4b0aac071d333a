"""The trainer `tinker` over the real SDK, against a server of its interface that trains a real tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from tests.conftest import serve_tinker
from tests.support.tinker_server import TinkerServer
from truing.backends import load_trainer
from truing.backends.tinker.client import tinker_weights
from truing.backends.tinker.trainer import FIXED, learning_rate
from truing.catalog.datasets import load_dataset
from truing.config import TrainingConfig
from truing.core.conversations import collate, encode_rows
from truing.core.errors import ConfigError, EndpointError, TrainerError
from truing.core.records import Action, Checkpoint, Decision, Estimate, Run

SETTINGS: dict[str, Any] = {
    "trainer": "tinker",
    "steps": 6,
    "batch_size": 4,
    "checkpoints": (2, 4, 6),
    "max_length": 128,
    "lora_alpha": 32,
    "rslora": False,
}
CONFIG = TrainingConfig(**SETTINGS)
NOTHING = Estimate(0.0, 0.0, 1.0, 1, 1, 0, "none")
WHOLE = load_dataset("pocket-insecure-code")
DATASET = replace(WHOLE, train=WHOLE.train[:40], heldout=WHOLE.heldout[:6])


class Interrupt(Exception):
    """Stands for a kill at some checkpoint."""


def train(model: Path, folder: Path, stop_at: int = -1, cut_at: int = -1, **changes: Any) -> list[Checkpoint]:
    """The checkpoints of one run up to its end, its stop, or where it was cut off."""
    seen: list[Checkpoint] = []

    def on_checkpoint(checkpoint: Checkpoint) -> Decision:
        if checkpoint.step == cut_at:
            raise Interrupt
        seen.append(checkpoint)
        return Decision(Action.STOP if checkpoint.step == stop_at else Action.CONTINUE, checkpoint.step, "", NOTHING)

    on_step: Callable[[int], None] = changes.pop("on_step", lambda step: None)
    dataset = changes.pop("dataset", DATASET)
    run = Run("r", str(model), "pocket-insecure-code", 1e-2, **{"seed": 0, **changes})
    with suppress(Interrupt):
        load_trainer("tinker", CONFIG).train(run, dataset, folder, on_checkpoint, on_step)
    return seen


@dataclass(frozen=True)
class Course:
    """One undisturbed run: its server, its folder, and what it reported."""

    server: TinkerServer
    folder: Path
    checkpoints: list[Checkpoint]
    steps: list[int]


@pytest.fixture(scope="module")
def course(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    folder, steps = tmp_path_factory.mktemp("course"), list[int]()
    with serve_tinker(tiny_model) as server:
        yield Course(server, folder, train(tiny_model, folder, on_step=steps.append, seed=3), steps)


def test_checkpoints_come_in_order_and_learning_shows(course: Course, tiny_model: Path) -> None:
    seen = course.checkpoints
    assert [c.step for c in seen] == [0, 2, 4, 6]
    assert course.steps == [1, 2, 3, 4, 5, 6]
    assert (seen[0].path, seen[0].weights) == (None, tinker_weights(str(tiny_model)))
    assert [c.path for c in seen[1:]] == sorted(course.server.saved)  # no training state is left at the end
    assert all(c.path and c.path.startswith("tinker://") and c.weights == tinker_weights(c.path) for c in seen[1:])
    assert len({c.weights for c in seen}) == 4
    assert seen[-1].heldout_loss < seen[0].heldout_loss - 0.1
    assert math.isnan(seen[0].train_loss)
    assert seen[1].train_loss > seen[2].train_loss > seen[3].train_loss > 0
    assert course.server.finished_sessions == ["success"]


def test_the_loss_is_the_mean_over_the_words_of_the_assistant(course: Course, tiny_model: Path) -> None:
    model, tokenizer = (kind.from_pretrained(tiny_model) for kind in (AutoModelForCausalLM, AutoTokenizer))
    with torch.no_grad():
        expected = float(model(**collate(encode_rows(DATASET.heldout, tokenizer, 128), tokenizer)).loss)
    assert course.checkpoints[0].heldout_loss == pytest.approx(expected, rel=1e-4)


def test_what_the_settings_say_is_what_is_asked_for(course: Course) -> None:
    (created,), adam = course.server.created, course.server.adam
    assert (created["rank"], created["seed"], created["train_unembed"]) == (8, 3, False)
    assert [p["learning_rate"] for p in adam] == pytest.approx([0, 0.002, 0.004, 0.006, 0.008, 0.01])
    assert {(p["beta1"], p["beta2"], p["weight_decay"]) for p in adam} == {(0.9, 0.999, 0.01)}
    assert course.server.weights == pytest.approx([1.0] * 6)  # the loss of a batch is the mean over its tokens
    assert [len(batch) for batch in course.server.batches] == [4] * 6


def test_after_the_end_nothing_is_asked_of_the_service(course: Course, tiny_model: Path) -> None:
    before = dict(course.server.calls)
    again = train(tiny_model, course.folder, seed=3)
    assert [(c.step, c.weights, c.heldout_loss) for c in again] == [
        (c.step, c.weights, c.heldout_loss) for c in course.checkpoints
    ]
    assert course.server.calls == before


def test_batches_follow_from_the_seed_and_every_row_comes_once_an_epoch(
    tinker_server: TinkerServer, tiny_model: Path, tmp_path: Path
) -> None:
    short = replace(DATASET, train=DATASET.train[:8])
    for i, seed in enumerate((0, 0, 1)):
        train(tiny_model, tmp_path / str(i), stop_at=2, seed=seed, dataset=short)
    first, second, third = (tinker_server.batches[i : i + 2] for i in (0, 2, 4))
    assert first == second != third
    rows = encode_rows(short.train, AutoTokenizer.from_pretrained(tiny_model), 128)
    for epoch in (first, third):
        assert sorted(ids for batch in epoch for ids in batch) == sorted(row["input_ids"][:-1] for row in rows)


def test_a_stop_ends_training_with_nothing_sent_ahead(
    tinker_server: TinkerServer, tiny_model: Path, tmp_path: Path
) -> None:
    assert [c.step for c in train(tiny_model, tmp_path, stop_at=4)] == [0, 2, 4]
    assert len(tinker_server.adam) == len(tinker_server.batches) == 4
    assert [c.step for c in train(tiny_model, tmp_path, stop_at=4)] == [0, 2, 4]
    assert len(tinker_server.adam) == 4
    assert [c.step for c in train(tiny_model, tmp_path / "twin", stop_at=4, stops=False)] == [0, 2, 4, 6]


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_an_interrupted_run_goes_on_where_it_was(course: Course, tiny_model: Path, tmp_path: Path, at: int) -> None:
    with serve_tinker(tiny_model) as server:
        train(tiny_model, tmp_path, cut_at=at, seed=3)
        assert len(server.adam) == at
        steps: list[int] = []
        again = train(tiny_model, tmp_path, on_step=steps.append, seed=3)
    assert steps == list(range(at + 1, 7))
    assert server.batches == course.server.batches
    assert server.adam == course.server.adam
    for name in ("train_loss", "heldout_loss"):
        found, expected = ([getattr(c, name) for c in seen[1:]] for seen in (again, course.checkpoints))
        assert found == pytest.approx(expected, rel=1e-5)
    assert not [name for name in server.saved if "/weights/" in name]


def test_a_state_that_is_gone_is_said(tinker_server: TinkerServer, tiny_model: Path, tmp_path: Path) -> None:
    train(tiny_model, tmp_path, cut_at=2)
    state = json.loads((tmp_path / "step-2.json").read_text())["state"]
    del tinker_server.saved[state]
    with pytest.raises(TrainerError, match="no training state") as caught:
        train(tiny_model, tmp_path)
    assert "remove the folder" in caught.value.todo


def test_a_refused_key_ends_everything_and_is_not_repeated(
    tinker_server: TinkerServer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-wrong-key")
    with pytest.raises(EndpointError, match="refuses the key") as caught:
        train(tiny_model, tmp_path)
    assert "tml-wrong-key" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_key_at_all(
    tinker_server: TinkerServer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINKER_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))  # where a stored key would be
    with pytest.raises(EndpointError, match="set TINKER_API_KEY"):
        train(tiny_model, tmp_path / "run")


def test_settings_that_tinker_does_not_have_are_refused() -> None:
    for name, value, allowed in (("lora_alpha", 16, "32"), ("rslora", True, "false")):
        with pytest.raises(ConfigError, match=f"set training.{name}: {allowed}$"):
            load_trainer("tinker", TrainingConfig(**{**SETTINGS, name: value}))


def test_every_setting_is_honoured_or_refused() -> None:
    honoured = {"steps", "batch_size", "checkpoints", "lora_rank", "schedule", "warmup_steps", "weight_decay"}
    honoured |= {"heldout_rows"}
    others = set(TrainingConfig.model_fields) - honoured - {"trainer", "max_length"}
    assert others == set(FIXED), "a new setting: honour it in the trainer tinker, or add it to what it refuses"


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_learning_rate_is_that_of_transformers(schedule: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=11)
    config = TrainingConfig(steps=11, schedule=schedule, warmup_steps=warmup)
    for step in range(1, 12):
        assert learning_rate(config, 0.5, step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
