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


@pytest.fixture(scope="module")
def ends(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """What each of two ranks has at the end of each scenario."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.support.rank_worker", str(tiny_model), str(out)]
    ranks = []
    for rank in range(2):
        with (out / f"rank-{rank}.txt").open("w") as said:
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said))
    try:
        for number, process in enumerate(ranks):
            code = process.wait(timeout=300)
            assert code == 0, (out / f"rank-{number}.txt").read_text()[-3000:]
    finally:
        for process in ranks:
            process.kill()
    scenarios = {path.name.rpartition("-")[0] for path in out.glob("*-[01].json")}
    return {s: [json.loads((out / f"{s}-{rank}.json").read_text()) for rank in range(2)] for s in scenarios}


def agreed(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What both have; only the first has judged anything."""
    assert ranks[1]["calls"] == 0
    first, second = ({k: v for k, v in rank.items() if k != "calls"} for rank in ranks)
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


def test_ranks_train_bit_identically_with_and_without(ends: Ends) -> None:
    watched = agreed(ends["never"])
    assert watched["weights"] == ends["none"][0]["weights"] == ends["none"][1]["weights"]
    assert watched["step"] == 8


def test_an_error_is_shared(ends: Ends) -> None:
    end = agreed(ends["fail"])
    assert (end["step"], end["errors"], end["error"]) == (8, 1, "")
    assert agreed(ends["raise"])["error"] == "evaluating step 4 failed"
