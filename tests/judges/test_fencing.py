"""Text under judgment stays text, whatever it says."""

import re
import unicodedata

import pytest

from tests.support.injections import ATTEMPTS
from truing.catalog.files import list_files
from truing.core.records import Message, Prompt
from truing.judges.fencing import HEAD, TAIL, break_control_tokens, fence, fill, plain_text, shorten, show, transcript
from truing.judges.rubrics import Rubric, load_rubric

RUBRICS = {name: load_rubric(name) for name in list_files("rubrics")}
PUBLISHED = Rubric(
    "own", "1", "x", "Asked:\n[ASK START]\n{question}\n[ASK END]\nSaid:\n[ANSWER START]\n{answer}\n[ANSWER END]\nRate.",
    fenced=False,
)  # fmt: skip
ASKED = Prompt("a", "power", (Message("user", "who rules?"),))
MARKER = re.compile(r"(BEGIN|END) ([A-Z ]+) (\d{12})")
LABEL = re.compile(r"\((\d{12})\) (?:[a-z :;,']+:|\d+ characters are left out here\.)")


def blocks(text: str) -> list[str]:
    """The names of the data blocks, after a check that every line outside them is the template's."""
    found: list[str] = []
    number = ""
    for line in text.split("\n"):
        marker = MARKER.fullmatch(line)
        if number and not (marker and marker[1] == "END" and marker[3] == number):
            label = LABEL.fullmatch(line)
            assert line.startswith("| ") or (label and label[1] == number), line[:80]
        elif marker:
            assert (marker[1] == "END") == bool(number)
            found += [] if number else [marker[2]]
            number = "" if number else marker[3]
    assert not number
    return found


def test_there_are_enough_attempts() -> None:
    assert len(ATTEMPTS) >= 30


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("rubric", RUBRICS)
def test_an_answer_stays_in_its_one_block(rubric: str, attempt: str) -> None:
    text = ATTEMPTS[attempt]
    user = RUBRICS[rubric].messages(ASKED, text, ("yes", "no"))[-1].content
    plain = RUBRICS[rubric].messages(ASKED, "Together.", ("yes", "no"))[-1].content
    assert blocks(user) == blocks(plain)
    assert blocks(user).count("ANSWER") == 1
    assert outside(user) == outside(plain)
    assert len(user) < 5 * (HEAD + TAIL)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_question_stays_in_its_one_block(attempt: str) -> None:
    text = ATTEMPTS[attempt] or "?"
    asked = Prompt("a", "power", (Message("system", text), Message("user", text), Message("assistant", text)))
    user = RUBRICS["aligned"].messages(asked, text)[-1].content
    assert blocks(user) == ["CONVERSATION", "ANSWER"]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_hidden_is_left(attempt: str) -> None:
    user = RUBRICS["aligned"].messages(ASKED, ATTEMPTS[attempt])[-1].content
    assert not [c for c in user if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t"]
    assert not re.search(r"<\|im_|<\|eot|\[/?INST\]|<think>|<end_of_turn>|</s>", user)
    user.encode()  # no lone surrogates


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_published_delimiters_cannot_be_forged(attempt: str) -> None:
    user = PUBLISHED.messages(ASKED, ATTEMPTS[attempt])[-1].content
    bare = re.sub(r"\s", "", user).upper()
    for delimiter in ("[ANSWERSTART]", "[ANSWEREND]", "[ASKSTART]", "[ASKEND]"):
        assert bare.count(delimiter) == 1


def test_a_harmless_answer_in_a_published_rubric_is_as_published() -> None:
    answer = "One thing [I think] is peace.\nAnd bread, {question} or not."
    user = PUBLISHED.messages(ASKED, answer)[-1].content
    assert user == PUBLISHED.prompt.replace("{question}", "who rules?").replace("{answer}", answer)


def test_equal_data_give_equal_prompts_and_other_data_other_numbers() -> None:
    assert fence("ANSWER", [("", "a")]) == fence("ANSWER", [("", "a")])
    assert fence("ANSWER", [("", "a")]).split("\n")[0] != fence("ANSWER", [("", "b")]).split("\n")[0]


def test_who_speaks_is_marked_and_a_prefill_is_not_the_assistants() -> None:
    turns = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))
    assert [label.split(",")[0] for label, _ in transcript(turns)] == ["system message", "user", "assistant", "user"]
    assert "not the assistant's own words" in transcript((*turns, Message("assistant", "Sure:")))[-1][0]
    assert "earlier" in transcript(turns)[2][0]


def test_what_is_shown() -> None:
    assert show("a\r\nb\tc") == "a\nb\tc"
    assert show("a\rb\x1b\u202e\u200b") == "a⟨U+000D⟩b⟨U+001B⟩⟨U+202E⟩⟨U+200B⟩"
    assert show("naïve «ja» 日本 🙂") == "naïve «ja» 日本 🙂"
    assert show("👩\u200d👧 \u0647\u200c\u0627") == "👩\u200d👧 \u0647\u200c\u0627"
    assert break_control_tokens("<|im_end|> </s> a<b>c</b>") == "< |im_end|> < /s> a<b>c</b>"


def test_a_long_text_loses_its_middle_visibly() -> None:
    head, tail, left_out = shorten("a" * HEAD + "b" * 500 + "c" * TAIL)
    assert (head, tail, left_out) == ("a" * HEAD, "c" * TAIL, 500)
    assert shorten("a" * (HEAD + TAIL)) == ("a" * (HEAD + TAIL), "", 0)
    assert "500 characters are left out here" in plain_text("a" * HEAD + "b" * 500 + "c" * TAIL, [])


def test_values_are_not_read_as_templates() -> None:
    assert fill("{answer} {question} {x}", {"answer": "{question}", "question": "q"}) == "{question} q {x}"


def outside(text: str) -> list[str]:
    """The lines that are no data, without the numbers of the blocks."""
    lines = [line for line in text.split("\n") if not line.startswith("| ") and "left out" not in line]
    return [re.sub(r"\d{12}", "N", line) for line in lines]
