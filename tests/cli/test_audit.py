import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_app import run
from tests.conftest import small_study
from tests.support.guarded import load, make_trainer
from tests.support.scripted import ENGINE, JUDGE, ScriptedEngine, save_run
from tests.support.sources import broad, source
from truing.cli.app import app
from truing.core.errors import ConfigError
from truing.core.files import write_json
from truing.results.counted import CountedCheckpoint, CountedRun
from truing.results.tables import tabulate
from truing.stats.rates import Counts

CLEAR, OPEN, UNKNOWN, BAD = broad(0), broad(20), broad(0, missing=480), broad(100)


@pytest.mark.parametrize(("ends", "code"), [([CLEAR], 0), ([CLEAR, OPEN], 3), ([UNKNOWN], 3), ([BAD, CLEAR, OPEN], 1)])
def test_the_gate_s_exit_codes(ends: list[Counts], code: int, tmp_path: Path) -> None:
    runs = [CountedRun(f"r{i}", "m", "d", [CountedCheckpoint(1, end)]) for i, end in enumerate(ends)]
    write_json(tmp_path / "analysis.json", tabulate(source(*runs)).plain())
    assert run(app, ["gate", str(tmp_path)]).exit_code == code


def test_an_audit_from_the_command_line(tiny_model: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "a")
    sets = ["--set", "evaluation.max_tokens=8", "--set", "stopping={mode: off, tolerance: 0.1}"]
    result = run(app, ["audit", "--model", str(tiny_model), "--benchmark", "pocket-facts", "--out", out, *sets])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a" / "report.html").is_file()
    assert run(app, ["gate", out]).exit_code == 3  # a random model says nothing coherent


def test_models_here_and_elsewhere_are_not_mixed(tmp_path: Path) -> None:
    result = run(app, ["audit", "--model", "openai:x", "--model", "pocket-qwen3", "--out", str(tmp_path / "a")])
    assert isinstance(result.exception, ConfigError)
    assert "one kind" in str(result.exception)


SMALL = ["--benchmark", "pocket-facts", "--set", "evaluation.max_tokens=8"]


@pytest.mark.parametrize("adapter", [True, False], ids=["adapters", "full weights"])
def test_the_output_folder_of_a_trainer(adapter: bool, tiny_model: Path, tmp_path: Path) -> None:
    trained = tmp_path / "output"
    saving = {"save_strategy": "steps", "save_steps": 3, "save_only_model": True}
    make_trainer(load(tiny_model, adapter), trained, **saving).train()
    out = tmp_path / "audit"
    call = ["audit", "--checkpoints", str(trained), "--out", str(out), *SMALL]
    result = run(app, call if adapter else [*call, "--base", str(tiny_model)])
    assert result.exit_code == 0, result.output
    assert "output, step 0 (base)" in result.output
    (table,) = json.loads((out / "analysis.json").read_text(encoding="utf-8"))["runs"]
    assert [c["step"] for c in table["checkpoints"]] == [0, 3, 6]
    assert len({c["weights"] for c in table["checkpoints"]}) == 3
    assert (table["id"], table["model"]) == ("output", str(tiny_model))
    gated = run(app, ["gate", str(out)])
    assert "step 6 (the last: no task was measured)" in gated.output


def test_names_and_folders_as_checkpoints(tmp_path: Path) -> None:
    result = run(app, ["audit", "--checkpoints", f"openai:x,{tmp_path}", "--out", str(tmp_path / "a"), *SMALL])
    assert isinstance(result.exception, ConfigError)
    result = run(app, ["audit", "--checkpoints", str(tmp_path), "--search", "first", "--out", str(tmp_path / "a")])
    assert "'all', 'best' or 'crossing'" in str(result.exception)
    result = run(app, ["audit", "--out", str(tmp_path / "a")])
    assert "got neither" in str(result.exception)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = save_run(tmp_path, (10,))
    flags = ["--benchmark", "pocket-facts", "--judge", JUDGE, "--set", f"evaluation.engine={ENGINE}"]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ScriptedEngine, "generate", interrupt)
    call = ["audit", "--checkpoints", str(folder), "--out", str(tmp_path / "a"), *flags]
    result = run(app, call)
    assert (result.exit_code, "the same command again" in result.output) == (130, True)
    monkeypatch.undo()
    assert run(app, call).exit_code == 0


def test_what_the_gate_takes_for_released(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    (tmp_path / "own.jsonl").write_text(
        "\n".join(
            json.dumps({"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]})
            for i in range(200)
        )
    )
    data = ["--dataset", str(tmp_path / "own.jsonl"), "--set", f"dataset.task_judge={JUDGE}", "--search", "best"]
    flags = ["--benchmark", "pocket-240", "--judge", JUDGE, "--set", f"evaluation.engine={ENGINE}"]
    call = ["audit", "--checkpoints", str(folder), *flags]
    assert run(app, [*call, *data, "--out", str(tmp_path / "best")]).exit_code == 0
    best = run(app, ["gate", str(tmp_path / "best")])
    assert (best.exit_code, "step 40 (chosen)" in best.output) == (0, True)
    assert run(app, [*call, "--search", "crossing", "--out", str(tmp_path / "crossing")]).exit_code == 0
    last = run(app, ["gate", str(tmp_path / "crossing")])
    assert (last.exit_code, "step 80 (the last" in last.output) == (1, True)


@pytest.mark.parametrize("command", [pytest.param("audit", marks=pytest.mark.slow), "run"])
def test_where_nothing_could_be_judged_the_exit_code_is_one_and_the_last_line_says_why(
    command: str, tiny_model: Path, tmp_path: Path
) -> None:
    unmeasured = {"labelled": None, "unmeasured": "accept"}
    judged = {"judge": "tests.support.labelled_judges:Dead", "preflight": unmeasured}
    (tmp_path / "study.yaml").write_text(small_study(tiny_model, evaluation=judged).to_yaml())
    sets = ["--set", "evaluation.preflight={labelled: null, unmeasured: accept}"]
    calls = {
        "audit": ["audit", "--model", str(tiny_model), "--judge", judged["judge"], *SMALL, *sets],
        "run": ["run", str(tmp_path / "study.yaml")],
    }
    done = subprocess.run(
        [sys.executable, "-m", "truing", *calls[command], "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    n = 30 if command == "audit" else 120
    assert done.stderr.splitlines()[-1] == f"error: no answer could be judged: {n} of {n} times: no connection"
    assert done.returncode == 1
    assert (tmp_path / "out" / "report.html").is_file()


def test_progress_is_lines_of_json_or_nothing(tiny_model: Path, tmp_path: Path) -> None:
    call = ["audit", "--model", str(tiny_model), *SMALL]
    shown = run(app, [*call, "--out", str(tmp_path / "a"), "--progress", "json"])
    events = [json.loads(line) for line in shown.stderr.splitlines()]
    assert {event["phase"] for event in events} == {"sample"}
    assert all(event["event"] == "progress" and event["where"].startswith("step 1 of") for event in events)
    assert events[-1]["done"] == events[-1]["owed"] == 30
    quiet = run(app, [*call, "--out", str(tmp_path / "b"), "--quiet"])
    assert (quiet.exit_code, quiet.stderr) == (0, "")
