"""Studies on a Ray cluster of two nodes: the same results, also when a node or the driver is killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.backends.transformers.test_completer import save_judge
from tests.conftest import small_study
from tests.studies.test_schedule import results, two_runs
from tests.support.counted import LOADS
from truing.config import StudyConfig
from truing.monitor import open_store
from truing.studies.run import owed_runs
from truing.studies.schedule import run_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'truing[ray]'"),
]
ROOT = Path(__file__).parents[2]
TRUING = ("-m", "truing")
IMPATIENT = (
    "from truing.cli import main; from truing.studies import on_ray; on_ray.LOST, on_ray.PLACING = 6, 30; main()"
)

COUNTED = "tests.support.counted:Counted"
GPUS = """
import json, os, time, ray
from truing.studies.on_ray import _keep_to_one_gpu

def work(seconds):
    _keep_to_one_gpu()
    time.sleep(seconds)
    return os.getpid(), ray.get_runtime_context().get_accelerator_ids()["GPU"][0]

ray.init("local", num_cpus=3, num_gpus=3, log_to_driver=False, logging_level=40)
task, used = ray.remote(num_cpus=1, num_gpus=1, max_retries=3, max_calls=0)(work), []
for waits in ((0.1, 0.7, 0.4), (1, 0.5, 0.1), (0.1, 0.7, 0.4), (1, 0.5, 0.1)):
    used += ray.get([task.remote(wait) for wait in waits])
    time.sleep(2)  # its processes are idle, and Ray gives them any GPU
print(json.dumps(used))
"""


class Nodes:
    """A cluster of two nodes that take one run each, and drivers of studies on it."""

    def __init__(self) -> None:
        command = [sys.executable, str(ROOT / "tests/support/ray_cluster.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._environment = {**os.environ, "RAY_ADDRESS": self._read()}

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill_one(self, how: str = "") -> None:
        assert self._process.stdin is not None
        print(how, file=self._process.stdin, flush=True)
        assert self._read() == "killed"

    def start(self, config: StudyConfig, out: Path, *flags: str, how: Sequence[str] = TRUING) -> subprocess.Popen[str]:
        study = out.with_suffix(".yaml")
        study.write_text(config.to_yaml())
        command = [sys.executable, *how, "run", str(study), "--out", str(out), "--on", "ray", *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=self._environment, **pipes)  # type: ignore[call-overload, no-any-return]

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_study(two_runs(tiny_model), out)
    return out


def wait_for_an_evaluation(driver: subprocess.Popen[str], out: Path) -> None:
    while not list((out / "store").glob("evaluations/*.parquet")):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)


def end(driver: subprocess.Popen[str]) -> str:
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    return output


def test_the_store_is_that_of_local_workers(nodes: Nodes, tiny_model: Path, undisturbed: Path, tmp_path: Path) -> None:
    config, out = two_runs(tiny_model), tmp_path / "out"
    output = end(nodes.start(config, out))
    assert all(run.id in output for run in config.runs())  # news of each have come here
    assert results(out) == results(undisturbed)
    assert owed_runs(config, out) == []


def test_a_process_that_runs_loads_each_base_once_and_runs_share_a_gpu(
    nodes: Nodes, tiny_model: Path, tmp_path: Path
) -> None:
    grid = two_runs(tiny_model).grids[0].model_dump() | {
        "models": [str(tiny_model), "pocket-qwen3"],
        "seeds": [0, 1, 2],
    }
    config, out = small_study(tiny_model, grids=[grid], evaluation={"engine": COUNTED}), tmp_path / "out"
    end(nodes.start(config, out, "--resources", "CPU=0.5,GPU=0.5"))
    loads = [json.loads(line) for line in (out / LOADS).read_text().splitlines()]
    assert len({(load["process"], load["model"]) for load in loads}) == len(loads)  # of 6 runs and 18 checkpoints
    assert {load["model"] for load in loads} == {str(tiny_model), "pocket-qwen3"}
    assert all(load["gpus"] == ["0"] for load in loads)
    shares = Counter(node for node, _ in {(load["node"], load["process"]) for load in loads})
    assert max(shares.values()) == 2


def test_a_process_keeps_to_its_gpu() -> None:
    done = subprocess.run([sys.executable, "-c", GPUS], capture_output=True, text=True, timeout=300, check=True)
    used = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[")))  # Ray writes there, too
    assert len({process for process, _ in used}) == len({(process, gpu) for process, gpu in used})
    assert {gpu for _, gpu in used} == {"0", "1", "2"}


def test_a_node_that_is_killed_costs_what_was_in_flight(
    nodes: Nodes, tiny_model: Path, undisturbed: Path, tmp_path: Path
) -> None:
    config, out = two_runs(tiny_model), tmp_path / "out"
    driver = nodes.start(config, out)
    wait_for_an_evaluation(driver, out)
    done = {file: file.stat().st_mtime_ns for file in (out / "store").rglob("*.parquet")}
    nodes.kill_one()
    end(driver)
    assert results(out) == results(undisturbed)
    assert done == {file: file.stat().st_mtime_ns for file in done}  # nothing was done twice


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_killed_goes_on(
    nodes: Nodes, tiny_model: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config, out = two_runs(tiny_model), tmp_path / "out"
    driver = nodes.start(config, out)
    wait_for_an_evaluation(driver, out)
    driver.send_signal(number)
    said, _ = driver.communicate()
    asked = number == signal.SIGTERM
    assert (driver.returncode, "to go on: truing run" in said) == (130 if asked else -number, asked)
    assert "SIGTERM received" not in said  # as Ray's own handler prints
    end(nodes.start(config, out))
    assert owed_runs(config, out) == []
    assert results(out) == results(undisturbed)


@pytest.mark.parametrize("killed", [False, True])
def test_one_judge_for_all_runs_says_what_one_in_each_process_says(
    killed: bool, nodes: Nodes, tiny_model: Path, tmp_path: Path
) -> None:
    judge = {"completer": "local", "model": str(save_judge(tmp_path / "judge", "whole"))}
    told = {"judge": judge, "preflight": {"labelled": None}, "max_tokens": 8}
    config = small_study(
        tiny_model, grids=[g.model_dump() for g in two_runs(tiny_model).grids], evaluation=told, workers=2
    )
    run_study(config, tmp_path / "here")
    driver = nodes.start(config, tmp_path / "there", "--judge-resources", "CPU=0")
    if killed:
        wait_for_an_evaluation(driver, tmp_path / "there")
        nodes.kill_one()
    end(driver)
    here, there = (
        open_store(tmp_path / name).query("SELECT * FROM judgments ORDER BY ALL") for name in ("here", "there")
    )
    assert here == there
    assert any(row["aligned"] is not None for row in here)


def test_a_judge_that_finds_no_place_ends_the_study(nodes: Nodes, tiny_model: Path, tmp_path: Path) -> None:
    judge = {"completer": "local", "model": str(save_judge(tmp_path / "judge", "whole"))}
    told = {"judge": judge, "preflight": {"labelled": None}, "max_tokens": 8}
    config = small_study(tiny_model, grids=[g.model_dump() for g in two_runs(tiny_model).grids], evaluation=told)
    out = tmp_path / "out"
    driver = nodes.start(config, out, "--judge-resources", "CPU=1,first=1", how=("-c", IMPATIENT))
    wait_for_an_evaluation(driver, out)
    nodes.kill_one("lose")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 1
    assert "the judge of all runs was lost and waits for a node with CPU=1, first=1 free" in output
    assert "the judge of all runs was lost and finds no place" in output
    assert "declare a resource for it alone on two nodes" in output


def test_random_kills_lose_nothing_and_cost_what_was_in_flight() -> None:
    command = [sys.executable, str(ROOT / "bench/kills.py"), "--repetitions", "1", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_no_node_has_is_said(nodes: Nodes, tiny_model: Path, tmp_path: Path) -> None:
    driver = nodes.start(two_runs(tiny_model), tmp_path / "out", "--resources", "CPU=1,judge=1")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 2
    assert "no node of the Ray cluster can take a run" in output
    assert "CPU=1, judge=1; nodes have" in output
    driver = nodes.start(two_runs(tiny_model), tmp_path / "other", "--judge-resources", "CPU=2")
    assert "no node of the Ray cluster can take the judge" in driver.communicate(timeout=300)[0]
