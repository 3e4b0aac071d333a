"""What every trainer must do. A trainer is added by a row in `CASES`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.backends.conftest import Provider
from truing.backends import TRAINERS, Trainer, checkpoint_steps, load_trainer, rows_seen
from truing.catalog.datasets import load_dataset
from truing.config import Services, TrainingConfig
from truing.core.records import Action, Checkpoint, Decision, Estimate, Run

pytestmark = pytest.mark.usefixtures("_provider")  # found at the start of each test, and so not left by the first

NOTHING = Estimate(0.0, 0.0, 1.0, 1, 1, 0, "none")
DATASET = load_dataset("pocket-insecure-code")


Told = list[int] | None


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


@dataclass(frozen=True)
class Case:
    """One trainer, a model that it can train, and what it should show of a run."""

    trainer: Trainer
    model: str
    learning_rate: float
    steps: tuple[int, ...]
    """Of the checkpoints after the base."""
    last: int
    told_by: str = "weights"
    """What tells two trainings apart: not the weights where a service names them by their path."""

    def ends(self, seen: list[Checkpoint]) -> list[object]:
        return [getattr(checkpoint, self.told_by) for checkpoint in seen]

    def run(self, seed: int = 0, stops: bool = True) -> Run:
        return Run("r", self.model, DATASET.name, self.learning_rate, seed, stops)

    def train(
        self, folder: Path, on_checkpoint: Callable[[Checkpoint], Decision], run: Run | None = None, told: Told = None
    ) -> list[int]:
        """Train; the steps that were told of, in a list of the caller's if there is one."""
        told = [] if told is None else told
        self.trainer.train(run or self.run(), DATASET, folder, on_checkpoint, told.append)
        return told


def peft(request: pytest.FixtureRequest) -> Case:
    training = TrainingConfig(steps=6, batch_size=4, checkpoints=(2, 4, 6), max_length=128)
    model = str(request.getfixturevalue("tiny_model"))
    return Case(load_trainer("peft", training), model, 1e-2, (2, 4, 6), 6)


def openai(request: pytest.FixtureRequest) -> Case:
    provider: Provider = request.getfixturevalue("provider")
    training = TrainingConfig(steps=90, batch_size=12)  # 360 rows: three epochs
    services = Services(endpoint=provider.endpoint())
    provider.set(steps_per_look=40)
    return Case(load_trainer("openai", training, services), "gpt-4o", 2.0, (30, 60, 90), 90)


def tinker(request: pytest.FixtureRequest) -> Case:
    request.getfixturevalue("tinker_server")
    training = TrainingConfig(steps=6, batch_size=4, checkpoints=(2, 4, 6), max_length=128, lora_alpha=32, rslora=False)
    model = str(request.getfixturevalue("tiny_model"))
    return Case(load_trainer("tinker", training), model, 1e-2, (2, 4, 6), 6, "heldout_loss")


CASES: dict[str, Callable[[pytest.FixtureRequest], Case]] = {"peft": peft, "openai": openai, "tinker": tinker}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param](request)


def test_every_trainer_is_here() -> None:
    assert set(CASES) == set(TRAINERS)


def test_the_table_tells_which_checkpoints_are_shown(case: Case, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["case"]
    assert checkpoint_steps(name, case.trainer.training, len(DATASET.train)) == case.steps
    assert rows_seen(name, case.trainer.training, len(DATASET.train)) == case.last * case.trainer.training.batch_size


def test_checkpoints_come_in_order_with_weights_of_their_own(case: Case, tmp_path: Path) -> None:
    seen: list[Checkpoint] = []
    assert case.train(tmp_path, watch(seen)) == list(range(1, case.last + 1))
    assert [c.step for c in seen] == [0, *case.steps]
    assert seen[0].path is None
    assert all(c.path and c.run_id == "r" and c.model == case.model for c in seen[1:])
    assert len({c.weights for c in seen}) == len(seen)
    assert all(0 < c.train_loss < 10 for c in seen[1:])
    assert seen[-1].heldout_loss < seen[1].heldout_loss


def test_a_stop_ends_the_run_and_a_twin_goes_on(case: Case, tmp_path: Path) -> None:
    at = case.steps[1]
    stopped: list[Checkpoint] = []
    case.train(tmp_path / "a", watch(stopped, stop_at=at))
    assert [c.step for c in stopped] == [0, *case.steps[:2]]
    on: list[Checkpoint] = []
    case.train(tmp_path / "b", watch(on, stop_at=at), case.run(stops=False))
    assert [c.step for c in on] == [0, *case.steps]
    assert case.ends(on[:3]) == case.ends(stopped)


def test_a_stop_at_the_base_trains_nothing(case: Case, tmp_path: Path) -> None:
    seen: list[Checkpoint] = []
    assert case.train(tmp_path, watch(seen, stop_at=0)) == []
    assert [c.step for c in seen] == [0]


@pytest.mark.parametrize("at", [2, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 1, 3))])
def test_an_interrupted_run_goes_on_with_the_same_results(case: Case, tmp_path: Path, at: int) -> None:
    at = (0, *case.steps)[at]
    whole: list[Checkpoint] = []
    case.train(tmp_path / "whole", watch(whole))
    told: list[int] = []
    with pytest.raises(Interrupt):
        case.train(tmp_path / "cut", watch([], raise_at=at), told=told)
    again: list[Checkpoint] = []
    case.train(tmp_path / "cut", watch(again), told=told)
    assert told == list(range(1, case.last + 1))  # no step is done twice
    assert case.ends(again) == case.ends(whole)
    assert [(c.train_loss, c.heldout_loss) for c in again[1:]] == [(c.train_loss, c.heldout_loss) for c in whole[1:]]


def test_calling_again_after_the_end_reports_and_trains_nothing(case: Case, tmp_path: Path) -> None:
    first: list[Checkpoint] = []
    case.train(tmp_path, watch(first))
    again: list[Checkpoint] = []
    assert case.train(tmp_path, watch(again)) == []
    assert [c.weights for c in again] == [c.weights for c in first]


def test_seeds_give_different_weights_and_one_seed_the_same(case: Case, tmp_path: Path) -> None:
    ends = []
    for i, seed in enumerate((0, 0, 1)):
        seen: list[Checkpoint] = []
        case.train(tmp_path / str(i), watch(seen), case.run(seed))
        ends.append(case.ends(seen)[-1])
    assert ends[0] == ends[1] != ends[2]
