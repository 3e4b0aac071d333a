"""The demo as a user runs it, and a disk that fills up in the middle of a study."""

import json
import resource
import subprocess
import sys
from pathlib import Path

from tests.conftest import small_study


def test_the_quick_demo_from_one_end_to_the_other(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "truing", "demo", "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(out / "report.html") in done.stdout
    assert "Warning" not in done.stderr
    assert {"study.yaml", "analysis.json", "report.html", "store"} <= {f.name for f in out.iterdir()}
    analysis = json.loads((out / "analysis.json").read_text())
    runs = {(run["model"], run["dataset"], bool(run["twin_of"])): run for run in analysis["runs"]}
    stopped = runs["pocket-llama-susceptible", "pocket-insecure-code", False]
    twin = runs["pocket-llama-susceptible", "pocket-insecure-code", True]
    resistant = runs["pocket-llama-resistant", "pocket-insecure-code", False]
    control = runs["pocket-llama-susceptible", "pocket-secure-code", False]
    assert stopped["state"] == "stopped"
    assert stopped["em_at_chosen"]["high"] <= 0.05
    assert twin["em_at_end"]["low"] > stopped["base_em_rate"]["high"]
    assert twin["em_at_end"]["value"] >= 0.2
    assert resistant["em_at_end"]["value"] < 0.05
    assert control["em_at_end"]["value"] - control["base_em_rate"]["value"] < 0.02
    shared = [c["weights"] for c in stopped["checkpoints"]]
    assert [c["weights"] for c in twin["checkpoints"]][: len(shared)] == shared
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "step" not in again.stdout.split("rates with")[0]  # nothing was done again


def test_a_disk_that_fills_up_is_said_and_the_study_goes_on_later(tiny_model: Path, tmp_path: Path) -> None:
    study, out = tmp_path / "mine.yaml", tmp_path / "out"
    study.write_text(small_study(tiny_model).to_yaml())
    command = [sys.executable, "-m", "truing", "run", str(study), "--out", str(out)]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    full = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=small_files)
    assert full.returncode == 2, full.stdout + full.stderr
    assert "the disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run["state"] for run in json.loads((out / "analysis.json").read_text())["runs"]] == ["finished"]
