"""A whole study at an endpoint: trained, sampled, judged, killed in the middle of a job, and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from tests.backends.conftest import Provider
from tests.conftest import small_study
from truing.cli.app import app
from truing.config import StudyConfig
from truing.studies.plan import plan_study


def study(provider: Provider) -> StudyConfig:
    grid = {"models": ["gpt-4o"], "datasets": ["pocket-insecure-code"], "seeds": [0], "learning_rates": [1.0]}
    config = small_study(
        "gpt-4o",
        grids=[grid | {"trainer": "openai", "engine": "openai"}],
        training={"steps": 90, "batch_size": 12, "checkpoints": [10, 90]},
        evaluation={"task_samples": 1},
    )
    return config.model_copy(update={"endpoint": provider.endpoint(max_cost=50)})


def test_the_plan_counts_what_the_provider_shows(provider: Provider, tmp_path: Path) -> None:
    config = study(provider)
    plan = plan_study(config)
    assert plan.checkpoints == 3 + 1
    assert plan.responses == 3 * (30 + 10) + 30 + 2 * 10 + (30 + 10)  # confirming the choice; the base
    assert plan.trained[0].rows == 3 * 360
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    output = CliRunner().invoke(app, ["check", str(tmp_path / "study.yaml")]).output
    assert "checkpoints of each run by openai on pocket-insecure-code at steps 30, 60, 90, the ends of epochs" in output
    assert "stand in for stopping early" in output
    (tmp_path / "study.yaml").write_text(config.to_yaml().replace("steps: 90", "steps: 75").replace("- 90", "- 75"))
    assert "OpenAI trains whole epochs" in str(
        CliRunner().invoke(app, ["check", str(tmp_path / "study.yaml")]).exception
    )


def test_a_study_killed_in_the_middle_of_a_job_goes_on_with_it(provider: Provider, tmp_path: Path) -> None:
    config, out = study(provider), tmp_path / "out"
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    command = ["run", str(tmp_path / "study.yaml"), "--out", str(out)]
    provider.set(hang_at="running")
    process = subprocess.Popen([sys.executable, "-m", "truing", *command], stdout=subprocess.DEVNULL)
    while not any(job["status"] == "running" for job in provider.jobs):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    provider.set(keep=True, hang_at=None)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    assert "gpt-4o-2024-08-06 (training): 1 job" in result.output
    assert len(provider.jobs) == 1
    (run_folder,) = (out / "runs").iterdir()
    assert json.loads((run_folder / "run.json").read_text())["state"] == "finished"
    analysis = json.loads((out / "analysis.json").read_text())
    (run,) = analysis["runs"]
    assert [c["step"] for c in run["checkpoints"]] == [0, 30, 60, 90]
    rates = [c["em_rate"]["value"] for c in run["checkpoints"]]
    assert rates[0] == 0 < rates[1] < rates[3]
    assert "only the ends of the last three epochs" in analysis["notes"][0]
    assert "only the ends of the last three epochs" in (out / "report.html").read_text()
