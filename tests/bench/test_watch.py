"""The watch beside real trainings: each is stopped at the checkpoint at which an audit afterwards says it should be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("training", ["trainer", "epochs", "shards"])
def test_a_training_is_stopped_at_the_right_checkpoint(training: str, tmp_path: Path) -> None:
    command = [sys.executable, "bench/watch.py", "--trainings", training, "--pace", "0.5", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["stopped"] == found["should"] is not None, found
    assert found["exit"] == 1
    assert found["delay"]["most"] < 120
    assert (tmp_path / training / "STOP").is_file()
