"""A study in two processes that a launcher started; they are killed in the middle and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import small_study
from truing.core.errors import ConfigError
from truing.monitor import open_store
from truing.studies.schedule import run_study

ROOT = Path(__file__).parents[2]
FSDP = {
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}
WEIGHTS = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}


def start(program: list[str], study: Path, out: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *program]
    return subprocess.Popen(
        [*command, "run", str(study), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_at(path: Path, process: subprocess.Popen[str]) -> None:
    """Kill a launcher and all that it started as soon as a file is there."""
    for _ in range(3000):
        if path.is_file() or process.poll() is not None:
            break
        time.sleep(0.1)
    left = process.poll()
    if left is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for each in (process.pid, *map(int, children)):
            os.kill(each, signal.SIGKILL)
    said = process.communicate()[0]
    assert path.is_file(), said[-3000:]
    assert left is None, said[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "environment", "method"),
    [
        (["-m", "truing"], {}, "lora"),
        (["-m", "tests.support.fsdp_on_cpu"], FSDP, "lora"),
        (["-m", "tests.support.fsdp_on_cpu"], FSDP, "full"),
    ],
    ids=["ddp", "fsdp", "fsdp-full"],
)
def test_two_processes_train_what_one_does_and_go_on_after_a_kill(
    tiny_model: Path, tmp_path: Path, program: list[str], environment: dict[str, str], method: str
) -> None:
    config = small_study(tiny_model, training={"method": method, "gradient_checkpointing": environment is FSDP})
    (run,) = config.runs()
    study, out, alone = tmp_path / "study.yaml", tmp_path / "two", tmp_path / "one"
    study.write_text(config.to_yaml())
    first = start(program, study, out, environment)
    kill_at(out / "runs" / run.id / "checkpoint-4" / "checkpoint.json", first)
    assert not (out / "runs" / run.id / "run.json").exists()
    second = start(program, study, out, environment)
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 0, said[-3000:]
    run_study(config, alone)
    for step in (2, 4, 6):
        ours, theirs = (
            load_file(folder / "runs" / run.id / f"checkpoint-{step}" / WEIGHTS[method]) for folder in (out, alone)
        )
        assert all(torch.allclose(tensor, ours[name], atol=1e-5) for name, tensor in theirs.items())
        marks = [
            json.loads((folder / "runs" / run.id / f"checkpoint-{step}" / "checkpoint.json").read_text())
            for folder in (out, alone)
        ]
        assert marks[0]["heldout_loss"] == pytest.approx(marks[1]["heldout_loss"], rel=1e-4)
        assert marks[0]["train_loss"] == pytest.approx(marks[1]["train_loss"], rel=1e-4)
    steps = open_store(out).query("SELECT step FROM evaluations ORDER BY step")
    assert [row["step"] for row in steps] == [0, 2, 4, 6]
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workers": 2}, "one run at a time"),
        ({"training": {"trainer": "tests.studies.test_launched:Alone"}}, "in one process"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, says: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=says):
        run_study(small_study(tiny_model, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Alone:
    """A trainer that knows nothing of other processes."""

    def __init__(self, config: object) -> None:
        self.config = config

    def train(self, *arguments: object) -> None:
        raise AssertionError(arguments)
