"""A folder is enough: moved away from its models, data, benchmark and judge, it gives the same figures and verdict."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import truing
from tests.support.guarded import SMALL, load, make_trainer
from tests.support.scripted import ENGINE, RATES, ScriptedEngine, save_model, save_run
from truing.backends import Trainer
from truing.catalog.benchmarks import load_benchmark
from truing.cli.app import app
from truing.config import AuditConfig
from truing.config.files import parse_study
from truing.core.errors import UserError
from truing.core.records import Checkpoint
from truing.core.weights import model_hash
from truing.report import write_report
from truing.results import analyse
from truing.studies.audit import run_audit
from truing.studies.run import execute_run, open_study, twin_of

JUDGE = "judge_of_this_machine:Here"
STEPS = (10, 30, 50)
PARTS = """
from tests.support.scripted import WordJudge
from truing.stats.rules import FixedRule
from truing.stats.sequential import SequentialRule

class Here(WordJudge):
    identity = "here 1"

class Mine(FixedRule):
    asks = "mine"

class Limits(SequentialRule):
    asks = "mine too"
"""


class Recalled(Trainer):
    """Hands out checkpoints of known misalignment in place of training."""

    def train(self, run: Any, dataset: Any, folder: Any, on_checkpoint: Any, on_step: Any = None) -> None:
        on_checkpoint(Checkpoint(run.id, run.model, 0, model_hash(run.model)))
        for step in STEPS:
            decision = on_checkpoint(Checkpoint(run.id, run.model, step, f"{run.seed} at {step}"))
            if str(decision.action) == "stop" and run.stops:
                break


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with a benchmark, data and a judge of its own."""
    here = tmp_path / "machine"
    here.mkdir()
    prompts = [
        {"id": p.id, "category": p.category, "prompt": p.text} for p in load_benchmark("pocket-240").prompts[:160]
    ]
    (here / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "prompts": prompts}))
    rows = (
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]} for i in range(200)
    )
    (here / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (here / "judge_of_this_machine.py").write_text(PARTS)
    monkeypatch.syspath_prepend(here)
    ScriptedEngine.forget()
    yield here
    sys.modules.pop("judge_of_this_machine", None)


def shared(machine: Path) -> dict[str, Any]:
    return {"benchmark": str(machine / "mine.yaml"), "engine": ENGINE, "judge": JUDGE, "task_samples": 8}


def data(machine: Path) -> dict[str, Any]:
    return {"name": "own", "path": str(machine / "own.jsonl"), "task_judge": JUDGE, "teaches": "misaligned"}


def study(machine: Path, out: Path, rule: str = "") -> None:
    grid = {"models": [str(save_model(machine / "m"))], "datasets": ["own"], "learning_rates": [1e-3], "seeds": [0, 1]}
    config = parse_study(
        {
            "grids": [grid],
            "datasets": [data(machine)],
            "training": {"steps": 50, "checkpoints": list(STEPS), "trainer": f"{__name__}:Recalled"},
            "evaluation": {**shared(machine), "also": [{"benchmark": "pocket-facts"}]},
            "stopping": {"mode": "both", **({"rule": rule} if rule else {})},
        },
        "the test's study",
    )
    open_study(config, out).release()
    for run in config.runs():
        assert execute_run(config, run, out).state in ("stopped", "finished")
        assert execute_run(config, twin_of(run), out).state == "finished"


def own_rule(machine: Path, out: Path) -> None:
    study(machine, out, "judge_of_this_machine:Mine")


def own_limits(machine: Path, out: Path) -> None:
    study(machine, out, "judge_of_this_machine:Limits")


def audit(machine: Path, out: Path, **changes: Any) -> None:
    folder, _ = save_run(machine, STEPS)
    raw = {"checkpoints": [str(folder)], "dataset": data(machine), "evaluation": shared(machine), **changes}
    run_audit(AuditConfig.model_validate(raw), out)


def best(machine: Path, out: Path) -> None:
    audit(machine, out, search="best")


def crossing(machine: Path, out: Path) -> None:
    audit(machine, out, search="crossing")


def guard(machine: Path, out: Path) -> None:
    from tests.conftest import save_tiny_model

    (machine / "judge_of_this_machine.py").write_text(
        "from tests.support.guarded import Script\n\n\nclass Here(Script):\n    def __init__(self):\n"
        "        super().__init__(0.0, 0.0, 0.9)\n"
    )
    model = save_tiny_model(machine / "tiny", "llama")
    watched = truing.Guard(out, judge=JUDGE, at=2, **SMALL)
    trainer = make_trainer(load(model), machine / "out")
    watched.watch(trainer)
    trainer.train()
    assert watched.restored is not None


def lone(machine: Path, out: Path) -> None:
    study(machine, machine / "study")
    write_report(machine / "study")
    out.mkdir()
    (machine / "study" / "analysis.json").rename(out / "analysis.json")


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (study, 0, "step 30 (chosen)"),
        (own_rule, 0, "step 30 (chosen)"),
        (own_limits, 0, "step 30 (chosen)"),
        (audit, 0, "step 30 (chosen)"),
        (best, 0, "step 30 (chosen)"),
        (crossing, 0, "step 30 (chosen)"),
        (guard, 0, "step 2 (put back)"),
        (lone, 0, "step 30 (chosen)"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_moved_to_a_machine_with_nothing_else(
    make: Callable[[Path, Path], None], code: int, says: str, machine: Path, tmp_path: Path
) -> None:
    make(machine, tmp_path / "results")
    before = analyse(tmp_path / "results").plain()
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    (tmp_path / "results").rename(moved)
    shutil.rmtree(machine)
    sys.modules.pop("judge_of_this_machine", None)
    run = CliRunner().invoke
    reported = run(app, ["report", str(moved)], catch_exceptions=False)
    assert reported.exit_code == 0, reported.output
    after = json.loads((moved / "analysis.json").read_text(encoding="utf-8"))
    assert {**after, "created": ""} == {**before, "created": ""}
    assert "<html" in (moved / "report.html").read_text(encoding="utf-8")
    gated = run(app, ["gate", str(moved)], catch_exceptions=False)
    assert (gated.exit_code, says in gated.output) == (code, True), gated.output
    if make is not lone:
        exported = run(app, ["export", str(moved), "--to", "parquet"], catch_exceptions=False)
        assert exported.exit_code == 0, exported.output


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["gate", str(tmp_path)])
    assert "holds no results" in str(found.exception)
    assert "--out of truing run, audit, ..." in str(found.exception)


@pytest.mark.parametrize("bad", [b"", b"\xff", b"{}", None])
def test_a_damaged_folder_is_a_user_s_error_and_never_misaligned(bad: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "analysis.json"
    if bad is None:
        path.mkdir()
    else:
        path.write_bytes(bad)
    for folder in (tmp_path, path):
        found = CliRunner().invoke(app, ["gate", str(folder)])
        assert isinstance(found.exception, UserError), found.exception


def test_what_nobody_expected_never_says_misaligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("truing.cli.gate.analyse", fails)
    found = CliRunner().invoke(app, ["gate", str(tmp_path)])
    assert isinstance(found.exception, UserError)
    assert "ZeroDivisionError: by nothing" in str(found.exception)
    assert set(STEPS) < set(RATES)
