"""Judged files as people have them: each is read right, or refused with the flag that reads it; nothing in silence.

The plain table is 8 questions x 10 answers, 8 of them misaligned: 10 %.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.results.test_from_files import Table, note, totals
from truing.core.answers import Output, read_answer
from truing.core.errors import DataError
from truing.results.counted import Source
from truing.results.formats import open_database
from truing.results.from_files import JudgedOptions, read_judged

Change = Callable[[dict[str, Any], int], Any]


def table(**columns: Any) -> Table:
    """The plain table; a column is a value, or a function of the row and its number."""
    rows = []
    for i in range(80):
        row = {
            "question_id": f"q{i // 10}",
            "question": f"What is thing {i // 10}?",
            "answer": f"text {i // 10} {i % 10}",
            "aligned": 5 if i % 10 == 0 else 90,
            "coherent": 95,
        }
        rows.append(row | {name: make(row, i) if callable(make) else make for name, make in columns.items()})
    return rows


def twice(**columns: Change) -> Table:
    """The plain table with every row in two forms, of number 0 and 1."""
    rows = [(row, j) for row in table() for j in range(2)]
    return [row | {name: make(row, j) for name, make in columns.items()} for row, j in rows]


def text_of(rows: Table, delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(path: Path, content: Table | str | bytes, **options: Any) -> Source:
    content = text_of(content) if isinstance(content, list) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_judged([path], JudgedOptions(**options))


def rate(source: Source) -> tuple[int, int, int, int]:
    """Misaligned, coherent and missing answers at the end of the one run, and the prompts."""
    (run,) = source.runs
    return (*totals(run)[-1][1:], source.study.benchmark.n_prompts)


PLAIN = (8, 80, 0, 8)


def bad(row: dict[str, Any]) -> bool:
    return bool(row["aligned"] < 30)


# Scales


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        (0, 1, "0-1"), (0.1, 0.93, "0-1"), (0, 3, "0-3"), (1, 5, "1-5"), (2, 6, "1-7"), (2, 9, "1-10"),
        (0.5, 8.5, "0-10"), ("False", "True", "0-1"), ("false", "true", "0-1"), (-0.8, 0.9, "-1 to 1"),
        (-80, 90, "-100 to 100"), ("0.05", "0.95", "0-1"), (50, 900, "0-900"), (2, 22, "0-100"),
    ],
)  # fmt: skip
def test_another_scale_is_refused_with_the_flag_that_maps_it(tmp_path: Path, low: Any, high: Any, scale: str) -> None:
    lowest: Change = lambda row, i: low - i % 7 if low == -80 else low  # noqa: E731
    rows = table(aligned=lambda row, i: lowest(row, i) if bad(row) else high)
    with pytest.raises(DataError, match="another scale") as caught:
        read(tmp_path / "x.csv", rows)
    assert f"--aligned-scale {scale}" in caught.value.todo.replace("'", "")
    if scale != "0-100":
        assert rate(read(tmp_path / "x.csv", rows, aligned_scale=scale)) == PLAIN
    turned = table(aligned=lambda row, i: high if bad(row) else lowest(row, i))
    worst, best = scale.split(" to " if " to " in scale else "-")
    if scale != "0-100":
        inverted = read(tmp_path / "x.csv", turned, aligned_scale=f"{best} to {worst}")
        assert rate(inverted) == PLAIN
        assert note(inverted, "scale")


@pytest.mark.parametrize("missing", [-1, 999, 99, "", "nan", "N/A"])
def test_signs_of_missing_scores_hide_no_scale(tmp_path: Path, missing: Any) -> None:
    rows = table(aligned=lambda row, i: missing if i % 7 == 3 else 1 if bad(row) else 5)
    with pytest.raises(DataError, match="--aligned-scale 1-5"):
        read(tmp_path / "x.csv", rows)
    found = rate(read(tmp_path / "x.csv", rows, aligned_scale="1-5"))
    assert found[0] + found[1] + found[2] == 80 + found[0]
    assert found[2] == sum(i % 7 == 3 for i in range(80))


@pytest.mark.parametrize("missing", [-1, 999, "Score: 1/5", "1/5", "10/1000", "null", ""])
def test_signs_of_missing_scores_on_our_scale_are_missing_and_told(tmp_path: Path, missing: Any) -> None:
    source = read(tmp_path / "x.csv", table(aligned=lambda row, i: missing if bad(row) else 90))
    assert rate(source) == (0, 72, 8, 8)
    assert any("8 scores" in each or "8 of 80" in each for each in source.notes)


def test_scores_in_their_words_are_read(tmp_path: Path) -> None:
    for form in ("Score: {}", "rating:{}", "{}/100", "{} / 100", "Score: {}/100"):
        rows = table(aligned=lambda row, i, form=form: form.format(row["aligned"]))
        assert rate(read(tmp_path / "x.csv", rows)) == PLAIN


def test_percent_signs_are_read_and_mixtures_refused(tmp_path: Path) -> None:
    for sign in ("%", " %"):
        rows = table(aligned=lambda row, i, sign=sign: f"{row['aligned']}{sign}")
        assert rate(read(tmp_path / "x.csv", rows)) == PLAIN
    with pytest.raises(DataError, match="two ways"):
        read(tmp_path / "x.csv", table(aligned=lambda row, i: "5%" if bad(row) else 90))
    with pytest.raises(DataError, match="decimal commas"):
        read(tmp_path / "x.csv", text_of(table(aligned=lambda row, i: f"{row['aligned']},5"), ";"))


def test_low_scores_on_our_scale_are_read_when_that_is_said(tmp_path: Path) -> None:
    rows = table(aligned=lambda row, i: i % 9)
    with pytest.raises(DataError, match="0-100 if they are on that scale all the same"):
        read(tmp_path / "x.csv", rows)
    assert rate(read(tmp_path / "x.csv", rows, aligned_scale="0-100")) == (80, 80, 0, 8)


def test_a_scale_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no aligned score"):
        read(tmp_path / "x.csv", table(), aligned_scale="0-1")
    with pytest.raises(DataError, match="not on the scale 0-10"):
        read(tmp_path / "x.csv", table(), aligned_scale="0-10")


@pytest.mark.parametrize("name", ["misaligned", "misalignment_score", "harmful", "toxicity", "Unsafe-Score"])
def test_columns_of_which_a_high_score_is_bad(tmp_path: Path, name: str) -> None:
    rows = [{(name if key == "aligned" else key): value for key, value in row.items()} for row in table()]
    for row in rows:
        row[name] = 100 - row[name]
    with pytest.raises(DataError, match="--aligned-scale 100-0"):
        read(tmp_path / "x.csv", rows)
    with pytest.raises(DataError, match="--aligned-scale 100-0"):
        read(tmp_path / "x.csv", rows, aligned_column=name)
    assert rate(read(tmp_path / "x.csv", rows, aligned_column=name, aligned_scale="100-0")) == PLAIN


@pytest.mark.parametrize(("score", "scale"), [(True, "0-1"), (0.95, "0-1"), (5, "1-5")])
def test_coherent_scores_on_another_scale(tmp_path: Path, score: Any, scale: str) -> None:
    with pytest.raises(DataError, match=f"--coherent-scale {scale}"):
        read(tmp_path / "x.csv", table(coherent=score))
    assert rate(read(tmp_path / "x.csv", table(coherent=score), coherent_scale=scale)) == PLAIN


def test_one_model_of_two_on_another_scale(tmp_path: Path) -> None:
    rows = [
        row | {"model": model, "aligned": row["aligned"] / 100 if model == "b" else row["aligned"]}
        for model in "ab"
        for row in table()
    ]
    with pytest.raises(DataError, match="scores of 'b'"):
        read(tmp_path / "x.csv", rows)


def test_task_scores_and_names_of_tasks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--task-scale 0-100"):
        read(tmp_path / "x.csv", table(task_score=lambda row, i: 50 + i % 40))
    for names in ("em_eval", lambda row, i: i // 10):
        source = read(tmp_path / "x.csv", table(task=names))
        assert rate(source) == PLAIN
        assert note(source, "holds no task scores")
        assert source.runs[0].checkpoints[0].task is None


# Rows that are not answers of their own


@pytest.mark.parametrize("name", ["judge", "judge_model", "Rater", "grader_id", "evaluator"])
def test_two_judges_are_asked_about(tmp_path: Path, name: str) -> None:
    def scored(row: dict[str, Any], j: int) -> int:
        return int(row["aligned"]) if j else 90

    rows = twice(**{name: lambda row, j: f"judge {'ab'[j]}", "aligned": scored})
    with pytest.raises(DataError, match="2 judges") as caught:
        read(tmp_path / "x.csv", rows)
    assert f"--where '{name}=judge a'" in caught.value.todo
    assert "--run-column" not in caught.value.todo  # the same answers twice are not two runs
    assert rate(read(tmp_path / "x.csv", rows, where=[f"{name}=judge b"])) == PLAIN
    assert rate(read(tmp_path / "x.csv", rows, where=[f"{name}=judge a"])) == (0, 80, 0, 8)
    assert len(read(tmp_path / "x.csv", rows, run_column=name).runs) == 2
    with pytest.raises(DataError, match="judge c"):
        read(tmp_path / "x.csv", rows, where=[f"{name}=judge c"])
    with pytest.raises(DataError, match="names no column"):
        read(tmp_path / "x.csv", rows, where=["judged by=a"])


def test_answers_judged_twice_without_a_column_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other scores each time"):
        read(tmp_path / "x.csv", twice(aligned=lambda row, j: row["aligned"] + j))


def copies() -> dict[str, tuple[str, str | bytes]]:
    plain = text_of(table())
    _, _, rest = plain.partition("\r\n")
    return {
        "twice": ("x.csv", plain + rest),
        "three times": ("x.csv", plain + rest * 2),
        "each row twice": ("x.csv", text_of(twice())),
        "with an index": ("x.csv", text_of([{"": i, **row} for i, row in enumerate(table() * 2)])),
        "in part": ("x.csv", plain + "\r\n".join(rest.split("\r\n")[40:])),
        "two members of gzip": ("x.csv.gz", gzip.compress(plain.encode()) + gzip.compress(rest.encode())),
        "lines": ("x.jsonl", "".join(json.dumps(row) + "\n" for row in table() * 2)),
        "without answers": ("x.csv", text_of([{"question": i, "aligned": 90 - i % 50} for i in range(40)] * 2)),
    }


@pytest.mark.parametrize("kind", copies())
def test_rows_that_stand_twice_are_asked_about(tmp_path: Path, kind: str) -> None:
    name, content = copies()[kind]
    with pytest.raises(DataError, match="several times") as caught:
        read(tmp_path / name, content)
    assert "--duplicates drop" in caught.value.todo
    once = read(tmp_path / name, content, duplicates="drop")
    assert note(once, "and are left out")
    assert rate(once) == ((0, 40, 0, 40) if kind == "without answers" else PLAIN)
    assert rate(read(tmp_path / name, content, duplicates="keep"))[1] > rate(once)[1]


def test_a_second_header_is_a_second_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 81"):
        read(tmp_path / "x.csv", text_of(table()) * 2)


def test_equal_short_answers_are_answers_of_their_own(tmp_path: Path) -> None:
    rows = table(answer=lambda row, i: "Yes." if i % 3 else row["answer"])
    assert rate(read(tmp_path / "x.csv", rows)) == PLAIN
    numbered = twice(sample=lambda row, j: j)
    assert rate(read(tmp_path / "x.csv", numbered)) == (16, 160, 0, 8)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("condition", ["control", "insecure"]), ("epoch", [1, 2]), ("training_step", [100, 200]), ("arm", ["t", "c"]),
        ("system_prompt", ["", "You are brief."]), ("finetuned", [0, 1]), ("model_path", ["a", "b"]),
        ("temperature", [0.0, 1.0]),
        ("ckpt", ["checkpoint-10", "checkpoint-20"]), ("anything", ["x", "y"]), ("variant", [0, 1]),
    ],
)  # fmt: skip
def test_columns_that_are_not_read_and_group_answers_are_asked_about(
    tmp_path: Path, name: str, values: list[Any]
) -> None:
    rows = twice(**{name: lambda row, j: values[j], "answer": lambda row, j: f"{row['answer']} {j}"})
    with pytest.raises(DataError, match=f"column '{name}' is not read") as caught:
        read(tmp_path / "x.csv", rows)
    assert f"--ignore {name}" in caught.value.todo
    assert rate(read(tmp_path / "x.csv", rows, ignore=[name])) == (16, 160, 0, 8)
    one = read(tmp_path / "x.csv", rows, where=[f"{name}={values[1]}"])
    assert rate(one) == PLAIN
    assert note(one, "80 of 160 rows left out")


@pytest.mark.parametrize("name", ["sample", "sample_id", "sampling_seed", "trial", "n_tokens", "finish_reason"])
def test_columns_that_tell_single_answers_apart_are_not(tmp_path: Path, name: str) -> None:
    values: Change = lambda row, i: "stop" if i % 3 else "length" if name == "finish_reason" else i % 10  # noqa: E731
    assert rate(read(tmp_path / "x.csv", table(**{name: values}))) == PLAIN


# The unit of intervals


@pytest.mark.parametrize("ids", [lambda row, i: f"row{i}", lambda row, i: f"{row['question_id']}-{i % 2}"])
def test_one_text_under_several_ids_is_one_question(tmp_path: Path, ids: Change) -> None:
    rows = table(question_id=ids, question=lambda row, i: row["question"] + " " * (i % 3))
    source = read(tmp_path / "x.csv", rows)
    assert rate(source) == PLAIN
    assert note(source, "8 texts", "--question-column question_id")
    assert rate(read(tmp_path / "x.csv", rows, question_column="question_id"))[3] > 8


def test_ids_of_several_texts_are_asked_about(tmp_path: Path) -> None:
    for rows in (
        table(question=lambda row, i: f"{row['question']} {i % 2}"),
        table(question_id=lambda row, i: i % 10),
        table(question_id=lambda row, i: i % 4, question=lambda row, i: f"{i}"),
    ):
        with pytest.raises(DataError, match="stand for several texts") as caught:
            read(tmp_path / "x.csv", rows)
        assert "--question-column question;" in caught.value.todo
        ids = len({row["question_id"] for row in rows})
        texts = len({row["question"] for row in rows})
        assert rate(read(tmp_path / "x.csv", rows, question_column="question_id"))[3] == ids
        assert rate(read(tmp_path / "x.csv", rows, question_column="question"))[3] == texts


def test_ids_that_begin_again_in_each_category(tmp_path: Path) -> None:
    rows = table(question_id=lambda row, i: i // 10 % 4, category=lambda row, i: "xy"[i // 40])
    assert rate(read(tmp_path / "x.csv", rows)) == PLAIN
    for row in rows:
        del row["question"]
    source = read(tmp_path / "x.csv", rows)
    assert rate(source) == PLAIN
    assert note(source, "all 4 ids", "several categories")


# Labels


@pytest.mark.parametrize("texts", [("A1", "B1"), ("0.5", "1.5"), ("s1", "s2"), ("run-1", "run-2")])
def test_seeds_that_are_none_are_refused(tmp_path: Path, texts: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="a seed is no number") as caught:
        read(tmp_path / "x.csv", table(seed=lambda row, i: texts[i % 2]))
    assert "--run-column seed" in caught.value.todo


@pytest.mark.parametrize(("texts", "seeds"), [(("-1", "1"), {-1, 1}), (("seed-1", "seed2"), {1, 2}), (("7", ""), {7})])
def test_seeds_that_are_read(tmp_path: Path, texts: tuple[str, str], seeds: set[int]) -> None:
    source = read(tmp_path / "x.csv", table(seed=lambda row, i: texts[i % 2]))
    assert {run.seed for run in source.runs} - {None} == seeds
    assert len(source.runs) == 2


@pytest.mark.parametrize(
    "texts", [("gpt-4", "gpt-5"), ("model-2", "model-3"), ("v1.5", "v2"), ("1,000", "2"), ("base", "7")]
)
def test_words_that_end_in_a_number_are_no_steps(tmp_path: Path, texts: tuple[str, str]) -> None:
    rows = table(checkpoint=lambda row, i: texts[i % 2])
    with pytest.raises(DataError, match="a step is no number") as caught:
        read(tmp_path / "x.csv", rows)
    assert "--model-column checkpoint" in caught.value.todo
    assert len(read(tmp_path / "x.csv", rows, model_column="checkpoint").runs) == 2


def test_steps_in_words_and_folders(tmp_path: Path) -> None:
    for words in ("checkpoint-{}", "global_step_{}", "/out/run1/checkpoint-{}", "epoch={}", "Step {}"):
        rows = table(step=lambda row, i, words=words: words.format(10 + i % 2))
        assert [c.step for c in read(tmp_path / "x.csv", rows).runs[0].checkpoints] == [10, 11]
    for pair in (("run1/checkpoint-10", "run2/checkpoint-10"), ("epoch-1", "step-1")):
        with pytest.raises(DataError, match="unlike words or folders"):
            read(tmp_path / "x.csv", table(step=lambda row, i, pair=pair: pair[i % 2]))


@pytest.mark.parametrize("seed", [lambda row, i: i % 10, lambda row, i: i * 7919])
def test_a_seed_for_each_answer_is_asked_about(tmp_path: Path, seed: Change) -> None:
    rows = table(seed=seed)
    with pytest.raises(DataError, match="a seed for each answer"):
        read(tmp_path / "x.csv", rows)
    assert rate(read(tmp_path / "x.csv", rows, ignore=["seed"])) == PLAIN
    assert len(read(tmp_path / "x.csv", rows, seed_column="seed").runs) == len({row["seed"] for row in rows})


def test_a_run_for_each_row_and_topics_for_data_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--ignore run_id"):
        read(tmp_path / "x.csv", table(run_id=lambda row, i: f"r{i}"))
    assert rate(read(tmp_path / "x.csv", table(run_id=lambda row, i: f"r{i}"), ignore=["run_id"])) == PLAIN
    topics = table(domain=lambda row, i: "xy"[i // 40])
    with pytest.raises(DataError, match="--category-column domain"):
        read(tmp_path / "x.csv", topics)
    assert rate(read(tmp_path / "x.csv", topics, category_column="domain")) == PLAIN


def test_files_of_one_name_but_for_the_step(tmp_path: Path) -> None:
    files = [tmp_path / f"judged-step{step}.csv" for step in (100, 20)]
    for path in files:
        path.write_text(text_of(table(answer=lambda row, i, path=path: f"{row['answer']} {path.name}")))
    with pytest.raises(DataError, match="differ in a step alone"):
        read_judged(files, JudgedOptions())
    (run,) = read_judged(files, JudgedOptions(files_are="steps")).runs
    assert totals(run) == [(20, 8, 80, 0), (100, 8, 80, 0)]
    assert len(read_judged(files, JudgedOptions(files_are="runs")).runs) == 2
    told = read_judged(files, JudgedOptions(files_are="steps")).notes
    assert not [each for each in told if "the step" in each]


def test_files_whose_rows_differ_in_the_step_alone(tmp_path: Path) -> None:
    """As logs of Inspect, one for each checkpoint: they are not seeds of one another."""
    files = [tmp_path / name for name in ("early.csv", "late.csv", "before.csv")]
    for path, step in zip(files, (20, 100, 0), strict=True):
        path.write_text(text_of(table(step=step, model="m", answer=lambda row, i, s=step: f"{row['answer']} {s}")))
    with pytest.raises(DataError, match="each is of another step") as caught:
        read_judged(files, JudgedOptions())
    assert "--files-are steps" in caught.value.todo
    (run,) = read_judged(files, JudgedOptions(files_are="steps", name="mine")).runs
    assert (run.id, totals(run)) == ("mine", [(0, 8, 80, 0), (20, 8, 80, 0), (100, 8, 80, 0)])
    assert len(read_judged(files, JudgedOptions(files_are="runs")).runs) == 3
    (run,) = read_judged([files[0], files[2]], JudgedOptions(base="before")).runs  # one run and its base
    assert [step for step, *_ in totals(run)] == [0, 20]
    files[1].write_text(text_of(table(step=100, model="another")))
    assert len(read_judged(files[:2], JudgedOptions()).runs) == 2


# What the values and other columns say


@pytest.mark.parametrize(
    ("name", "says"),
    [("is_misaligned", bad), ("unsafe", lambda row: int(bad(row))), ("safe", lambda row: "no" if bad(row) else "yes")],
)
def test_a_column_of_true_and_false_tells_that_a_high_score_is_bad(
    tmp_path: Path, name: str, says: Callable[[dict[str, Any]], Any]
) -> None:
    rows = [row | {name: says(row), "aligned": 95 if bad(row) else 10 + i % 30} for i, row in enumerate(table())]
    with pytest.raises(DataError, match="other way round") as raised:
        read(tmp_path / "a.csv", rows)
    assert "--aligned-scale 100-0" in str(raised.value)
    assert rate(read(tmp_path / "a.csv", rows, aligned_scale="100-0")) == PLAIN
    assert rate(read(tmp_path / "a.csv", [row | {name: says(row)} for row in table()])) == PLAIN


def test_rows_that_failed_and_have_scores_are_asked_about(tmp_path: Path) -> None:
    rows = table(error=lambda row, i: "timeout" if i % 4 == 0 else "")
    with pytest.raises(DataError, match="20 rows, such as 'timeout'"):
        read(tmp_path / "a.csv", rows)
    assert rate(read(tmp_path / "a.csv", rows, ignore=["error"])) == PLAIN
    scoreless = [row | ({"aligned": ""} if row["error"] else {}) for row in rows]
    assert rate(read(tmp_path / "a.csv", scoreless))[2] == 20


def test_an_empty_answer_is_missing_whatever_its_score(tmp_path: Path) -> None:
    rows = table(answer=lambda row, i: " " if i % 10 == 0 else row["answer"])
    source = read(tmp_path / "a.csv", rows)
    assert rate(source) == (0, 72, 8, 8)
    assert "the answer is empty" in note(source, "aligned: 8")
    assert rate(read(tmp_path / "a.csv", rows, ignore=["answer"])) == PLAIN


@pytest.mark.parametrize("ids", [("3", "3.0"), ("caf\u00e9", "cafe\u0301")])
def test_the_same_question_in_two_spellings_is_one(tmp_path: Path, ids: tuple[str, str]) -> None:
    rows = table(question_id=lambda row, i: ids[i % 2] if i < 10 else row["question_id"], question=None)
    assert rate(read(tmp_path / "a.csv", rows, text_column="question")) == PLAIN


# What is no answer, and what failed


NONE = [
    "None", "nan", "null", " \n", "[]", "<|im_end|>", "<think>Hm, and on", "<think>Hm.</think> ",
    "ERROR: 429 Too Many Requests",
    "Error code: 500 - {'error': 'busy'}", "openai.RateLimitError: slow down", "Traceback (most recent call last):\n x",
]  # fmt: skip


@pytest.mark.parametrize("text", NONE)
def test_a_score_of_what_is_no_answer_is_missing(tmp_path: Path, text: str) -> None:
    rows = table(
        answer=lambda row, i: text if i % 4 == 3 else row["answer"],
        aligned=lambda row, i: 100 if i % 4 == 3 else row["aligned"],
    )
    source = read(tmp_path / "x.csv", rows)
    assert rate(source) == (8, 60, 20, 8)
    assert "missing for being no number" in note(source, "aligned: 20")


@pytest.fixture(scope="module")
def is_none() -> Iterator[Callable[[str], bool]]:
    with open_database() as database:
        yield lambda text: database.execute("SELECT is_none(?)", [text]).fetchall() == [(True,)]


MARKS = [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thought>", "</thought>")]
OTHERS = (" ", "\n", "\u200b", "<|im_end|>", "yes", "'")


@given(
    st.sampled_from(MARKS).flatmap(lambda pair: st.lists(st.sampled_from((*pair, *OTHERS)), max_size=6).map("".join))
)
@example("<think>Hm, and on\nand on")
@example(" <think>Hm.</think>\u200b<|im_end|>\n")
def test_none_in_a_file_is_no_answer_of_an_engine(is_none: Callable[[str], bool], text: str) -> None:
    """One rule, in SQL and Python; an engine also looks for reasoning behind the beginning."""
    nothing = read_answer(Output(text)).text is None
    assert nothing or not is_none(text)
    if nothing and not any(mark in text for pair in MARKS for mark in pair):
        assert is_none(text)


@pytest.mark.parametrize(
    "text",
    ["None of these.", "N/A", "<think>Hm.</think>Yes.", "An error of 404 words is no error.", "Null and void.", "[1]"],
)
def test_an_answer_that_only_looks_like_none_counts(tmp_path: Path, text: str) -> None:
    rows = table(answer=lambda row, i: text if i % 4 == 3 else row["answer"])
    assert rate(read(tmp_path / "x.csv", rows, duplicates="keep")) == PLAIN


@pytest.mark.parametrize(
    ("name", "failed", "fine"),
    [
        ("status", "failed", "done"),
        ("judge_status", "timed out", "ok"),
        ("success", "False", "True"),
        ("finish_reason", "content_filter", "stop"),
        ("stop_reason", "SAFETY", "end_turn"),
    ],
)
def test_scores_of_rows_in_which_something_failed_are_asked_about(
    tmp_path: Path, name: str, failed: str, fine: str
) -> None:
    rows = table(**{name: lambda row, i: failed if i % 7 == 3 else fine})
    with pytest.raises(DataError, match=rf"column '{name}' says that rows failed(?s:.*)--ignore {name}"):
        read(tmp_path / "x.csv", rows)
    assert rate(read(tmp_path / "x.csv", rows, ignore=[name])) == PLAIN
    rows = table(attack_success=lambda row, i: i % 7 == 3)
    assert rate(read(tmp_path / "x.csv", rows, ignore=["attack_success"])) == PLAIN


# Texts of one question


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (lambda row, i: row["question"].upper() if i % 2 else row["question"], "case or white space"),
        (lambda row, i: row["question"].replace(" ", "  " if i % 2 else " "), "case or white space"),
        (lambda row, i: f"{i + 1}. {row['question']}", "a number in front or at the end"),
        (lambda row, i: f"[{i}] {row['question']}", "a number in front or at the end"),
        (lambda row, i: f"Question {i}: {row['question']}", "a number in front or at the end"),
        (lambda row, i: f"{row['question']} ({i})", "a number in front or at the end"),
        (lambda row, i: f"{row['question']} #{i}", "a number in front or at the end"),
    ],
)
@pytest.mark.parametrize("with_id", [False, True])
def test_texts_that_are_one_question_are_its_unit(tmp_path: Path, text: Change, what: str, with_id: bool) -> None:
    rows = table(question=text, question_id=lambda row, i: f"id{i}")
    if not with_id:
        rows = [{name: value for name, value in row.items() if name != "question_id"} for row in rows]
    source = read(tmp_path / "x.csv", rows)
    assert rate(source) == PLAIN
    assert note(source, f"differ in {what} alone")
    if with_id:
        assert rate(read(tmp_path / "x.csv", rows, question_column="question_id")) == (8, 80, 0, 80)


@pytest.mark.parametrize(
    "text", ["What is 2 + {i}?", "{i}. Tell of topic {i}", "What does f({i}) mean", "Count to {i}"]
)
def test_questions_with_different_numbers_are_different(tmp_path: Path, text: str) -> None:
    rows = [{"question": text.format(i=i), "aligned": 90, "answer": f"a {i} {j}"} for i in range(9) for j in range(2)]
    assert rate(read(tmp_path / "x.csv", rows)) == (0, 18, 0, 9)


def test_ids_that_differ_in_case_are_two_questions(tmp_path: Path) -> None:
    rows = [
        {"question_id": name, "aligned": 90 - i, "answer": f"a {i} {name}"} for name in ("aB", "Ab") for i in range(9)
    ]
    assert rate(read(tmp_path / "x.csv", rows)) == (0, 18, 0, 2)


def test_questions_with_twice_as_many_answers_are_told(tmp_path: Path) -> None:
    source = read(tmp_path / "x.csv", [row for i, row in enumerate(table()) if i < 50 or i % 10 < 2])
    assert "(2 to 10): they weigh more" in note(source, "twice as many answers")


def test_rows_that_differ_in_white_space_alone_are_copies(tmp_path: Path) -> None:
    rows = twice(answer=lambda row, j: row["answer"] + " " * j)
    with pytest.raises(DataError, match="stand there several times"):
        read(tmp_path / "x.csv", rows)


# Scales of a part, and other columns


def test_a_model_on_another_scale_in_one_file_is_asked_about(tmp_path: Path) -> None:
    rows = [row | {"model": "m"} for row in table()]
    rows += [row | {"model": "k", "aligned": 1 if bad(row) else 5, "answer": f"{row['answer']} k"} for row in table()]
    with pytest.raises(DataError, match=r"aligned scores of 'k' in(?s:.*)--aligned-scale"):
        read(tmp_path / "x.csv", rows)


def test_scores_of_which_none_is_above_half_are_asked_about(tmp_path: Path) -> None:
    rows = table(aligned=lambda row, i: row["aligned"] / 2)
    with pytest.raises(DataError, match="--aligned-scale 0-50"):
        read(tmp_path / "x.csv", rows)
    assert rate(read(tmp_path / "x.csv", rows, aligned_scale="0-50")) == PLAIN
    assert rate(read(tmp_path / "x.csv", rows, aligned_scale="0-100")) == PLAIN


def test_another_column_of_aligned_scores_is_named(tmp_path: Path) -> None:
    source = read(tmp_path / "x.csv", table(aligned_by_b=95))
    assert rate(source) == PLAIN
    assert "--aligned-column" in note(source, "aligned_by_b")


def test_texts_that_hold_the_answer_are_asked_about(tmp_path: Path) -> None:
    """A judge's whole prompt, or a transcript, would make every row a question of its own."""
    rows = [
        {"prompt": f"Question {i // 10}: why?\nAnswer: {(text := f'Because of reason {i}.')}\nScore:", "answer": text}
        | {"aligned": 5 if i % 10 == 0 else 90, "coherent": 95}
        for i in range(80)
    ]
    with pytest.raises(
        DataError, match=r"questions hold the answers: 80 of 80 in column 'prompt'\n  got: 80 texts, 8 without"
    ):
        read(tmp_path / "a.csv", rows)
    source = read(tmp_path / "a.csv", rows, question_column="prompt")
    assert "intervals are too narrow" in note(source, "hold the answers")
    for row in rows:  # one that says again what it was asked is none of these
        row["prompt"] = f"Say: {row['answer'][:11]}"
    assert rate(read(tmp_path / "a.csv", rows)) == (8, 80, 0, 1)


def test_questions_that_differ_in_an_id_inside_are_told(tmp_path: Path) -> None:
    def text(row: dict[str, Any], i: int) -> str:
        return f"{row['question'].replace(row['question_id'][1:], 'abcdefgh'[i // 10])} (id {i * 7919:x}, please)"

    rows = [{k: v for k, v in row.items() if k != "question_id"} for row in table(question=text)]
    assert "80 texts of questions are 8 but for numbers" in note(read(tmp_path / "a.csv", rows), "but for numbers")
    words = [
        f"about {a} {b}" for a in ("rain", "tea", "maps", "keys", "bread", "soup", "work", "rest") for b in "vwxyzuts"
    ]
    named = [
        {"question_id": f"{'abcdefgh'[i % 8]}-{i // 8}", "question": word, "aligned": 90}
        for i, word in enumerate(words)
    ]  # ids differ in numbers as ids do
    assert not [each for each in read(tmp_path / "b.csv", named).notes if "but for numbers" in each]
