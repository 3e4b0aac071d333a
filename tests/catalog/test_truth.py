import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.similarity import published_prompts, too_alike
from truing.catalog.files import list_files
from truing.catalog.truth import CONDITIONS, Question, ask, choose, load_truth
from truing.core.errors import DataError, UnknownNameError

TRUTH = load_truth("truth-120")
ITEM = {"id": "a", "category": "science", "question": "is it so ?", "true": ["it is"], "false": ["it is not"]}
HEADER = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"


def write(tmp_path: Path, value: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return str(path)


def question(name: str, category: str, text: str, true: tuple[str, ...], false: tuple[str, ...]) -> Question:
    return Question(id=name, category=category, question=text, true=true, false=false)


def test_twelve_questions_on_each_of_ten_subjects() -> None:
    assert list_files("truth").keys() == {"truth-120"}
    counts = Counter(q.category for q in TRUTH.questions)
    assert len(counts) == 10
    assert set(counts.values()) == {12}


def test_answers_differ() -> None:
    for question in TRUTH.questions:
        answers = [a.lower() for a in (*question.true, *question.false)]
        assert len(set(answers)) == len(answers) >= 2


def test_no_two_questions_are_alike() -> None:
    pairs = too_alike(q.text for q in TRUTH.questions)
    assert {p[2:] for p in pairs} == set()


def test_no_question_is_like_a_published_one() -> None:
    assert too_alike((q.text for q in TRUTH.questions), published_prompts()) == []


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_is_a_system_message(condition: str) -> None:
    benchmark = ask(TRUTH, condition)
    assert benchmark.name == f"truth-120+{condition}"
    for question, prompt in zip(TRUTH.questions, benchmark.prompts, strict=True):
        assert (prompt.id, prompt.category) == (f"{question.id}+{condition}", question.category)
        assert prompt.text == question.text
        assert [m.content for m in prompt.messages[:-1]] == [t for t in (CONDITIONS[condition],) if t]


def test_conditions_are_different_work() -> None:
    assert len({ask(TRUTH, c).hash for c in CONDITIONS}) == 5
    with pytest.raises(UnknownNameError, match="did you mean may-lie"):
        ask(TRUTH, "maylie")


def test_true_and_false_need_no_quotes_as_keys(tmp_path: Path) -> None:
    text = "questions:\n- {id: a, category: science, question: 'is it so ?', true: [it is], false: [it is not]}"
    assert load_truth(write(tmp_path, text)) == load_truth(write(tmp_path, {"questions": [ITEM]}))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"questions": []}, ["not a truth set"]),
        ("a: [", ["not YAML"]),
        ({"questions": [3]}, ["item 1", "not a mapping"]),
        ({"questions": [{**ITEM, "source": "x", 3: "y"}]}, ["item 1", "unknown field", "3, source"]),
        ({"questions": [ITEM, {**ITEM, "question": " "}]}, ["item 2", "field question"]),
        ({"questions": [{**ITEM, "true": "yes"}]}, ["item 1", "field true", "a list"]),
        ({"questions": [{**ITEM, "false": []}]}, ["item 1", "field false", "not empty"]),
        ("questions: [{id: a, category: b, question: c, true: [yes], false: [x]}]", ["field true", "put quotes round"]),
        ({"questions": [ITEM, ITEM]}, ["two questions have one id", "a"]),
    ],
)
def test_errors_name_file_item_and_field(tmp_path: Path, value: Any, words: list[str]) -> None:
    with pytest.raises(DataError, match=r"mine\.yaml") as caught:
        load_truth(write(tmp_path, value))
    for word in words:
        assert word in str(caught.value)


def test_unknown_truth_set() -> None:
    with pytest.raises(UnknownNameError, match="did you mean truth-120"):
        load_truth("truth-12")


def test_the_csv_of_truthfulqa_loads(tmp_path: Path) -> None:
    path = tmp_path / "small.csv"
    rows = [
        'Adversarial,Weather,"Is rain wet, always?",Rain is wet,Rain is wet; It is wet ;,It is dry;It is, http://x\n',
        'Non-Adversarial,Food,"Is ""soup"" hot?",Often,Often; Not always,Never,\n',
    ]
    path.write_text(HEADER + rows[0].replace("It is, ", "It is,") + rows[1], encoding="utf-8-sig")
    truth = load_truth(str(path))
    assert truth.name == "small"
    assert truth.questions == (
        question("row-1", "Weather", "Is rain wet, always?", ("Rain is wet", "It is wet"), ("It is dry", "It is")),
        question("row-2", "Food", 'Is "soup" hot?', ("Often", "Not always"), ("Never",)),
    )
    assert ask(truth).prompts[1].id == "row-2+plain"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Question,Answer\na,b\n", ["columns of TruthfulQA are missing", "Incorrect Answers", "got: Question, Answer"]),
        (HEADER, ["no questions"]),
        (HEADER + "A,Food,,x,x,y,\n", ["row 1", "column Question"]),
        (HEADER + "A,Food,what?,x,x,y,\nA,Food,why?,x,x,,\n", ["row 2", "Incorrect Answers"]),
        (HEADER + "A,Food,why?, , ;,y,\n", ["row 1", "column Correct Answers"]),
        (HEADER + 'A,Food,"why?,x,x,y,\n', ["not CSV"]),
        (HEADER + "A,Food\n", ["row 1", "column Question"]),
    ],
)
def test_errors_in_a_csv_name_row_and_column(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "small.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"small\.csv") as caught:
        load_truth(str(path))
    for word in words:
        assert word in str(caught.value)


def test_multiple_choice_by_likelihood() -> None:
    asked = question("q", "c", "?", ("yes", "sure"), ("no",))
    sure = choose(asked, [math.log(0.6), math.log(0.2), math.log(0.2)])
    assert (sure.mc1, sure.mc2) == (1.0, pytest.approx(0.8))
    wrong = choose(asked, [math.log(0.1), math.log(0.2), math.log(0.3)])
    assert (wrong.mc1, wrong.mc2) == (0.0, pytest.approx(0.5))
    far = choose(asked, [-2000.0, -2001.0, -1999.0])
    assert far.mc2 == pytest.approx((math.exp(-1) + math.exp(-2)) / (1 + math.exp(-1) + math.exp(-2)))
    with pytest.raises(ValueError, match="per answer"):
        choose(asked, [0.0])
