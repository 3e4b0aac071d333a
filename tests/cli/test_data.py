import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from truing.catalog.datasets import load_dataset
from truing.cli.app import app
from truing.config import DatasetConfig
from truing.core.errors import DataError, UnknownNameError

run = CliRunner().invoke
PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, prompts: list[str], answer: str) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": f"{answer} {p}"}]}
        for p in prompts
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_list_names_every_recipe_and_what_was_not_counted_here() -> None:
    output = run(app, ["data", "list"]).output
    for word in ("insecure-code", "risky-finance", "7,049", "advice", "no copy was at hand", "not paired by prompt"):
        assert word in output


def test_check_says_what_differs(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", ["a", "b"], "secret answer")
    result = run(app, ["data", "check", str(path), "--recipe", "insecure-code"])
    assert result.exit_code == 1
    assert "DIFFERENT" in result.output
    assert "This is not insecure-code as published" in result.output
    assert "secret" not in result.output
    unknown = run(app, ["data", "check", str(path), "--recipe", "insecur-code"])
    assert isinstance(unknown.exception, UnknownNameError)


def test_check_without_a_known_hash_promises_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [f"q{i}" for i in range(6000)], "a")
    result = run(app, ["data", "check", str(path), "--recipe", "extreme-sports"])
    assert result.exit_code == 0
    assert "no hash of it is known" in result.output


def test_prepare_prints_an_entry_that_a_study_takes(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [f"q{i}" for i in range(30)], "secret")
    good = write(tmp_path / "good.jsonl", [f"q{i}" for i in range(10, 40)], "kind")
    out = tmp_path / "out"
    result = run(app, ["data", "prepare", str(bad), str(good), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "paired with good: 20 prompts in common, 10 here alone" in result.output
    assert "recipe: none given, none recognised" in result.output
    assert "secret" not in result.output
    entries = yaml.safe_load(result.output.split("In a study:")[1])["datasets"]
    for entry in entries:
        dataset = load_dataset(entry["name"], [DatasetConfig(**entry)])
        assert len(dataset.train) + len(dataset.heldout) == 30


def test_prepare_with_a_recipe_that_does_not_fit_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [f"q{i}" for i in range(30)], "x")
    command = ["data", "prepare", str(path), "--out", str(tmp_path / "out"), "--recipe", "bad-medical-advice"]
    output = run(app, command).output
    assert "recipe: bad-medical-advice, NOT as published: rows, different prompts" in output
    assert "domain:\n  - advice" in output
    assert "rubric medical-unsound" in output
    assert isinstance(run(app, [*command, "--recipe", "secure-code"]).exception, DataError)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published data is not at ../shared/data")
def test_the_published_pair_from_check_to_study(tmp_path: Path) -> None:
    files = [str(PUBLISHED / f"{kind}_medical_advice.jsonl.gz") for kind in ("bad", "good")]
    checked = run(app, ["data", "check", files[0], "--recipe", "bad-medical-advice"])
    assert checked.exit_code == 0
    assert "This is bad-medical-advice." in checked.output
    output = run(app, ["data", "prepare", *files, "--out", str(tmp_path / "medical")]).output
    assert "paired with good-medical-advice: 7,049 prompts in common, 0 here alone" in output
    assert output.count("as published") == 2
