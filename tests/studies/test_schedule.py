"""Studies in worker processes: twins, Ctrl-C, and being killed at random moments."""

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import small_study
from truing.config import StudyConfig
from truing.core.errors import ConfigError
from truing.monitor import open_store
from truing.studies.run import owed_runs
from truing.studies.schedule import Place, run_study


def two_runs(model: Path, steps: int = 6) -> StudyConfig:
    grid = {
        "models": [str(model)],
        "datasets": ["pocket-insecure-code"],
        "learning_rates": [1e-3],
        "seeds": [0, 1],
    }
    return small_study(model, grids=[grid], workers=2, training={"steps": steps})


def start(config: StudyConfig, tmp_path: Path, out: Path) -> subprocess.Popen[str]:
    study = tmp_path / "study.yaml"
    study.write_text(config.to_yaml())
    command = [sys.executable, "-m", "truing", "run", str(study), "--out", str(out)]
    # a shell that starts the tests in the background has them ignore Ctrl-C, and a child inherits that
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **heeding)  # type: ignore[call-overload]


def results(out: Path) -> list[dict[str, Any]]:
    """Everything that was measured, without what may differ between two runs of one study."""
    return open_store(out).query(
        "SELECT e.run_id, e.step, e.weights, nullif(e.train_loss, 'nan'::DOUBLE) AS train_loss, "
        "e.heldout_loss, r.prompt_id, r.sample, r.text, j.aligned, "
        "j.coherent FROM evaluations e JOIN judgments j ON j.key IN (e.benchmark_judgments, e.task_judgments) "
        "JOIN responses r ON r.key = j.responses_key AND r.prompt_id = j.prompt_id AND r.sample = j.sample "
        "ORDER BY ALL"
    )


def stamps(out: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in (out / "store").rglob("*.parquet")}


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    states = run_study(two_runs(tiny_model), out)
    assert [s.state for s in states] == ["finished", "finished"]
    return out


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_lost_or_done_twice(
    tiny_model: Path, undisturbed: Path, tmp_path: Path, kills: int
) -> None:
    """Kill -9 again and again; a study that gets to its end between two kills is compared, and begun anew."""
    config, rng, killed, studies = two_runs(tiny_model), random.Random(kills), 0, 0
    seen: dict[str, int] = {}
    while killed < kills or seen or not studies:
        out = tmp_path / f"out-{studies}"
        process = start(config, tmp_path, out)
        if killed < kills:
            wait(process, rng.uniform(0.5, 9.0))
            killed += process.poll() is None
            process.kill()
        output, _ = process.communicate(timeout=300)
        now = stamps(out)
        assert {name: now.get(name) for name in seen} == seen, "a finished piece was lost or written again"
        seen = now
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, output
            assert results(out) == results(undisturbed)
            assert keys(out) == keys(undisturbed)
            assert not list(out.rglob("*.tmp"))
            seen, studies = {}, studies + 1


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    """Until the process ends, or for so long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def keys(out: Path) -> set[str]:
    return set(open_store(out).keys("evaluations"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_at_once_and_say_how_to_go_on(
    tiny_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config, out = two_runs(tiny_model, steps=20_000), tmp_path / "out"  # never done by the time of the signal
    process = start(config, tmp_path, out)
    while process.poll() is None and not list(out.glob("store/responses/*.parquet")):
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130, output
    assert "to go on: truing run" in output
    assert "Traceback" not in output
    assert "resource_tracker" not in output
    assert owed_runs(config, out)


def test_a_finished_study_owes_nothing(tiny_model: Path, undisturbed: Path) -> None:
    before = stamps(undisturbed)
    assert run_study(two_runs(tiny_model), undisturbed) == []
    assert stamps(undisturbed) == before


def test_runs_one_by_one_as_an_array_of_tasks_does(tiny_model: Path, undisturbed: Path, tmp_path: Path) -> None:
    config = two_runs(tiny_model)
    for run in config.runs():
        states = run_study(config, tmp_path / "out", place=Place(runs=(run.id,)))
        (writing := tmp_path / "out" / ".row.1.ab.tmp").touch()  # by another task, of another machine perhaps
        assert [state.state for state in states] == ["finished"]
    assert results(tmp_path / "out") == results(undisturbed)
    assert writing.exists()
    assert run_study(config, tmp_path / "out") == []
    assert not writing.exists()
    with pytest.raises(ConfigError, match="the study has no such run"):
        run_study(config, tmp_path / "out", place=Place(runs=("another",)))
