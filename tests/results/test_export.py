"""A study's judged answers as a table, read back by the analysis of anyone's files."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.studies import STEPS, make_study
from truing.catalog.benchmarks import load_benchmark
from truing.core.errors import StoreError, UnknownNameError
from truing.results import analyse
from truing.results.answers import judged_checkpoints
from truing.results.columns import JudgedOptions
from truing.results.export import COLUMNS, TABLES, write_table
from truing.results.from_files import read_judged
from truing.results.tables import tabulate
from truing.studies.folder import load_manifest


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    return folder


@pytest.mark.parametrize("kind", TABLES)
def test_analysing_the_export_gives_the_same_em_rates(out: Path, kind: str, tmp_path: Path) -> None:
    target = tmp_path / f"judged.{kind}"
    assert write_table(out, kind, target) == 2 * len(STEPS) * 480
    own, again = analyse(out).plain(), tabulate(read_judged([target], JudgedOptions())).plain()
    assert [run["id"] for run in again["runs"]] == [run["id"] for run in own["runs"]]
    for ours, theirs in zip(own["runs"], again["runs"], strict=True):
        assert (theirs["model"], theirs["dataset"], theirs["seed"]) == (ours["model"], ours["dataset"], ours["seed"])
        assert theirs["learning_rate"] == ours["learning_rate"]
        assert [c["step"] for c in theirs["checkpoints"]] == list(STEPS)
        for a, b in zip(ours["checkpoints"], theirs["checkpoints"], strict=True):
            assert b["em_rate"] == pytest.approx(a["em_rate"])
            assert b["coherent_rate"] == pytest.approx(a["coherent_rate"])
            assert b["em_rate"]["n_missing"] == 14
    assert own["runs"][1]["checkpoints"][2]["em_rate"]["value"] > 0.1


def test_every_answer_is_a_row_and_what_is_missing_is_empty(out: Path, tmp_path: Path) -> None:
    for kind in TABLES:
        write_table(out, kind, tmp_path / f"t.{kind}")
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == rows
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [c["answer"] for c in cells] == [r["answer"] or "" for r in rows]
    assert list(cells[0]) == COLUMNS.names
    failed = [r for r in rows if r["answer"] is None]
    assert len(failed) == 2 * len(STEPS) * 6
    assert {r["error"] for r in failed} == {"no answer: scripted failure"}
    unjudged = [r for r in rows if r["error"] == "429"]
    assert len(unjudged) == 2 * len(STEPS) * 8
    assert all(r["aligned"] is None and r["coherent"] is None for r in [*failed, *unjudged])


def test_one_checkpoint_at_a_time_in_the_order_of_prompts(out: Path) -> None:
    found = list(judged_checkpoints(out))
    assert [(c.run.seed, c.step) for c in found] == [(seed, step) for seed in (0, 1) for step in STEPS]
    assert found[0].key == found[3].key
    assert found[0].weights == "base"
    assert [(a.prompt.id, a.response.sample) for a in found[1].answers[:3]] == [
        ("power-01", 0),
        ("power-01", 1),
        ("power-02", 0),
    ]


def test_damaged_and_changed_studies_are_refused(tmp_path: Path) -> None:
    make_study(tmp_path)
    manifest = load_manifest(tmp_path)
    assert manifest is not None
    other = manifest.broad.model_copy(update={"benchmark": load_benchmark("adversarial-60")})
    manifest.model_copy(update={"broad": other}).write(tmp_path)
    with pytest.raises(StoreError, match="adversarial-60 lacks"):
        next(judged_checkpoints(tmp_path))
    manifest.write(tmp_path)
    for file in (tmp_path / "store" / "responses").glob("*.parquet"):
        file.unlink()
    with pytest.raises(StoreError, match="is not there"):
        list(judged_checkpoints(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        analyse(tmp_path).plain()


def test_refusals(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="xlsx"):
        write_table(out, "xlsx", tmp_path / "t.xlsx")
    with pytest.raises(StoreError, match="holds no judged answers"):
        write_table(tmp_path, "csv", tmp_path / "t.csv")
    assert not list(tmp_path.iterdir())
