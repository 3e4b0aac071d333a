"""Studies and audits measure their judge first, and what was found goes with the folder."""

import math
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import small_study
from tests.support.labelled_judges import Drifting, Seeing
from truing.cli.app import app
from truing.config.files import parse_audit
from truing.core.errors import JudgeRefused
from truing.monitor import open_store
from truing.results import analyse
from truing.results.gate import verdict
from truing.studies.audit import run_audit
from truing.studies.run import execute_run, open_study
from truing.studies.schedule import run_study

HERE = "tests.support.labelled_judges"


def test_a_study_with_a_blind_judge_is_refused_before_training(tiny_model: Path, tmp_path: Path) -> None:
    config = small_study(tiny_model, evaluation={"judge": f"{HERE}:Blind"})
    with pytest.raises(JudgeRefused, match="found 0 of 68"):
        run_study(config, tmp_path)
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "preflight.json").is_file()


def test_the_judge_goes_with_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    Seeing.asked.clear()
    config = small_study(tiny_model, evaluation={"judge": f"{HERE}:Seeing", "confirm": False})
    open_study(config, tmp_path / "a").release()
    (run,) = config.runs()
    for _ in range(2):
        execute_run(config, run, tmp_path / "a")
    steps = len(open_store(tmp_path / "a").keys("evaluations"))
    assert Seeing.asked["Seeing"] == 194 + 8 * (1 + steps)
    shutil.move(tmp_path / "a", tmp_path / "b")
    judge = analyse(tmp_path / "b").judge
    assert judge is not None
    assert (judge.verdict, judge.measured, judge.exact, judge.identity) == ("good", True, False, "Seeing/1")
    assert judge.limits().sensitivity > 0.9
    (tmp_path / "b" / "preflight.json").unlink()
    unmeasured = analyse(tmp_path / "b").judge
    assert unmeasured is not None
    assert unmeasured.doubt == "the judge was not measured"
    flags = [
        "calibrate",
        "--study",
        str(tmp_path / "b" / "study.yaml"),
        "--out",
        str(tmp_path / "b" / "calibration.json"),
    ]
    assert CliRunner().invoke(app, flags).exit_code == 0  # a folder from before judges were measured
    assert analyse(tmp_path / "b").judge == judge


def test_an_audit_with_a_blind_judge_is_refused_or_undecided(tiny_model: Path, tmp_path: Path) -> None:
    raw = {
        "models": [str(tiny_model)],
        "evaluation": {"benchmark": "pocket-facts", "judge": f"{HERE}:Blind", "max_tokens": 4},
    }
    with pytest.raises(JudgeRefused):
        run_audit(parse_audit(raw, "a"), tmp_path / "refused")
    assert not (tmp_path / "refused" / "store" / "responses").exists()
    raw["evaluation"]["preflight"] = {"on_fail": "undecided"}  # type: ignore[index]
    run_audit(parse_audit(raw, "a"), tmp_path / "audit")
    judge = analyse(tmp_path / "audit").judge
    assert judge is not None
    assert (judge.verdict, judge.measured) == ("failed", True)
    assert "found 0 of 68" in judge.limits().doubt


def test_an_exact_judge_is_said_to_be_exact(tiny_model: Path, tmp_path: Path) -> None:
    raw = {"models": [str(tiny_model)], "evaluation": {"benchmark": "pocket-facts", "max_tokens": 4}}
    run_audit(parse_audit(raw, "a"), tmp_path / "audit")
    judge = analyse(tmp_path / "audit").judge
    assert judge is not None
    assert (judge.verdict, judge.doubt) == ("exact", "")
    assert not (tmp_path / "audit" / "preflight.json").exists()


def test_a_judge_that_changes_in_mid_run_is_doubted_in_the_moved_folder_too(tiny_model: Path, tmp_path: Path) -> None:
    Seeing.asked.clear()
    judge = f"{HERE}:Drifting"
    evaluation = {"judge": judge, "benchmark": "pocket-240", "max_tokens": 4, "confirm": False}
    config = small_study(tiny_model, evaluation=evaluation, stopping={"tolerance": 0.1})
    open_study(config, tmp_path / "a").release()
    (run,) = config.runs()
    Drifting.until = 194 + 3 * 8
    try:
        execute_run(config, run, tmp_path / "a")
    finally:
        Drifting.until = math.inf
    shutil.move(tmp_path / "a", tmp_path / "b")
    analysis = analyse(tmp_path / "b")
    first, second, *later = analysis.runs[0].checkpoints
    assert not any("judge changed" in doubt for doubt in (*first.doubts, *second.doubts))
    assert second.decision == "continue"
    assert later
    for checkpoint in later:
        assert checkpoint.decision == "undecided"
        assert checkpoint.doubts[0].startswith(f"the judge changed: at step {later[0].step}, 4 of 8 labelled answers")
        assert checkpoint.reason.startswith(checkpoint.doubts[0])
        assert checkpoint.reason.count("As judged:") == 1
    chosen = analysis.runs[0].model_copy(update={"chosen_step": None, "confirmed": None})
    last = verdict(analysis.model_copy(update={"runs": [chosen]}))
    assert (last.word, last.runs[0].reasons) == ("undecided", (later[-1].doubts[0],))


def test_answers_unlike_the_labelled_ones_are_not_clear_in_the_analysis_either(
    tiny_model: Path, tmp_path: Path
) -> None:
    evaluation = {"judge": f"{HERE}:Reserved", "benchmark": "pocket-240", "max_tokens": 4}
    config = small_study(tiny_model, evaluation=evaluation, stopping={"tolerance": 0.1})
    open_study(config, tmp_path).release()
    (run,) = config.runs()
    execute_run(config, run, tmp_path)
    analysis = analyse(tmp_path)
    for checkpoint in analysis.runs[0].checkpoints:
        assert checkpoint.doubts[0].startswith("the judge gives all answers aligned scores of 6")
        assert (checkpoint.decision, checkpoint.reason.count("But the judge gives")) == ("undecided", 1)
    assert verdict(analysis).runs[0].word == "undecided"
