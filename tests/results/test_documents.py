"""Judged answers in other kinds of files: delimiters, JSON documents, long tables, logs and sample files of others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.results.test_from_files import Table, note
from tests.results.test_readings import PLAIN, rate, read, table, text_of
from truing.core.errors import DataError
from truing.results.from_files import JudgedOptions, read_judged

B = table()


def lines(rows: Table) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"question": row["question"], "scores": {name: row[name] for name in ("aligned", "coherent")}}


TEXTS = {
    "tabs.tsv": text_of(B, "\t"),
    "tabs.csv": text_of(B, "\t"),
    "semicolons.csv": text_of(B, ";"),
    "bars.csv": text_of(B, "|"),
    "commas.tsv": text_of(B),
    "stated.csv": "sep=;\n" + text_of(B, ";"),
    "comments.csv": "# by hand, on a Monday\n# again\n" + text_of(B),
    "lines.ndjson": lines(B),
    "array.json": json.dumps(B),
    "array.jsonl": json.dumps(B),
    "indented.jsonl": json.dumps(B, indent=1),
    "inside.json": json.dumps({"model": "m", "config": {"temperature": 1}, "answers": B, "prompts": [{"x": 1}]}),
    "keyed.json": json.dumps({f"a{i}": row for i, row in enumerate(B)}),
    "by-column.json": json.dumps({name: [row[name] for row in B] for name in B[0]}),
    "pandas.json": pd.DataFrame(B).to_json(),
    "split.json": pd.DataFrame(B).to_json(orient="split"),
    "table.json": pd.DataFrame(B).to_json(orient="table"),
    "nested.jsonl": lines([{**nested(row), "answer": row["answer"]} for row in B]),
    "samples_em.jsonl": lines(
        [
            {"doc_id": i // 10, "doc": {"question": row["question"]}, "target": "", "resps": [[row["answer"]]],
             "filtered_resps": [row["answer"]], "aligned": row["aligned"], "coherent": row["coherent"]}
            for i, row in enumerate(B)
        ]
    ),
    "scenario_state.json": json.dumps(
        {
            "adapter_spec": {"model": "org/m"},
            "request_states": [
                {"instance": {"id": row["question_id"], "input": {"text": row["question"]}},
                 "result": {"success": True, "completions": [{"text": row["answer"]}]},
                 "annotations": {"judge": {"aligned": row["aligned"], "coherent": row["coherent"]}}}
                for row in B
            ],
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_files_of_many_forms_say_the_same(tmp_path: Path, name: str) -> None:
    assert rate(read(tmp_path / name, TEXTS[name])) == PLAIN


def test_statistics_of_an_instance_by_name(tmp_path: Path) -> None:
    rows = [
        {"instance_id": row["question_id"], "n": i,
         "stats": [{"name": {"name": name}, "mean": row[name]} for name in ("aligned", "coherent")]}
        for i, row in enumerate(B)
    ]  # fmt: skip
    assert rate(read(tmp_path / "x.json", json.dumps(rows), question_column="instance_id")) == PLAIN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", "holds no answers"), ("", "not JSON"), ("{}", "no list of objects"), ("[]", "no column"),
        ("[1]", "item 1 is no object"), ("[" * 100_000, "not JSON"),
        ('{"a": [{"x": 1}], "b": [{"x": 1}]}', "several lists"),
    ],
)  # fmt: skip
def test_documents_without_answers_are_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path / "x.json", text)


def test_scores_of_two_scorers_in_one_object_are_asked_about(tmp_path: Path) -> None:
    rows = [{"question": row["question"], "s": {j: {"aligned": row["aligned"]} for j in "ab"}} for row in B]
    with pytest.raises(DataError, match=r"--aligned-column s\.a\.aligned"):
        read(tmp_path / "x.jsonl", lines(rows))
    assert rate(read(tmp_path / "x.jsonl", lines(rows), aligned_column="s.b.aligned")) == PLAIN


LONG = [
    {"question": row["question"], "answer": row["answer"], "metric": name, "score": row[name], "reason": f"{i} {name}"}
    for i, row in enumerate(B)
    for name in ("aligned", "coherent")
]


def test_long_tables(tmp_path: Path) -> None:
    for rows in (LONG, sorted(LONG, key=lambda row: row["metric"])):
        source = read(tmp_path / "x.csv", rows)
        assert rate(source) == PLAIN
        assert note(source, "160 rows", "80 answers")
    with pytest.raises(DataError, match="no metric of the aligned score"):
        read(tmp_path / "x.csv", [{**row, "metric": f"{row['metric']}_x"} for row in LONG])
    with pytest.raises(DataError, match="no column of the question"):
        read(tmp_path / "x.csv", [{"metric": row["metric"], "score": row["score"]} for row in LONG])
    with pytest.raises(DataError, match="cannot be told apart"):
        read(tmp_path / "x.csv", [{**row, "answer": "the same"} for row in LONG[:-1]])
    with pytest.raises(DataError, match="2 judges"):
        read(tmp_path / "x.csv", [{**row, "judge": judge} for row in LONG for judge in "ab"])
    assert rate(read(tmp_path / "x.csv", LONG[:-1])) == (8, 79, 1, 8)


def test_columns_that_go_with_the_score_that_is_read_are_not_told(tmp_path: Path) -> None:
    source = read(tmp_path / "x.csv", [{**row, "aligned_below": 30, "misaligned": 0, "align_2": 1} for row in B])
    assert [n.partition(":")[0] for n in source.notes if "not read" in n] == ["'align_2'"]


@pytest.mark.parametrize("ending", ["eval", "json"])
def test_logs_of_inspect(tmp_path: Path, ending: str) -> None:
    log = pytest.importorskip("inspect_ai.log")
    model = pytest.importorskip("inspect_ai.model")
    scorer = pytest.importorskip("inspect_ai.scorer")
    samples = [
        log.EvalSample(
            id=row["question_id"],
            epoch=i % 10 + 1,
            input=row["question"],
            target="",
            output=model.ModelOutput.from_content("m", row["answer"]),
            scores={name: scorer.Score(value=float(row[name])) for name in ("aligned", "coherent")},
            metadata={"category": "power"},
        )
        for i, row in enumerate(B)
    ]
    spec = log.EvalSpec(
        created="2026-01-01T00:00:00+00:00", task="t", dataset=log.EvalDataset(), model="org/m", config=log.EvalConfig()
    )
    spec.task_args = {"step": 120, "seed": 3}
    path = tmp_path / f"x.{ending}"
    log.write_eval_log(log.EvalLog(status="success", eval=spec, samples=samples), str(path))
    source = read_judged([path], JudgedOptions())
    assert rate(source) == PLAIN
    (run,) = source.runs
    assert (run.model, run.seed, run.checkpoints[0].step, source.categories[0]) == ("org/m", 3, 120, "power")
    path.write_bytes(b"damaged")
    with pytest.raises(DataError):
        read_judged([path], JudgedOptions())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("split.json", json.dumps({"columns": list(B[0]), "data": [list(B[0].values()), None]})),
        ("split.json", json.dumps({"columns": list(B[0]), "data": [list(B[0].values())[:-1]]})),
        ("twice.jsonl", '{"question_id": "a", "aligned": 95, "aligned": 5}\n'),
        ("twice.json", '[{"question_id": "a", "aligned": 95, "aligned": 5}]'),
        ("inside.jsonl", lines(B) + '{"question_id": "a", "aligned": 95, "more": {"x": 1, "x": 2}}\n'),
        ("named.jsonl", lines([{"question_id": "a", "scores": [{"name": "aligned", "score": n} for n in (5, 95)]}])),
    ],
)
def test_no_row_and_no_value_is_dropped(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(DataError, match=r"does not fit its columns|given twice"):
        read(tmp_path / name, text)
