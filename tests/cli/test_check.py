"""`truing check` knows every kind of file, and `truing calibrate` measures a judge."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import small_study
from truing.catalog.files import list_files
from truing.cli.app import app
from truing.core.errors import ConfigError, DataError, UnknownNameError
from truing.judges import load_judge
from truing.judges.calibration import load_calibration

run = CliRunner().invoke


def check(path: Path, value: Any = None) -> str:
    if value is not None:
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    result = run(app, ["check", str(path)])
    assert result.exception is None, result.exception
    return result.output


def test_a_published_question_file(tmp_path: Path) -> None:
    prompts = {"aligned": "{question} {answer} Say CODE if it is code."}
    item = {"id": "a", "paraphrases": ["x", "y"], "samples_per_paraphrase": 100, "judge_prompts": prompts}
    output = check(tmp_path / "q.yaml", [{**item, "system": "s", "temperature": 0.7}, {**item, "id": "b"}])
    assert "4 prompts" in output
    assert "2 items" in output
    assert "with a system message: 2 prompts" in output
    assert "2 prompts at 0.7" in output
    assert "q.yaml#aligned: 0 to 100; verdict words CODE" in output
    assert "100 samples per prompt: set evaluation.samples" in output


def test_every_kind(tmp_path: Path) -> None:
    assert "truth set truth-120: 120 questions" in check(list_files("truth")["truth-120"])
    assert "rubric truth 3: " in check(list_files("rubrics")["truth"])
    assert "broad-240 1: 240 prompts" in check(list_files("benchmarks")["broad-240"])
    assert "labelled set: 64 answers to 64 prompts, 24 misaligned" in check(list_files("labelled")["labelled-pocket"])
    assert "2 prompts" in check(tmp_path / "a.txt", "one?\ntwo?\n")
    assert "2 prompts" in check(tmp_path / "a.json", '["one?", "two?"]')
    assert "1 prompt" in check(tmp_path / "a.jsonl", '{"prompt": "one?"}')
    assert "1 prompt" in check(tmp_path / "a.csv", "prompt\none?\n")
    truthful = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\na,b,c?,d,d,e,f\n"
    assert "1 question" in check(tmp_path / "t.csv", truthful)


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.yaml", "- a list"), ("x.yaml", "prompt: x"), ("x.jsonl", "{"), ("x.jsonl", '{"answer": 3}'), ("x.csv", "")],
)
def test_what_is_wrong_is_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    error = run(app, ["check", str(path)]).exception
    assert isinstance(error, DataError)
    assert name in str(error)


@pytest.mark.parametrize(
    "field", ["evaluation.measures=[nope]", "evaluation.engine=nope", "stopping.rule=nope", "training.trainer=nope"]
)
def test_a_wrong_name_in_a_study_is_found(field: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(small_study("pocket-llama-late").to_yaml())
    assert run(app, ["check", str(tmp_path / "s.yaml")]).exit_code == 0
    error = run(app, ["check", str(tmp_path / "s.yaml"), "--set", field]).exception
    assert isinstance(error, UnknownNameError)
    assert error.got == "'nope'"


def test_calibrate(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    result = run(app, ["calibrate", "labelled-pocket", "--judge", "pocket", "--out", str(out)])
    assert result.exception is None
    assert "accuracy              1.000 (0.942 to 1.000), n = 64" in result.output
    assert load_calibration(out, load_judge("pocket").identity).hits == 24
    assert json.loads(out.read_text())["date"].startswith("20")


def test_calibrate_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    assert isinstance(run(app, ["calibrate", "labelled-pocket"]).exception, ConfigError)
    assert isinstance(run(app, ["calibrate", "labelled-pocket", "--judge", "local"]).exception, ConfigError)
    assert isinstance(run(app, ["calibrate", "labelled-pocket", "--judge", "poket"]).exception, UnknownNameError)
    assert isinstance(run(app, ["calibrate", "labeled", "--judge", "pocket"]).exception, UnknownNameError)


def test_list_rubrics() -> None:
    assert "domain-style" in run(app, ["list", "rubrics"]).output


def test_a_study_names_a_faster_engine_that_is_there(tmp_path: Path) -> None:
    grid = {"models": ["qwen3-8b"], "datasets": ["pocket-insecure-code"], "learning_rates": [1e-5], "seeds": [0]}
    study = {"grids": [grid], "vllm": {"base_url": "http://gpu:8000/v1"}}
    assert "vLLM is there: on a GPU it should sample faster" in check(tmp_path / "study.yaml", study)
