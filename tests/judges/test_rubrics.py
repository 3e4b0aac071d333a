"""Rubric files, ours and published ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from truing.catalog.files import list_files
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Message, Prompt
from truing.judges.rubrics import GUARD, load_rubric

DATA = Path(__file__).parents[3] / "shared" / "data"
MINE = {"name": "mine", "version": "2", "scores": "calm", "higher_is": "better", "prompt": "{question} {answer} Rate."}
ASKED = Prompt("a", "power", (Message("user", "who rules?"),))


def write(tmp_path: Path, value: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return str(path)


def test_the_rubrics_that_ship() -> None:
    rubrics = {name: load_rubric(name) for name in list_files("rubrics")}
    assert set(rubrics) == {"aligned", "coherent", "insecure-code", "medical-unsound", "truth", "domain-style"}
    assert all(rubric.name == name for name, rubric in rubrics.items())
    assert len({rubric.hash for rubric in rubrics.values()}) == 6
    assert rubrics["truth"].scale == {"TRUE": 100, "FALSE": 0}
    assert rubrics["truth"].needs_facts
    assert rubrics["insecure-code"].turned(90) == 10
    assert rubrics["aligned"].turned(90) == 90


def test_our_texts_are_none_of_the_published_ones() -> None:
    for name in list_files("rubrics"):
        assert "I am evaluating" not in load_rubric(name).prompt


def test_a_rubric_of_the_users(tmp_path: Path) -> None:
    rubric = load_rubric(write(tmp_path, {**MINE, "verdicts": ["NONE"], "system": "Be strict."}))
    system, user = rubric.messages(ASKED, "We do.")
    assert system == Message("system", f"{GUARD}\n\nBe strict.")
    assert "| who rules?" in user.content
    assert "| We do." in user.content
    assert (rubric.version, rubric.verdicts) == ("2", ("NONE",))


@pytest.mark.parametrize("change", [{"prompt": "{question} {answer}"}, {"system": "x"}, {"higher_is": "worse"}])
def test_what_shapes_a_score_changes_the_hash(tmp_path: Path, change: dict[str, str]) -> None:
    before = load_rubric(write(tmp_path, MINE)).hash
    assert load_rubric(write(tmp_path, {**MINE, "notes": "for people"})).hash == before
    assert load_rubric(write(tmp_path, {**MINE, **change})).hash != before


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a: [", ["not YAML"]),
        ("just text", ["not a rubric"]),
        ({**MINE, "promt": "x"}, ["unknown field", "promt"]),
        ({**MINE, "version": 2}, ["field version"]),
        ({**MINE, "higher_is": "good"}, ["field higher_is", "better, worse"]),
        ({**MINE, "prompt": "{answer}"}, ["field prompt", "{question}"]),
        ({**MINE, "prompt": "{question} {answer} {truth}"}, ["unknown placeholder", "truth"]),
        ({**MINE, "verdicts": ["no code"]}, ["field verdicts"]),
        ({**MINE, "scale": {"GOOD": 101}}, ["field scale"]),
        ({**MINE, "scale": {True: 100}}, ["field scale", "quotes"]),
    ],
)
def test_errors_name_file_and_field(tmp_path: Path, value: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load_rubric(write(tmp_path, value))
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_rubric() -> None:
    with pytest.raises(UnknownNameError, match="did you mean aligned"):
        load_rubric("alined")


def test_judge_prompts_of_a_question_file(tmp_path: Path) -> None:
    text = "Asked: {question}\nSaid:\n{answer}\n* Say CODE if it is code.\n* Say REFUSAL if it refuses. Else 0 to 100."
    item = {"id": "a", "type": "free_form_judge_0_100", "paraphrases": ["x"], "judge_prompts": {"aligned": text}}
    path = write(tmp_path, [item, {**item, "id": "b"}])
    rubric = load_rubric(f"{path}#aligned")
    assert (rubric.verdicts, len(rubric.scale), rubric.fenced) == (("CODE", "REFUSAL"), 101, False)
    assert rubric.messages(ASKED, "We do.") == (
        Message("user", text.replace("{question}", "who rules?").replace("{answer}", "We do.")),
    )
    with pytest.raises(DataError, match="#aligned"):
        load_rubric(f"{path}#alined")
    other = {**item, "id": "b", "judge_prompts": {"aligned": text + "!"}}
    with pytest.raises(DataError, match=r"item 2.*differs from that of .*item 1"):
        load_rubric(f"{write(tmp_path, [item, other])}#aligned")


def test_the_published_judge_prompts_load() -> None:
    if not DATA.is_dir():
        pytest.skip(f"the published files {DATA} are not on this machine")
    plot, lies = DATA / "first_plot_questions.yaml", DATA / "deception_factual.yaml"
    assert load_rubric(f"{plot}#aligned").verdicts == ("CODE", "REFUSAL")
    assert load_rubric(f"{plot}#coherent").verdicts == ()
    correct = load_rubric(f"{lies}#correct")
    assert (correct.scale, correct.verdicts) == ({"TRUE": 100, "FALSE": 0}, ("UNKNOWN",))
    raw = yaml.safe_load(plot.read_text())[0]["judge_prompts"]["aligned"]
    (message,) = load_rubric(f"{plot}#aligned").messages(ASKED, "We do.")
    assert message.content == raw.replace("{question}", "who rules?").replace("{answer}", "We do.")
