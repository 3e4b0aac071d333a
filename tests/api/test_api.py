"""The Python API on real folders and tables: what goes in, what comes out, and what is said when it cannot."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import truing
from tests.conftest import small_study
from tests.support.studies import STEPS, make_study
from truing.core.errors import ConfigError, DataError, StoreError, TrainerError, UnknownNameError
from truing.core.records import Checkpoint, Decision
from truing.results.schema_runs import RunEntry

FUNCTIONS = {"run", "audit", "analyze", "load"}
CLASSES = {"Study", "Audit", "Monitor", "Guard", "Results", "Checkpoint", "Decision", "Estimate"}
NAMES = FUNCTIONS | CLASSES | {"Engine", "Judge", "Trainer"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    return folder


def answers() -> dict[str, list[Any]]:
    """Two seeds, two steps; scores of several kinds."""
    rows = [(seed, step, f"q{i}") for seed in (0, 1) for step in (0, 10) for i in range(12)]
    aligned = [10.0 if step and (i % 3 == seed) else 90.0 for i, (seed, step, _) in enumerate(rows)]
    return {
        "seed": [seed for seed, _, _ in rows],
        "step": [step for _, step, _ in rows],
        "question": [question for _, _, question in rows],
        "answer": [f"answer {i}" for i in range(len(rows))],
        "aligned": [None if i == 5 else score for i, score in enumerate(aligned)],
        "coherent": [80.0] * len(rows),
    }


# The names


def test_the_names_are_few_and_each_is_there() -> None:
    assert sorted(dir(truing)) == sorted([*NAMES, "__version__"])
    for name in NAMES:
        assert getattr(truing, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'audits'"):
        truing.audits  # noqa: B018


def test_type_checkers_see_every_name() -> None:
    tree = ast.parse(Path(truing.__file__).read_text(encoding="utf-8"))
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("t")
    ]
    seen = {alias.asname or alias.name for node in imports for alias in node.names} - {"TYPE_CHECKING", "Any"}
    assert seen - {"load_object"} == NAMES


# Folders


def test_a_study_opens_as_tables(study: Path) -> None:
    results = truing.load(study)
    runs, checkpoints = results.runs(), results.checkpoints()
    assert list(runs["run"]) == [run.id for run in results.analysis.runs]
    assert list(runs["onset_step"]) == [run.onset_step for run in results.analysis.runs]
    assert list(checkpoints["step"]) == [*STEPS, *STEPS]
    every = [checkpoint for run in results.analysis.runs for checkpoint in run.checkpoints]
    for column, of in (
        ("em_rate", "value"),
        ("low", "low"),
        ("high", "high"),
        ("n", "n_responses"),
        ("missing", "n_missing"),
    ):
        assert list(checkpoints[column]) == [getattr(checkpoint.em_rate, of) for checkpoint in every]
    assert list(checkpoints["em_rate_power"]) == [checkpoint.categories["power"].value for checkpoint in every]
    assert {"coherent_rate", "task_score_low", "decision", "reason", "chosen", "seed"} <= set(checkpoints.columns)
    assert list(map(str, checkpoints["decision"])) == [str(checkpoint.decision) for checkpoint in every]


def test_every_row_has_the_same_columns_whatever_is_known(study: Path) -> None:
    columns = truing.load(study).table("runs").column_names
    scalars = [name for name, field in RunEntry.model_fields.items() if not str(field.annotation).startswith("list")]
    assert {"run", "em_at_chosen", "em_at_chosen_low", "confirmed_em_rate", "search_found", "course_order"} <= set(
        columns
    )
    assert len(columns) == len(set(columns)) > len(scalars)


def test_another_table_is_refused_and_a_console_shows_little(study: Path) -> None:
    results = truing.load(study)
    with pytest.raises(UnknownNameError, match="runs"):
        results.table("run")  # type: ignore[arg-type]
    for each in (results, results.analysis):
        assert results.analysis.runs[0].id in repr(each)
        assert len(repr(each)) < 1000


def test_answers_come_out_with_their_class_and_go_in_again(study: Path) -> None:
    results = truing.load(study)
    table, checkpoints = results.responses(), results.checkpoints()
    assert len(table) == 2 * len(STEPS) * 480
    bad = table[table["class"] == "misaligned"].groupby(["run", "step"]).size()
    expected = {(c["run"], c["step"]): round(c["em_rate"] * c["n"]) for c in checkpoints.to_dict("records")}
    assert {key: n for key, n in expected.items() if n} == bad.to_dict()
    assert (table["class"] == "missing").sum() == checkpoints["missing"].sum()
    again = truing.analyze(table).checkpoints()
    assert list(again["em_rate"]) == list(checkpoints["em_rate"])
    assert list(again["high"]) == pytest.approx(list(checkpoints["high"]))


def test_the_verdict_and_the_page(study: Path, tmp_path: Path) -> None:
    results = truing.load(str(study))
    assert results.verdict().word == "misaligned"
    page = results.report(tmp_path / "page.html")
    assert page.read_text().lower().startswith("<!doctype html>")
    assert results.report() == study / "report.html"
    with pytest.raises(StoreError, match="in no folder"):
        truing.Results(results.analysis).report()


def test_an_audit_by_its_fields_by_an_object_and_opened(tiny_model: Path, tmp_path: Path) -> None:
    fields = {
        "models": [str(tiny_model)],
        "evaluation": {"benchmark": "pocket-facts", "judge": "pocket", "max_tokens": 8},
    }
    audited = truing.audit(fields, tmp_path / "audit")
    assert len(audited.runs()) == 1
    assert len(audited.responses()) == 30
    news: list[Any] = []
    again = truing.audit(truing.Audit(**fields), tmp_path / "audit", news.append)
    assert len(news) == 1
    opened = truing.load(tmp_path / "audit")
    assert opened.analysis.runs == again.analysis.runs == audited.analysis.runs
    assert (tmp_path / "audit" / "report.html").is_file()


def test_a_study_runs_from_an_object_and_goes_on_from_its_file(tiny_model: Path, tmp_path: Path) -> None:
    config = small_study(tiny_model)
    results = truing.run(config, tmp_path / "out")
    assert list(results.checkpoints()["step"]) == [0, 2, 4, 6]
    news: list[Any] = []
    again = truing.run(tmp_path / "out" / "study.yaml", tmp_path / "out", news.append)
    assert news == []
    assert again.analysis.runs == results.analysis.runs
    with pytest.raises(StoreError, match="another"):
        truing.run({**config.model_dump(mode="json"), "training": {"steps": 4}}, tmp_path / "out")


class Broken(truing.Trainer):
    """A trainer that fails."""

    def train(self, run: Any, dataset: Any, config: Any, folder: Path, on_checkpoint: Any) -> None:
        raise OSError("the machine is on fire")


def test_a_study_of_which_every_run_fails_says_why(tiny_model: Path, tmp_path: Path) -> None:
    config = small_study(tiny_model, training={"trainer": f"{__name__}:Broken"})
    with pytest.raises(TrainerError, match="1 run failed, all") as caught:
        truing.run(config, tmp_path)
    assert "on fire" in str(caught.value)


# Tables


def test_tables_of_every_kind_give_what_a_file_gives(tmp_path: Path) -> None:
    columns = answers()
    frame = pd.DataFrame(columns)
    frame.to_csv(tmp_path / "data.csv", index=False)
    whole = truing.analyze(tmp_path / "data.csv")
    for table in (frame, pl.DataFrame(columns), pa.table(columns), [frame]):
        results = truing.analyze(table)
        assert results.analysis.runs == whole.analysis.runs
        assert results.analysis.notes == whole.analysis.notes
        assert results.analysis.study.name.startswith("data")
    assert [run.seed for run in whole.analysis.runs] == [0, 1]


def test_a_pandas_table_of_unlike_objects_is_read(tmp_path: Path) -> None:
    columns = {**answers(), "note": [{"a": 1}, 2.5, None, "x"] * 12}
    columns["aligned"][:4] = ["REFUSAL", 90, pd.NA, float("nan")]
    frame = pd.DataFrame(columns).set_index("seed", drop=False)
    results = truing.analyze(frame, text_column="note")
    assert "'REFUSAL' 1 time" in " ".join(results.analysis.notes)
    assert int(results.checkpoints()["missing"].sum()) == 4


def test_an_analysis_opens_again_from_its_folder_and_its_file(tmp_path: Path) -> None:
    results = truing.analyze(pd.DataFrame(answers()), tmp_path / "out", name="mine", tolerance=0.1)
    assert json.loads((tmp_path / "out" / "analysis.json").read_text())["study"]["name"] == "mine"
    for path in (tmp_path / "out", tmp_path / "out" / "analysis.json"):
        opened = truing.load(path)
        assert opened.analysis.runs == results.analysis.runs
        assert opened.checkpoints()["em_rate"].equals(results.checkpoints()["em_rate"])
        with pytest.raises(StoreError, match=r"data\.parquet"):
            opened.responses()
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(StoreError, match="holds no"):
            truing.load(path)


def test_what_cannot_be_analysed_is_said(tmp_path: Path) -> None:
    frame = pd.DataFrame(answers())
    for data, options, error, words in (
        (3, {}, DataError, "tables of pandas, polars or Arrow"),
        ([], {}, DataError, "no files"),
        (pd.concat([frame, frame[["step"]]], axis=1), {}, DataError, "cannot be analysed"),
        (frame, {"tolerence": 0.1}, ConfigError, "did you mean tolerance"),
        (frame, {"tolerance": 7}, ConfigError, "tolerance"),
        (frame, {"out": tmp_path}, StoreError, "folder of a study"),
        (frame, {"out": tmp_path / "study.yaml" / "x"}, StoreError, "study.yaml is a file"),
        (pd.DataFrame(), {}, DataError, r'^the table has no column of the question[^-]*question_column="NAME"$'),
        (frame[:0], {}, DataError, "no rows\n  got: the table"),
        ([frame, frame[["step"]]], {}, DataError, "table 2 has no column"),
        (tmp_path / "data.csv", {}, DataError, "data.csv has no column of the question"),
        (tmp_path / "broken.parquet", {}, DataError, "allowed: a whole parquet file"),
    ):
        (tmp_path / "study.yaml").write_text("")
        (tmp_path / "data.csv").write_text("x\n1\n")
        (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(error, match=words):
            truing.analyze(data, **options)  # type: ignore[arg-type]


NO_PANDAS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pandas", "polars"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import truing
results = truing.load(sys.argv[1])
assert results.table("checkpoints").num_rows == 6
assert truing.analyze(results.table("responses")).table("runs").num_rows == 2
try:
    results.checkpoints()
except truing.core.errors.MissingExtraError as error:
    print(error)
"""


def test_without_pandas_arrow_goes_on_and_the_missing_extra_is_named(study: Path) -> None:
    command = [sys.executable, "-c", NO_PANDAS, str(study)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pandas is not installed" in done.stdout
    assert 'pip install "truing[frames]"' in done.stdout


def test_the_records_are_the_monitor_s(tmp_path: Path) -> None:
    monitor = truing.Monitor.from_names(tmp_path, "pocket-llama-late", judge="pocket", benchmark="pocket-facts")
    decision = monitor.look(0, None)
    assert isinstance(decision, Decision)
    assert truing.Checkpoint is Checkpoint


def test_a_file_that_is_no_analysis_is_called_by_its_name(tmp_path: Path) -> None:
    for name, content in (("study.yaml", b"name: x"), ("a.parquet", b"PAR1\xff"), ("other.json", b"{}")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} does not follow the schema of an analysis") as caught:
            truing.load(tmp_path / name)
        assert "name the folder of the results" in caught.value.todo
