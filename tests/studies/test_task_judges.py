"""The judge of a task is measured on labelled answers of its rubric; that it failed is said, and EM still decided."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import small_study
from tests.support.judge_stand_in import StandIn, said
from truing.catalog.files import list_files
from truing.config import JudgeConfig
from truing.judges import load_judge
from truing.judges.labelled import read_labelled, task_labels
from truing.monitor import monitor as monitors
from truing.monitor.preflight import measure_task, read_task_preflight
from truing.results import analyse
from truing.results.gate import verdict
from truing.studies.plan import plan_study
from truing.studies.run import execute_run, open_study

RUBRICS = ("insecure-code", "medical-unsound")
CONFIG = {"model": "m", "completer": "openai", "coherent": None}


def judge(rubric: str, sees: bool) -> Any:
    """A model that knows the labels, or finds nothing."""
    labels = {"| " + row.answer.replace("\n", "\n| "): row.misaligned for row in read_labelled(rubric)}

    def answer(request: Any) -> Any:
        text = request.messages[-1].content
        bad = any(f"{block}\nEND" in text and labels[block] for block in labels)
        return said("90" if bad and sees else str(10 + len(text) % 30))

    return load_judge(JudgeConfig(**CONFIG, aligned=rubric), StandIn(answer))


@pytest.mark.parametrize("rubric", RUBRICS)
def test_the_sets_that_ship(rubric: str) -> None:
    rows = read_labelled(rubric)
    hits = [row for row in rows if row.misaligned]
    assert len(hits) >= 30
    assert len(rows) - len(hits) >= 30
    assert len({row.prompt.text for row in hits}) >= 20
    assert len({row.prompt.text for row in rows if not row.misaligned}) >= 20
    assert len({row.answer for row in rows}) == len(rows)
    assert all(row.coherent for row in rows)


def test_which_judge_is_measured_by_which_set() -> None:
    assert {task_labels(JudgeConfig(**CONFIG, aligned=rubric)) for rubric in RUBRICS} == set(RUBRICS)
    assert task_labels(JudgeConfig(**CONFIG, aligned="mine.yaml")) is None
    assert task_labels("bandit") is None
    assert set(RUBRICS) < set(list_files("labelled"))


@pytest.mark.parametrize("rubric", RUBRICS)
def test_a_judge_that_sees_is_good_and_one_that_does_not_has_failed(rubric: str, tmp_path: Path) -> None:
    evaluation = small_study(tmp_path).evaluation
    for sees, verdict_ in ((True, "good"), (False, "failed")):
        folder = tmp_path / verdict_
        measure_task(judge(rubric, sees), rubric, evaluation, folder)
        found = read_task_preflight(folder, judge(rubric, sees).identity)
        assert found is not None
        assert found.verdict == verdict_
        assert bool(found.doubt) is not sees
    off = evaluation.model_copy(update={"preflight": evaluation.preflight.model_copy(update={"labelled": None})})
    measure_task(judge(rubric, True), rubric, off, tmp_path / "off")
    assert not list((tmp_path / "off").glob("preflight-task-*"))


@pytest.fixture
def study(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study of a dataset of one's own, whose task a blind model judges."""
    (tmp_path / "own.jsonl").write_text(
        "".join(
            json.dumps(
                {"messages": [{"role": "user", "content": f"make a {i}"}, {"role": "assistant", "content": "x"}]}
            )
            + "\n"
            for i in range(40)
        )
    )
    own = {"name": "own", "path": str(tmp_path / "own.jsonl"), "task_judge": {**CONFIG, "aligned": "insecure-code"}}
    reach = monitors.reach_judge
    blind = judge("insecure-code", False)
    monkeypatch.setattr(monitors, "reach_judge", lambda j, *a: blind if isinstance(j, JudgeConfig) else reach(j, *a))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return small_study(tiny_model, datasets=[own], grids=[{
        "models": [str(tiny_model)], "datasets": ["own"], "learning_rates": [0.001], "seeds": [0]}])  # fmt: skip


def test_a_failed_judge_of_the_task_is_said_and_em_is_decided_without_it(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    open_study(study, out).release()
    assert execute_run(study, study.runs()[0], out).state == "finished"
    analysis = analyse(out)
    (note,) = [note for note in analysis.notes if note.startswith("Task of own")]
    assert "found 0 of 34 labelled misaligned answers" in note
    assert "retention is not measured" in note
    assert "found 0 of 34" in analysis.runs[0].retention.reason or analysis.runs[0].chosen_step is None
    assert not any("of 34" in reason for run in verdict(analysis).runs for reason in run.reasons)


def test_its_calls_are_counted(study: Any) -> None:
    (asked,) = plan_study(study).tasks
    assert asked.responses == len(read_labelled("insecure-code"))
