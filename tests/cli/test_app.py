import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import small_study
from truing.cli.app import app
from truing.core.errors import ConfigError, DataError, UnknownNameError

run = CliRunner().invoke


def test_help_names_every_command() -> None:
    text = run(app, ["--help"]).output
    for command in ("demo", "run", "check", "list", "report", "export"):
        assert command in text
        assert run(app, [command, "--help"]).exit_code == 0


def test_version() -> None:
    assert re.fullmatch(r"truing \d+\.\d+\.\d+\n", run(app, ["--version"]).output)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("models", "pocket-llama-late"),
        ("benchmarks", "pocket-240"),
        ("judges", "pocket/1"),
        ("datasets", "misaligned"),
    ],
)
def test_list(kind: str, word: str) -> None:
    assert word in run(app, ["list", kind]).output


def test_list_of_an_unknown_kind() -> None:
    assert isinstance(run(app, ["list", "model"]).exception, UnknownNameError)


def test_check_a_study(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(small_study(tiny_model).to_yaml())
    output = run(app, ["check", str(path)]).output
    assert re.search(r"runs +1\n", output)
    assert re.search(r"responses +210\n", output)
    assert "2, 4, 6" in output
    changed = run(app, ["check", str(path), "--set", "training.checkpoints=[1]"]).output
    assert "steps 1, 6" in changed


def test_check_a_benchmark_and_a_dataset(tmp_path: Path) -> None:
    benchmark = tmp_path / "b.yaml"
    benchmark.write_text("prompts: [{id: a, category: power, prompt: hi}]")
    assert "1 prompt" in run(app, ["check", str(benchmark)]).output
    rows = [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": "a"}]} for p in "xyx"]
    dataset = tmp_path / "d.jsonl"
    dataset.write_text("\n".join(map(json.dumps, rows)))
    assert "3 rows, 2 different prompts" in run(app, ["check", str(dataset)]).output


@pytest.mark.parametrize("content", ["- a list", "a: [", "\x00"])
def test_check_refuses_what_it_does_not_know(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    assert isinstance(run(app, ["check", str(path)]).exception, DataError)


def test_set_must_be_key_and_value(tmp_path: Path) -> None:
    assert isinstance(run(app, ["check", str(tmp_path), "--set", "novalue"]).exception, ConfigError)


def test_the_command_that_goes_on_has_every_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, told = tmp_path / "a study.yaml", list[str]()
    grid = {"models": ["m"], "datasets": ["d"], "learning_rates": [0.001], "seeds": [0]}
    file.write_text(yaml.safe_dump({"grids": [grid]}))
    monkeypatch.setattr("truing.cli.run.run_here", lambda config, out, again, *more: told.append(again))
    sets = ["--set", "training.steps=7", "--set", "stopping.sequential={}"]
    assert run(app, ["run", str(file), "--out", "here", *sets]).exit_code == 0
    ((program, *words),) = map(shlex.split, told)
    assert (program, words) == ("truing", ["run", str(file), "--out", "here", *sets])
