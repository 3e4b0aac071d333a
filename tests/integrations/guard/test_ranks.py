"""Two processes over gloo: one evaluates, both act alike."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # two processes with torch each

ROOT = Path(__file__).parents[3]
Ends = dict[str, list[dict[str, Any]]]


def run_ranks(worker: str, out: Path, arguments: list[str], environment: dict[str, str], python: str) -> Ends:
    """What each of two ranks of a worker has at the end of each scenario."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT / "src")}
    shared = {**os.environ, **place, **environment}
    ranks = []
    for rank in range(2):
        with (out / f"rank-{rank}.txt").open("w") as said:
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [python, "-m", f"tests.support.{worker}", *arguments]
            ranks.append(subprocess.Popen(command, cwd=ROOT, env=own, stdout=said, stderr=said))
    try:
        for number, process in enumerate(ranks):
            code = process.wait(timeout=600)
            assert code == 0, (out / f"rank-{number}.txt").read_text()[-3000:]
    finally:
        for process in ranks:
            process.kill()
    scenarios = {path.name.rpartition("-")[0] for path in out.glob("*-[01].json")}
    return {s: [json.loads((out / f"{s}-{rank}.json").read_text()) for rank in range(2)] for s in scenarios}


@pytest.fixture(scope="module")
def ends(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """What each of two ranks has at the end of each scenario."""
    out = tmp_path_factory.mktemp("ranks")
    return run_ranks("rank_worker", out, [str(tiny_model), str(out)], {}, sys.executable)


def agreed(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What both have; only the first has judged anything."""
    own = ("calls", "judged", "asked")
    assert not any(ranks[1].get(name) for name in own)
    first, second = ({k: v for k, v in rank.items() if k not in own} for rank in ranks)
    assert first == second
    return first


def test_all_ranks_stop_and_restore_alike(ends: Ends) -> None:
    end = agreed(ends["stop"])
    assert (end["step"], end["best"], end["restored"]) == (6, 4, 4)
    assert [r[1] for r in end["records"]] == ["continue", "continue", "continue", "stop"]
    assert end["logged"] == [0, 2, 4, 6]


def test_all_ranks_take_late_decisions_at_one_step(ends: Ends) -> None:
    end = agreed(ends["overlap"])
    assert end["records"][3][:2] == [6, "stop"]
    assert end["restored"] == 4 or end["step"] == 8


def test_all_ranks_wait_for_what_is_due(ends: Ends) -> None:
    end = agreed(ends["late"])
    assert [record[1] for record in end["records"][:4]] == ["continue", "continue", "continue", "stop"]
    assert all(lag <= 1 for *_, lag in end["records"])
    assert (end["restored"], end["errors"]) == (4, 0)


def test_ranks_train_bit_identically_with_and_without(ends: Ends) -> None:
    watched = agreed(ends["never"])
    assert watched["weights"] == ends["none"][0]["weights"] == ends["none"][1]["weights"]
    assert watched["step"] == 8


def test_an_error_is_shared(ends: Ends) -> None:
    end = agreed(ends["fail"])
    assert (end["step"], end["errors"], end["error"]) == (8, 1, "")
    assert agreed(ends["raise"])["error"] == "the judge Script: judging failed"


FSDP = {
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_ACTIVATION_CHECKPOINTING": "true",
}
ZERO = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
ZERO |= dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size"), "auto")


@pytest.fixture(scope="module", params=["fsdp", "zero"])
def sharded(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """The same, of trainings whose weights are spread over the ranks."""
    out = tmp_path_factory.mktemp(request.param)
    arguments, python = [str(tiny_model), str(out)], sys.executable
    if request.param == "fsdp":
        return run_ranks("sharded_worker", out, arguments, FSDP, python)
    python = os.environ.get("TRUING_DEEPSPEED_PYTHON") or pytest.skip(
        "set TRUING_DEEPSPEED_PYTHON to the Python of an environment with DeepSpeed"
    )
    (out / "zero.json").write_text(json.dumps({**ZERO, "zero_force_ds_cpu_optimizer": False}))
    return run_ranks("sharded_worker", out, [*arguments, str(out / "zero.json")], {}, python)


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_sharded_weights_are_gathered_judged_and_put_back(sharded: Ends, kind: str) -> None:
    for scenario in ("stop", "wait"):
        end = agreed(sharded[f"{scenario}-{kind}"])
        assert (end["errors"], end["error"]) == ([], "")
        assert (end["as_kept"], end["as_saved"]) == (True, True)
        assert "stop" in [action for _, action, _ in end["records"]]
        assert all(lag <= (3 if scenario == "stop" else 0) for _, _, lag in end["records"])
        assert end["restored"] == (4 if scenario == "stop" else 2)


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_sharded_training_is_bit_identical_with_and_without(sharded: Ends, kind: str) -> None:
    watched = agreed(sharded[f"never-{kind}"])
    assert watched["weights"] == sharded[f"none-{kind}"][0]["weights"]
    assert [step for step, *_ in watched["records"]] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_sharded_training_outlives_its_server_and_is_never_sampled_live(sharded: Ends, kind: str) -> None:
    dead = agreed(sharded[f"dead-{kind}"])
    assert (dead["step"], dead["restored"]) == (8, None)
    assert {action for _, action, _ in dead["records"]} == {"undecided"}
    assert len(dead["errors"]) == 5
    assert agreed(sharded[f"live-{kind}"])["error"].startswith("a guard cannot sample from a sharded")
