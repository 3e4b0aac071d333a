"""A guard whose checkpoints a real vLLM serves, while training goes on."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import truing
from tests.integrations.guard.test_elsewhere import At
from tests.integrations.guard.test_ranks import FSDP, agreed, run_ranks
from tests.support.engine_models import save_organism
from tests.support.guarded import SMALL, Keep, Script, load, make_trainer, same, weights_of
from tests.support.vllm_environment import PYTHON, needs_vllm
from truing.backends.vllm.server import StartedServer
from truing.config import VllmConfig
from truing.core.records import Action
from truing.core.weights import model_hash

pytestmark = needs_vllm
CONFIG = VllmConfig(python=PYTHON, dtype="float32", max_loras=3)


@pytest.fixture(autouse=True)
def _nothing_left_by_a_test() -> None:
    """Nothing is looked for after a test, only after the module: the server is there for several."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_organism("llama", tmp_path_factory.mktemp("organism")).base)


@pytest.fixture(scope="module")
def elsewhere(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedServer]:
    """A server that somebody else has started."""
    server = StartedServer(CONFIG, str(model), tmp_path_factory.mktemp("server"))
    server.serve(str(model), model_hash(str(model)), 8)
    yield server
    server.close()


def guard_of(folder: Path, *rates: float, **settings: Any) -> truing.Guard:
    judge = Script(*rates)
    judge.careless = False
    return truing.Guard(folder / "guard", judge=judge, engine="vllm", **{"at": 2, **SMALL, **settings})


def test_adapters_are_served_elsewhere_and_the_best_is_put_back(
    model: Path, elsewhere: StartedServer, tmp_path: Path
) -> None:
    kept, parts = Keep(), load(model)
    trainer = make_trainer(parts, tmp_path / "out", [kept], max_steps=40)
    guard = guard_of(tmp_path, 0.0, 0.0, 0.0, 0.9, lag=5, vllm={"base_url": elsewhere.address, "max_loras": 3})
    guard.watch(trainer)
    trainer.train()
    assert guard.errors == []
    assert guard.decisions[3].action is Action.STOP
    assert all(0 <= record.lag <= 5 for record in guard.records)
    assert trainer.state.global_step == 6 + guard.records[3].lag
    assert guard.restored is not None
    assert guard.restored.step == 4
    assert same(weights_of(parts[0]), kept.weights[4])
    served = {e.checkpoint.weights for e in guard.evaluations}
    assert len(served) == len(guard.records)
    assert {f"truing-{weights}" for weights in served} & elsewhere.admin.models().keys()


def test_adapters_of_a_sharded_model_are_served(model: Path, elsewhere: StartedServer, tmp_path: Path) -> None:
    ends = run_ranks("sharded_worker", tmp_path, [str(model), str(tmp_path), elsewhere.address], FSDP, sys.executable)
    end = agreed(ends["stop-adapter"])
    assert (end["errors"], end["error"], end["restored"]) == ([], "", 4)
    assert (end["as_kept"], end["as_saved"]) == (True, True)
    assert end["records"][3][:2] == [6, "stop"]


def test_a_server_that_is_killed_is_told_and_training_goes_on(
    model: Path, elsewhere: StartedServer, tmp_path: Path
) -> None:
    def kill() -> None:
        assert elsewhere.pid is not None
        os.kill(elsewhere.pid, signal.SIGKILL)

    guard = guard_of(tmp_path, 0.0, vllm={"base_url": elsewhere.address, "timeout": 20.0})
    trainer = make_trainer(load(model), tmp_path / "out", [guard, At(5, kill)], max_steps=8)
    trainer.train()
    assert trainer.state.global_step == 8
    assert [str(d.action) for d in guard.decisions] == ["continue"] * 3 + ["undecided"] * 2
    assert guard.errors
    assert all("vLLM server" in error for error in guard.errors), guard.errors
    assert guard.restored is not None
    assert guard.restored.step == 4


def test_full_weights_are_served_by_a_server_of_the_guard_s_own(model: Path, tmp_path: Path) -> None:
    parts = load(model, adapter=False)
    guard = guard_of(tmp_path, 0.0, 0.9, at=4, vllm={"python": PYTHON, "dtype": "float32"}, restore=False)
    trainer = make_trainer(parts, tmp_path / "out", [guard], max_steps=8)
    trainer.train()
    assert guard.errors == []
    assert [(d.step, str(d.action)) for d in guard.decisions] == [(0, "continue"), (4, "stop")]
