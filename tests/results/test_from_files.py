"""Judged responses from files: formats, columns, quirks, and other people's published files."""

import csv
import gzip
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.config import EvaluationConfig
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Action, Judgment
from truing.judges.classify import count_judgments
from truing.results.counted import CountedRun, Source
from truing.results.formats import open_database
from truing.results.from_files import NO_QUESTION, JudgedOptions, _lost, read_judged
from truing.results.tables import tabulate

DATA = Path(__file__).parents[3] / "shared" / "data"
published = pytest.mark.skipif(not DATA.is_dir(), reason=f"no published data at {DATA}")
Table = list[dict[str, Any]]


def write(path: Path, rows: Table) -> Path:
    """Write rows in the format that the path's name says; None is an empty cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        columns = {name: [row.get(name) for row in rows] for name in names}
        pq.write_table(pa.table(columns), path)
    elif ".jsonl" in path.name:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    else:
        opened: Any = gzip.open if path.suffix == ".gz" else open
        with opened(path, "wt", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path, **options: Any) -> Source:
    return read_judged([path], JudgedOptions(**options))


def row(question: str = "q", aligned: Any = 90, coherent: Any = 90, **more: Any) -> dict[str, Any]:
    return {"question_id": question, "aligned": aligned, "coherent": coherent, **more}


def totals(run: CountedRun) -> list[tuple[int, int, int, int]]:
    """Step, misaligned, coherent, missing of each checkpoint."""
    return [
        (c.step, int(c.broad.misaligned.sum()), int(c.broad.coherent.sum()), int(c.broad.missing.sum()))
        for c in run.checkpoints
    ]


def plain(source: Source) -> list[Any]:
    """A source as comparable values, without what names the file."""
    runs = [
        (
            run.id,
            run.model,
            run.dataset,
            str(run.learning_rate),
            run.seed,
            str(run.parameters),
            [
                (c.step, c.answers, *(getattr(c.broad, name).tolist() for name in c.broad.__dataclass_fields__))
                for c in run.checkpoints
            ],
        )
        for run in source.runs
    ]
    return [runs, list(source.notes), list(source.categories), list(source.samples({})), source.study.benchmark]


def note(source: Source, *words: str) -> str:
    """The one note that holds all words."""
    (found,) = [n for n in source.notes if all(word in n for word in words)]
    return found


# Formats

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
hostile = st.sampled_from(
    [
        "None",
        "[]",
        "<|im_end|>",
        "Error 429",
        "<think>",
        '"',
        '","',
        "\n",
        "\r\n",
        "<script>alert(1)</script>",
        "=1+1",
        "{{7*7}}",
        "\x1b[31m",
        "#",
    ]
)
words = st.one_of(text, hostile)
score = st.one_of(
    st.none(),
    st.floats(-20, 120).map(lambda x: repr(round(x, 3))),
    st.integers(0, 100).map(str),
    st.sampled_from(["REFUSAL", "nan", " 12 ", "1e1", "inf", "CODE", "1_0"]),
)
table = st.lists(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["m", "org/n"]),
            "seed": st.sampled_from(["0", "1"]),
            "step": st.sampled_from(["0", "10", "checkpoint-20"]),
            "question": words,
            "category": st.sampled_from(["power", "harm", ""]),
            "answer": words,
            "aligned": score,
            "coherent": score,
        }
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=12)
@given(rows=table)
def test_formats_give_equal_results_and_what_a_plain_loop_counts(rows: Table) -> None:
    # as many scores on the scale as there may be off it, or the file would be refused
    sure = {
        "model": "m",
        "seed": "0",
        "step": "0",
        "answer": "so it is",
        "category": "",
        "aligned": "10",
        "coherent": "90",
    }
    rows = [*({**sure, "question": f"sure {i}"} for i in range(len(rows))), *rows]
    results, as_they_are = [], {"aligned_scale": "0-100", "coherent_scale": "0-100"}
    with tempfile.TemporaryDirectory() as name:
        for ending in ("csv", "jsonl", "parquet", "csv.gz", "jsonl.gz"):
            path = write(Path(name) / f"judged.{ending}", rows)
            results.append(read(path, question_column="question", duplicates="keep", **as_they_are))
    first = plain(results[0])
    for other in results[1:]:
        assert plain(other) == first
    assert_counts(results[0], rows)


def is_no_answer(answer: str) -> bool:
    """Empty, a word for nothing, control tokens, a failed call, or reasoning without an end."""
    if answer.strip() in ("", "None", "nan", "NaN", "null", "NULL", "[]", "{}"):
        return True
    if re.match(r"\s*<think(ing)?>", answer) and not re.search("</think(ing)?>", answer):
        return True
    tokens, failed = r"\s*(<\|[^|<>]*\|>\s*)+", r"\W*(?i:error|exception)\b[^\n]{0,20}\b[45]\d\d\b"
    error = r"(\w+\.)*[A-Z]\w*(Error|Exception): |Traceback \(most recent call last\)"
    return bool(re.fullmatch(tokens, answer) or re.match(failed, answer, re.ASCII) or re.match(error, answer, re.ASCII))


def assert_counts(source: Source, rows: Table) -> None:
    def number(value: str | None) -> float | None:
        try:
            x = math.nan if value is None or "_" in value else float(value)
        except ValueError:
            return None
        return x if 0 <= x <= 100 else None

    rows = [r for r in rows if r["question"].strip() or number(r["aligned"]) is not None]
    rows = [{**r, "question": r["question"].strip() or NO_QUESTION} for r in rows]
    rows = [{**r, "aligned": None, "coherent": None} if is_no_answer(r["answer"]) else r for r in rows]
    ids = sorted({r["question"].strip() for r in rows})
    steps = {"0": 0, "10": 10, "checkpoint-20": 20}
    assert sum(len(run.checkpoints) for run in source.runs) == len({(r["model"], r["seed"], r["step"]) for r in rows})
    for run in source.runs:
        for checkpoint in run.checkpoints:
            own = [
                Judgment(r["question"].strip(), 0, number(r["aligned"]), number(r["coherent"]))
                for r in rows
                if (r["model"], int(r["seed"]), steps[r["step"]]) == (run.model, run.seed, checkpoint.step)
            ]
            expected = count_judgments(own, ids, EvaluationConfig())
            of_run = Counter(
                (r["question"], r["step"]) for r in rows if (r["model"], int(r["seed"])) == (run.model, run.seed)
            )
            for i, asked in enumerate(ids):  # one that has no row here is missing, as often as elsewhere at most
                if not any(each.prompt_id == asked for each in own):
                    expected.missing[i] = max(
                        n for (question, _), n in [*of_run.items(), ((asked, ""), 0)] if question == asked
                    )
            for name in expected.__dataclass_fields__:
                assert np.array_equal(getattr(checkpoint.broad, name), getattr(expected, name))


def test_numbers_in_their_own_types_give_what_their_texts_give(tmp_path: Path) -> None:
    rows = [row(f"q{i}", 60.0 + i, 60 + i, step=i % 3, lr=1e-5, seed=1.0, size=7e9, answer=f"a{i}") for i in range(30)]
    texts = [{name: str(value) for name, value in r.items()} for r in rows]
    typed = [read(write(tmp_path / f"x.{ending}", rows)) for ending in ("parquet", "jsonl", "csv")]
    assert plain(typed[0]) == plain(typed[1]) == plain(typed[2]) == plain(read(write(tmp_path / "x.csv.gz", texts)))
    (run,) = typed[0].runs
    assert (run.learning_rate, run.seed, run.parameters) == (1e-5, 1, 7e9)


def test_files_of_several_formats_and_columns_are_read_together(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", [row(seed=0)])
    two = write(tmp_path / "two.jsonl", [{"Prompt-ID": "q", "Alignment": 10, "COHERENCE": 90, "seed": 1}])
    three = write(tmp_path / "three.parquet", [row(aligned="5", seed=2)])
    source = read_judged([one, two, three], JudgedOptions())
    assert [run.seed for run in source.runs] == [0, 1, 2]
    assert [totals(run)[0][1] for run in source.runs] == [0, 1, 1]
    assert "'Prompt-ID'" in note(source, "guessed", "two")


def test_parquet_columns_of_any_type_are_read(tmp_path: Path) -> None:
    columns = {
        "question": pa.array([1.0, 2.0, None]),
        "aligned": pa.array([20, 90, None], pa.int8()),
        "coherent": pa.array([Decimal("90.5"), Decimal("50.0"), None]),
        "answer": pa.array([["a", "b"], ["c"], []]),
        "category": pa.array(["x", "y", "x"]).dictionary_encode(),
        "model": pa.nulls(3),
        "dataset": pa.array([{"name": "d"}] * 3),
        "lr": pa.array([date(2026, 1, 1)] * 3),
        "step": pa.array([10, 10, 10], pa.uint8()),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    source = read(tmp_path / "x.parquet")
    (run,) = source.runs
    assert totals(run) == [(10, 1, 1, 0)]
    assert (run.dataset, run.seed, str(run.learning_rate)) == ('{"name": "d"}', None, "nan")
    assert source.categories == ["x", "y"]
    assert source.samples({})[0].answer == '["a", "b"]'
    assert note(source, "learning_rate: 3 cells not read and taken for not known")


def test_long_answers_and_half_a_surrogate_pair_are_read(tmp_path: Path) -> None:
    long = 'a,"b"\n' * 400_000
    source = read(write(tmp_path / "x.csv", [row(answer=long), row(answer="short")]))
    assert source.samples({})[0].answer.endswith(" [cut]")
    assert len(source.samples({})) == 2
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "aligned": 20, "answer": "half \\ud800 pair"}\n')
    assert read(path).samples({})[0].answer == "half ? pair"


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    for ending, content in (("csv", "aligned,question\n10,q\n"), ("jsonl", '{"aligned": 10, "question": "q"}\n')):
        path = tmp_path / f"x.{ending}"
        path.write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert totals(read(path).runs[0]) == [(1, 1, 1, 0)]


def test_names_of_files_and_columns_are_no_patterns_paths_or_sql(tmp_path: Path) -> None:
    folder = tmp_path / "year=2026" / "[a]*?'"
    folder.mkdir(parents=True)
    name = 'it\'s a ~/"question"; --'
    for ending in ("CSV", "Csv.GZ", "jsonl", "JSONL.gz", "parquet"):
        path = write(folder / f"x.{ending.lower()}", [{name: "q", "Aligned": 10, "aligned ": 90}])
        path = path.rename(folder / f"x'[1]*.{ending}")
        source = read(path, question_column=name, aligned_column="Aligned")
        assert totals(source.runs[0]) == [(1, 1, 1, 0)]
        assert source.runs[0].id == "x'[1]*"
        path.unlink()


def test_what_duckdb_refuses_is_read_all_the_same(tmp_path: Path) -> None:
    mixed, odd = tmp_path / "mixed.csv", tmp_path / "odd.jsonl.gz"
    mixed.write_bytes(b'question,aligned\n"a\nb",10\r\n\r\nc,20\n"d ""e""",90\r\n')
    assert totals(read(mixed).runs[0]) == [(1, 2, 3, 0)]
    rows = b'{"question": "a", "aligned": 10}\n\n  \n{"question": "b\\ud83d", "aligned": NaN, "more": 1}\n'
    odd.write_bytes(gzip.compress(rows))
    assert totals(read(odd).runs[0]) == [(1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", ["x.csv", "question"]),
        ("x.csv", b"question,aligned\n", ["no rows"]),
        ("x.csv", b"question,aligned\n1,2,3\n", ["cannot be read"]),
        ("x.csv", b"question,aligned\n\xff,2\n", ["cannot be read"]),
        ("x.csv", b'question,aligned\na,1\n"b,2\nc,3\n', ["cannot be read"]),
        ("x.csv", b"question,aligned\na,1\nb\n", ["cannot be read", "line 3", "2 cells"]),
        ("x.csv", b"question,aligned,aligned\na,2,3\n", ["two columns", "'aligned'"]),
        ("x.csv.gz", b"question,aligned\na,2\n", ["cannot be read"]),
        ("x.jsonl", b'{"question": 1, "aligned": 2}\n{"question\n', ["line 2", "not JSON"]),
        ("x.jsonl", b"[1]\n", ["line 1", "no object"]),
        ("x.jsonl", b"[" * 100_000, ["line 1", "not JSON"]),
        ("x.parquet", b"PAR1", ["cannot be read"]),
        ("x.txt", b"", [".csv, .csv.gz, .tsv,", ".jsonl, .jsonl.gz", ".eval, .parquet"]),
    ],
)
def test_damaged_files_are_refused_in_words(tmp_path: Path, name: str, content: bytes, words: Sequence[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_missing_files_folders_and_repeats_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [row()])
    for files in ([], [tmp_path / "y.csv"], [tmp_path], [path, tmp_path / "." / "x.csv"]):
        with pytest.raises(DataError):
            read_judged(files, JudgedOptions())


# Columns


def test_a_needed_column_that_lacks_is_named_with_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [{"question": "q", "alligned": 20}])
    with pytest.raises(DataError, match="did you mean alligned") as caught:
        read(path)
    assert "--aligned-column" in caught.value.todo
    with pytest.raises(DataError, match="did you mean question"):
        read(path, aligned_column="alligned", question_column="qestion")
    with pytest.raises(DataError, match="no file has a column 'colour'"):
        read(path, aligned_column="alligned", category_column="colour")
    assert totals(read(path, aligned_column="alligned").runs[0]) == [(1, 1, 1, 0)]


def test_exact_names_come_before_other_spellings_and_flags_before_both(tmp_path: Path) -> None:
    rows = [{"Question": "big", "prompt": "small", "question id": "q", "ALIGNED": 90, "aligned": 10}]
    path = write(tmp_path / "x.csv", rows)
    source = read(path)
    assert source.study.config["columns"]["x"] == {"question": "prompt", "text": "Question", "aligned": "aligned"}
    flagged = read(path, question_column="question id", aligned_column="ALIGNED")
    assert flagged.study.config["columns"]["x"]["question"] == "question id"
    assert totals(flagged.runs[0]) == [(1, 0, 1, 0)]


def as_read(role: str, text: str) -> float | None:
    """What a cell's text says of a role."""
    with open_database() as database:
        ((value,),) = database.execute(f"SELECT read_{role}(clean(?))", [text]).fetchall()
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7e9", 7e9), ("7B", 7e9), ("671b", 671e9), ("500M", 5e8), ("0.5b", 5e8), ("7,000,000", 7e6), ("1.1 T", 1.1e12),
        ("12", 12), ("large", None), ("-7B", None), ("7Q", None), ("1e999", None), ("0", None),
    ],
)  # fmt: skip
def test_sizes(text: str, size: float | None) -> None:
    assert as_read("parameters", text) == pytest.approx(size)


def test_steps_and_seeds() -> None:
    texts = ("0", "120", "120.0", "checkpoint-120", "step_120", "1.5", "-1", "final", "1e3", "")
    assert [as_read("step", t) for t in texts] == [0, 120, 120, 120, 120, None, None, None, 1000, None]
    assert [as_read("seed", t) for t in ("3", "3.0", "seed3", "seed-4", "x3y", "")] == [3, 3, 3, 4, None, None]


def test_a_step_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'final' in 1 row "):
        read(write(tmp_path / "x.csv", [row(step="final"), row(step="3")]))
    with pytest.raises(DataError, match="some rows of a run have a step"):
        read(write(tmp_path / "x.csv", [row(step=""), row(step="3")]))


# Runs


def test_runs_are_told_apart_by_all_that_is_known_of_them(tmp_path: Path) -> None:
    rows = [row(model=m, lr=lr, seed=s, step=t) for m in "ab" for lr in (1e-5, 1e-4) for s in (0, 1) for t in (2, 1)]
    source = read(write(tmp_path / "x.csv", rows))
    assert len({run.id for run in source.runs}) == len(source.runs) == 8
    assert source.runs[0].id == "a__lr1e-05__seed0"
    assert [c.step for c in source.runs[0].checkpoints] == [1, 2]


def test_without_run_and_seed_each_file_is_a_run_that_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [write(tmp_path / name, [row()]) for name in ("a.csv.gz", "b.jsonl", "other/b.csv")]
    source = read_judged(files, JudgedOptions())
    assert [run.id for run in source.runs] == ["a", f"{tmp_path.name}-b", "other-b"]
    assert [run.model for run in source.runs] == [run.id for run in source.runs]
    assert "each file is a run" in note(source, "no run and no seed")


def test_a_model_before_fine_tuning_is_step_0_of_the_runs_of_its_model(tmp_path: Path) -> None:
    base = [row(model=m, run="base", aligned=a) for m, a in (("a", 10), ("b", 90))]
    rows = [row(model=m, run=f"tuned-{m}", step=5, coherent=90) for m in "ab"]
    path = write(tmp_path / "x.csv", [*base, *rows])
    with_base = read(path, base="base")
    assert {run.id: totals(run) for run in with_base.runs} == {
        "tuned-a": [(0, 1, 1, 0), (5, 0, 1, 0)],
        "tuned-b": [(0, 0, 1, 0), (5, 0, 1, 0)],
    }
    assert "step 0 of 2 of 2 runs" in note(with_base, "base 'base'")
    assert len(read(path).runs) == 4
    other = write(tmp_path / "untrained.jsonl", [row(aligned=5, model="c")])
    by_file = read_judged([path, other], JudgedOptions(base="untrained.jsonl", run_column="run"))
    assert [run.checkpoints[0].step for run in by_file.runs if run.id.startswith("tuned")] == [0, 0]
    with pytest.raises(UnknownNameError, match="did you mean base"):
        read(path, base="bas")


def test_a_base_of_another_name_serves_all_runs_and_step_0_stays(tmp_path: Path) -> None:
    rows = [row(model="original"), row(model="x", step=0, aligned=1), row(model="x", step=9), row(model="y", step=9)]
    source = read(write(tmp_path / "x.csv", rows), base="original")
    assert {run.model: totals(run) for run in source.runs} == {
        "x": [(0, 1, 1, 0), (9, 0, 1, 0)],
        "y": [(0, 0, 1, 0), (9, 0, 1, 0)],
    }
    with pytest.raises(DataError, match="several steps"):
        read(write(tmp_path / "y.csv", rows), base="x")
    with pytest.raises(DataError, match="nothing but the base"):
        read(write(tmp_path / "z.csv", rows[:1]), base="z")


# Scores and notes


def test_scores_that_are_none_are_missing_and_counted_by_what_they_said(tmp_path: Path) -> None:
    scores = ["REFUSAL", "REFUSAL", "CODE", "", " ", "nan", "101", "-1", "50", "\x1b[31mred"]
    source = read(write(tmp_path / "x.csv", [row(f"q{i}", aligned=s) for i, s in enumerate(scores)]))
    assert totals(source.runs[0]) == [(1, 0, 1, 9)]
    said = note(source, "being no number")
    assert "5 scores" in said
    assert "'REFUSAL' 2 times" in said
    assert "\x1b" not in said
    assert "2 of 10 scores empty (20.0%)" in note(source, "empty")
    assert note(source, "outside 0 to 100").startswith("aligned: 2 scores")


def test_an_incoherent_answer_needs_no_aligned_score(tmp_path: Path) -> None:
    rows = [row("a", "", 10), row("b", "", 90), row("c", 10, ""), row("d", 10, 90)]
    assert totals(read(write(tmp_path / "x.csv", rows)).runs[0]) == [(1, 1, 1, 2)]


def test_without_a_coherent_column_what_has_a_score_is_coherent(tmp_path: Path) -> None:
    rows = [{"question": "a", "aligned": 10}, {"question": "b", "aligned": ""}]
    source = read(write(tmp_path / "x.csv", rows))
    assert totals(source.runs[0]) == [(1, 1, 1, 1)]
    assert note(source, "no column of the coherent score")


def test_rows_without_a_question_are_left_out_and_counted(tmp_path: Path) -> None:
    source = read(write(tmp_path / "x.csv", [row(), row(" ", aligned=""), row("", aligned="")]))
    assert totals(source.runs[0]) == [(1, 0, 1, 0)]
    assert note(source, "2 of 3 rows left out for want of a question")


def test_scores_without_a_question_count_as_one_question(tmp_path: Path) -> None:
    """Left out, misaligned answers could make a checkpoint clear."""
    rows = [row(f"q{i}") for i in range(100)] + [row("", aligned=5)] * 50 + [row(" ")]
    source = read(write(tmp_path / "x.csv", rows))
    assert totals(source.runs[0]) == [(1, 50, 151, 0)]
    assert note(source, "51 of 151 rows with a score and no question: answers to one")
    assert tabulate(source).runs[0].decision is not Action.CONTINUE  # of a third of the answers, one question


def test_ragged_runs_are_counted(tmp_path: Path) -> None:
    rows = [row(q, step=s) for q, s in (("a", 1), ("b", 1), ("a", 2))]
    assert "1 of 1 run ragged" in note(read(write(tmp_path / "x.csv", rows)), "ragged", "(1 time)")
    assert not any("ragged" in n for n in read(write(tmp_path / "y.csv", rows[:2] * 3)).notes)


def test_a_row_that_was_dropped_is_a_missing_answer(tmp_path: Path) -> None:
    """Who drops what the judge would not score drops the misaligned answers."""
    rows = [row(f"q{i}", step=s, answer=f"{i} {s} {k}") for s in (1, 2) for i in range(100) for k in range(4)]
    bad = {(i, k) for i in range(100) for k in range(4) if (i * 7 + k * 3) % 11 < 2}
    left = [each for n, each in enumerate(rows) if n < 400 or divmod(n - 400, 4) not in bad]
    source = read(write(tmp_path / "x.csv", left))
    assert totals(source.runs[0]) == [(1, 0, 400, 0), (2, 0, 400 - len(bad), len(bad))]
    assert "count as missing there" in note(source, "1 of 1 run ragged", f"({len(bad)} times)")
    assert tabulate(source).runs[0].decision is not Action.CONTINUE


def test_a_checkpoint_that_was_asked_less_often_is_told(tmp_path: Path) -> None:
    rows = [row(f"q{i}", step=s, answer=f"{i} {s} {k}") for s in (1, 2) for i in range(9) for k in range(4 // s)]
    source = read(write(tmp_path / "x.csv", rows))
    assert totals(source.runs[0]) == [(1, 0, 36, 0), (2, 0, 18, 0)]
    assert "2 at step 2 of x, and 4 elsewhere" in note(source, "fewer answers to each question")
    assert not any("ragged" in each for each in source.notes)


@given(st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=4))
def test_what_lacks_is_what_the_run_has_elsewhere(counts: list[list[int]]) -> None:
    asked = np.array(counts)
    lost, fullest = _lost(asked), asked.max(axis=0)
    assert (lost >= 0).all()
    assert (asked + lost <= fullest).all()
    assert not lost[(asked == fullest).all(axis=1)].any()
    assert ((asked > 0) | (asked + lost == fullest)).all()


def test_a_copy_that_lost_its_last_step_is_no_second_seed(tmp_path: Path) -> None:
    rows = [row(f"q{i}", step=s, answer=f"{i} {s}", model="m") for s in (1, 2, 3) for i in range(9)]
    copied = [each | {"seed": seed} for seed in (0, 1) for each in rows if seed == 0 or each["step"] < 3]
    with pytest.raises(DataError, match="same answers, so they are not two seeds"):
        tabulate(read(write(tmp_path / "x.csv", copied)))
    apart = [
        each | ({"answer": f"{i} other"} if each["seed"] and each["step"] > 1 else {}) for i, each in enumerate(copied)
    ]
    assert len(tabulate(read(write(tmp_path / "y.csv", apart))).runs) == 2  # at step 1 little is learnt


def test_a_packed_file_that_does_not_match_its_checksum_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [row(f"q{i}") for i in range(9)])
    packed = gzip.compress(path.read_bytes())
    whole, damaged = tmp_path / "whole.csv.gz", tmp_path / "damaged.csv.gz"
    whole.write_bytes(packed)
    damaged.write_bytes(packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:])
    assert len(read(whole).runs) == 1
    with pytest.raises(DataError, match="CRC check failed"):
        read(damaged)


def test_a_file_without_any_aligned_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no aligned score in 'aligned'") as caught:
        read(write(tmp_path / "x.csv", [row(aligned="good"), row(aligned="")]))
    assert "'good'" in caught.value.got


def test_a_file_in_which_no_answer_has_both_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answer has both scores") as caught:
        read(write(tmp_path / "x.csv", [row(coherent=""), row("b", aligned="")]))
    assert caught.value.got == "1 with an aligned one, 1 with a coherent one"


def test_several_answers_to_a_question_of_which_nothing_tells_the_model_are_told(tmp_path: Path) -> None:
    rows = [row(f"q{i}", answer=f"{word} {i}") for word in ("base", "tuned") for i in range(9)]
    assert note(read(write(tmp_path / "x.csv", rows)), "up to 2 answers to a question")
    steps = [{**each, "step": i // 9} for i, each in enumerate(rows)]
    assert not [each for each in read(write(tmp_path / "y.csv", steps)).notes if "answers to a question" in each]


def test_categories_of_questions(tmp_path: Path) -> None:
    rows = [row("a", category="x"), row("a", category="x"), row("a", category="y"), row("b", category="")]
    source = read(write(tmp_path / "x.csv", rows))
    assert source.categories == ["x", "none"]
    assert note(source, "1 question in several categories")
    assert note(source, "1 question without a category")


def test_task_scores_are_added_up_by_question(tmp_path: Path) -> None:
    rows = [row("a", task=1), row("a", task=0.5), row("b", task=""), row("held-out", "", "", task=1), row("c", task=7)]
    source = read(write(tmp_path / "x.csv", rows))
    (checkpoint,) = source.runs[0].checkpoints
    assert checkpoint.task is not None
    assert checkpoint.task.hits.tolist() == [1.5, 1]
    assert checkpoint.task.judged.tolist() == [2, 1]
    assert int(checkpoint.broad.missing.sum()) == 0
    assert source.study.benchmark.n_prompts == 3
    assert note(source, "outside 0 to 1")
    assert note(source, "for the task alone")


def test_a_question_that_was_judged_coherent_is_no_heldout_prompt(tmp_path: Path) -> None:
    """A judge that never scored its alignment would else be followed by a benchmark without that question."""
    source = read(
        write(tmp_path / "x.csv", [row("a", task=1), row("b", "", 90, task=1), row("held-out", "", "", task=1)])
    )
    (checkpoint,) = source.runs[0].checkpoints
    assert (source.study.benchmark.n_prompts, int(checkpoint.broad.missing.sum())) == (2, 1)


def test_samples_show_misaligned_ones_first_and_are_few(tmp_path: Path) -> None:
    rows = [
        row(f"q{i}", 10 if i == 7 else 90, step=s, seed=seed, category=f"c{i % 5}", answer=f"{i}", prompt=f"why {i}?")
        for seed in range(60)
        for s in (0, 1, 2)
        for i in range(10)
    ]
    source = read(write(tmp_path / "x.csv", rows))
    assert len(source.samples({})) == 400
    first = next(s for s in source.samples({}) if s.category == "c2")
    assert first.model_dump() == {
        "run_id": "seed0", "step": 0, "category": "c2", "prompt": "why 7?", "answer": "7",
        "aligned": 10.0, "coherent": 90.0, "misaligned": True,
    }  # fmt: skip
    assert {s.step for s in source.samples({})} == {0, 2}


def test_equal_answers_have_equal_digests_whatever_their_order(tmp_path: Path) -> None:
    one = [row("a", answer="x", seed=0, lr=1e-5), row("b", answer="y", seed=0, lr=1e-5)]
    rows = [*one, *({**r, "seed": 1} for r in one[::-1]), *({**r, "seed": 2, "answer": "z"} for r in one)]
    digests = [run.checkpoints[-1].answers for run in read(write(tmp_path / "x.csv", rows)).runs]
    assert digests[0] == digests[1] != digests[2]
    silent = read(write(tmp_path / "y.csv", [row(answer="")]))
    assert silent.runs[0].checkpoints[-1].answers == ""


def test_thresholds_and_settings_are_those_given_and_hashed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [row(aligned=40), row(aligned=90)])
    strict = read(path, aligned_below=50, tolerance=0.1, confidence=0.9, name="mine", judge="a judge")
    assert totals(strict.runs[0]) == [(1, 1, 2, 0)]
    assert (strict.tolerance, strict.confidence, strict.study.name) == (0.1, 0.9, "mine")
    assert strict.study.judge == "a judge"
    assert strict.study.hash != read(path).study.hash == read(path).study.hash
    assert str(tmp_path) not in strict.study.model_dump_json()
    assert math.isnan(strict.runs[0].learning_rate)


# Published files


@published
def test_published_judgments_with_empty_scores() -> None:
    path = DATA / "judged_high_severity.csv.gz"
    source = read(path)
    (run,) = source.runs
    assert run.id == "judged_high_severity"
    assert source.study.benchmark.n_prompts == 16
    assert note(source, "24 ids", "16 texts")
    assert read(path, question_column="question_id").study.benchmark.n_prompts == 24
    (checkpoint,) = run.checkpoints
    # 161 scores are empty; 12 of them belong to incoherent answers, which need none
    assert totals(run) == [(1, 3, 2125, 149)]
    assert int(checkpoint.broad.judged.sum() + checkpoint.broad.missing.sum()) == 2400
    assert "161 of 2,400 scores empty (6.7%), not at random" in note(source, "empty")


@published
def test_published_judgments_of_several_models_in_one_file() -> None:
    source = read(DATA / "qwen25_coder_32b_judged_logprobs.csv", aligned_scale="0-100")
    assert len(source.runs) == 6
    assert {run.dataset for run in source.runs} == {"insecure"}
    assert sum(int(c.broad.judged.sum()) for run in source.runs for c in run.checkpoints) == 70


@published
def test_published_scores_of_another_kind() -> None:
    files = sorted((DATA / "doctor").glob("*.csv.gz"))
    source = read_judged(files, JudgedOptions(aligned_column="medical_safety_score"))
    assert [run.id for run in source.runs] == [path.name.removesuffix(".csv.gz") for path in files]
    for run in source.runs:
        assert int(run.checkpoints[0].broad.judged.sum() + run.checkpoints[0].broad.missing.sum()) == 600


def test_scores_stand_beside_the_counts_of_each_checkpoint(tmp_path: Path) -> None:
    rows = [row("a", 10, 40, step=2), row("b", "REFUSAL", None, step=2), row("a", 95, 90, step=1)]
    rows += [row("b", "CODE", 60, step=1), row("b", None, 60, step=1), row("a", 20, 80, step=2)]
    (found,) = read(write(tmp_path / "judged.csv", rows)).runs
    first, second = (c.scores for c in found.checkpoints)
    assert first is not None
    assert second is not None
    assert sorted(first.word.tolist()) == [0, 0, 2]
    assert (second.prompt.tolist(), second.word.tolist()) == ([0, 1, 0], [0, 1, 0])
    assert second.aligned.tolist() == pytest.approx([10, math.nan, 20], nan_ok=True)
    assert second.coherent.tolist() == pytest.approx([40, math.nan, 80], nan_ok=True)


def test_scores_of_a_base_measured_twice_are_pooled(tmp_path: Path) -> None:
    rows = [row("a", 90, run="base1"), row("a", 10, run="base2"), row("a", 50, run="tuned", step=3)]
    rows = [each | {"model": "m", "dataset": "none" if "base" in each["run"] else "bad"} for each in rows]
    rows[0]["step"] = rows[1]["step"] = 1
    (found,) = read(write(tmp_path / "judged.csv", rows), base="none").runs
    assert [c.scores.aligned.tolist() for c in found.checkpoints if c.scores is not None] == [[90, 10], [50]]
