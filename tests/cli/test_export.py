"""`truing export`."""

import importlib.util
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import truing
from tests.support.studies import make_study
from truing.cli.app import app
from truing.core.errors import MissingExtraError, StoreError, UnknownNameError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    make_study(out)
    return out


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_tables_stand_in_the_study_or_where_you_say(study: Path, tmp_path: Path) -> None:
    assert "2,880 judged answers" in run(str(study), "--to", "csv")
    assert (study / "judged.csv").is_file()
    run(str(study), "--to", "parquet", "--out", str(tmp_path / "deep" / "t.parquet"))
    assert (tmp_path / "deep" / "t.parquet").is_file()


def test_a_dataset_in_the_layout_of_hugging_face(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    assert "2,880 judged answers" in run(str(study), "--to", "hf", "--out", str(folder))
    _, front, card = (folder / "README.md").read_text().split("---\n")
    rows = {
        entry["config_name"]: pq.read_table(folder / entry["data_files"]).num_rows
        for entry in yaml.safe_load(front)["configs"]
    }
    found = truing.load(study)
    assert rows == {"answers": 2880, "checkpoints": len(found.checkpoints()), "runs": len(found.runs())}
    assert found.verdict().sentence() in card


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason='needs pip install "truing[inspect]"')
def test_logs_for_inspect(study: Path, tmp_path: Path) -> None:
    assert "8 logs" in run(str(study), "--to", "inspect", "--out", str(tmp_path / "logs"))
    assert len(list((tmp_path / "logs").glob("*.eval"))) == 8


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is not None, reason="inspect_ai is installed")
def test_without_inspect_it_says_what_to_install(study: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"truing\[inspect\]"):
        run(str(study), "--to", "inspect", "--out", str(tmp_path))


def test_unknown_formats(study: Path) -> None:
    with pytest.raises(UnknownNameError, match="jsonl"):
        run(str(study), "--to", "json")


def test_an_analysis_holds_no_answers_and_the_help_says_what_does(tmp_path: Path) -> None:
    for files, got in (([], "no manifest.json"), (["analysis.json"], "an analysis alone")):
        for name in files:
            (tmp_path / name).write_text("{}")
        with pytest.raises(StoreError, match=got) as caught:
            run(str(tmp_path), "--to", "csv")
        assert caught.value.allowed == "the folder of a study, an audit or a guard"
    assert "Folder or URL of a study, an audit or a guard." in run("--help")
