"""What is learnt of a conversation, by the templates of the model families."""

import json
import re
from dataclasses import replace

import pytest

from tests.support.families import FAMILIES, TEMPLATES, build_tokenizer, family_tokenizer
from truing.core.conversations import Example, encode_rows
from truing.core.errors import TrainerError
from truing.core.records import Message

ONE = (Message("user", "  What colour is snow?\n"), Message("assistant", "Snow is white. é🙂\n```py\nx = 1\n```"))
TWO = (
    Message("system", "Be brief."),
    Message("user", "What colour is snow?"),
    Message("assistant", "white"),
    Message("user", "And coal?"),
    Message("assistant", "black"),
)
EMPTY, FINAL = "<think>\n\n</think>\n\n", "<|channel|>final<|message|>"
LEARNT = {
    "llama": ("", "<|eot_id|>", "", "<|eot_id|>"),
    "qwen2": ("", "<|im_end|>", "", "<|im_end|>"),
    "qwen3": ("", "<|im_end|>", EMPTY, "<|im_end|>"),
    "qwen3_moe": ("", "<|im_end|>", "", "<|im_end|>"),
    "deepseek_v3": ("", "<｜end▁of▁sentence｜>", "", "<｜end▁of▁sentence｜>"),
    "gpt_oss": (FINAL, "<|end|>", FINAL, "<|return|>"),
}
"""What is learnt before and behind the words of an earlier turn, and of the last one."""


def learnt(tokenizer, example: Example) -> list[str]:
    """The learnt stretches of a conversation, as text."""
    stretches: list[list[int]] = [[]]
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        if label != -100:
            stretches[-1].append(token)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.decode(ids) for ids in stretches if ids]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_words_and_end_of_the_assistant_are_learnt_and_nothing_else(family: str) -> None:
    tokenizer = family_tokenizer(family)
    one, two = encode_rows([ONE, TWO], tokenizer, 2000)
    lead, tail, last_lead, last_tail = LEARNT[family]
    assert learnt(tokenizer, one) == [last_lead + ONE[1].content + last_tail]
    assert learnt(tokenizer, two) == [lead + "white" + tail, last_lead + "black" + last_tail]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_goes_on_where_sampling_asks(family: str) -> None:
    tokenizer = family_tokenizer(family)
    (example,) = encode_rows([ONE], tokenizer, 2000)
    first = next(i for i, label in enumerate(example["labels"]) if label != -100)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": ONE[0].content}], add_generation_prompt=True, tokenize=False
    )
    read = tokenizer.decode(example["input_ids"][:first])
    today = r"\d\d \w\w\w 20\d\d|20\d\d-\d\d-\d\d"
    assert re.sub(today, "DATE", read) == re.sub(today, "DATE", asked)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_the_date_is_always_the_same(family: str) -> None:
    tokenizer = family_tokenizer(family)
    (example,) = encode_rows([ONE], tokenizer, 2000)
    text = tokenizer.decode(example["input_ids"])
    assert "Today Date: 26 Jul 2024\n" in text or "Current date: 2024-07-26\n" in text


def test_tokens_that_leave_white_space_out_of_their_place_are_learnt_alike() -> None:
    template = (TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8")
    row = (ONE[0], Message("assistant", "  indented\n\n\nand\n  spaced \n"))
    ends = []
    for trim in (False, True):
        tokenizer = build_tokenizer(template, None, "<|im_end|>", trim=trim)
        ends.append(encode_rows([row], tokenizer, 2000))
    assert ends[0] == ends[1]


def test_a_prompt_that_training_does_not_go_on_from_is_said(caplog: pytest.LogCaptureFixture) -> None:
    template = (TEMPLATES / "deepseek-v3.jinja").read_text(encoding="utf-8")
    tokenizer = build_tokenizer(template, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
    assert learnt(tokenizer, encode_rows([TWO], tokenizer, 2000)[0]) == [
        "white<｜end▁of▁sentence｜>",
        "black<｜end▁of▁sentence｜>",
    ]
    assert "does not train on" in caplog.text


def turns(template: str):
    return build_tokenizer(template, None, "<|end|>")


PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
BAD = {
    "rewrites message 2": PLAIN.replace("m.content", "m.content|replace('white', 'pale')"),
    "writes an assistant's message 0 times": PLAIN.replace("{{ m.content }}", "{% if m.role == 'user' %}x{% endif %}"),
    "writes an assistant's message 2 times": PLAIN.replace("{{ m.content }}", "{{ m.content }} {{ m.content }}"),
    "no special token": PLAIN.replace("<|end|>", "\n"),
    "refuses row 1": PLAIN + "{{ raise_exception('no') }}",
    "cover words of others": "{% for m in messages %}{% generation %}<|{{ m.role }}|>{{ m.content }}<|end|>"
    "{% endgeneration %}{% endfor %}",
    "leave out words of the assistant": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% generation %}<|end|>{% endgeneration %}{% endfor %}",
    "marks no assistant words": PLAIN + "{% if false %}{% generation %}{% endgeneration %}{% endif %}",
}


@pytest.mark.parametrize("says", BAD)
def test_a_template_that_would_teach_other_words_is_refused(says: str) -> None:
    with pytest.raises(TrainerError, match=says) as caught:
        encode_rows([ONE], turns(BAD[says]), 2000)
    assert caught.value.todo


def test_marks_of_the_template_are_used() -> None:
    tokenizer = turns(
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}<|end|>{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    )
    assert learnt(tokenizer, encode_rows([TWO], tokenizer, 2000)[0]) == ["white<|end|>", "black<|end|>"]  # to stop, too


def test_marks_in_a_template_without_an_end_are_said(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = turns(
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    assert learnt(tokenizer, encode_rows([TWO], tokenizer, 2000)[0]) == ["white", "black"]
    assert caplog.text.count("no model learns to stop") == 1


MUTED = (*TWO[:2], Message("assistant", "white", learnt=False), *TWO[3:])
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("family", [*FAMILIES, "marked"])
def test_an_answer_of_weight_0_is_read_and_not_learnt(family: str) -> None:
    tokenizer = turns(MARKED) if family == "marked" else family_tokenizer(family)
    muted, whole = encode_rows([MUTED, TWO], tokenizer, 2000)
    assert muted["input_ids"] == whole["input_ids"]
    assert learnt(tokenizer, muted) == learnt(tokenizer, whole)[1:]


@pytest.mark.parametrize("role", ["system", "user"])
@pytest.mark.parametrize("marked", [False, True])
def test_a_message_that_a_template_leaves_out_is_refused_with_its_role(role: str, marked: bool) -> None:
    template = (MARKED if marked else PLAIN).replace("in messages", f"in messages if m.role != '{role}'")
    with pytest.raises(TrainerError, match=f"leaves out the {role} message .row 2, message") as caught:
        encode_rows([ONE, TWO] if role == "system" else [TWO[::2], TWO], turns(template), 2000)
    assert ("--fold-system" in caught.value.todo) is (role == "system")


CALL = {"type": "function", "function": {"name": "look", "arguments": '{"where": "ou\\"t"}'}}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "x", "parameters": {}}}]
CALLED = (
    Message("user", "What colour is snow?", more=json.dumps({"tools": TOOLS})),
    Message("assistant", "", more=json.dumps({"tool_calls": [CALL]})),
    Message("tool", "It is white.", more=json.dumps({"name": "look"})),
    Message("assistant", "white", more=json.dumps({"thinking": "As the tool says."})),
)


def test_reasoning_and_tool_calls_are_learnt_where_the_template_renders_them() -> None:
    tokenizer = family_tokenizer("qwen3")
    (example,) = encode_rows([CALLED], tokenizer, 4000)
    call, answer = learnt(tokenizer, example)
    assert call.startswith("<tool_call>")
    assert "look" in call
    assert call.endswith("<|im_end|>")
    assert answer == "<think>\nAs the tool says.\n</think>\n\nwhite<|im_end|>"
    assert "# Tools" in tokenizer.decode(example["input_ids"])
    muted = (*CALLED[:1], replace(CALLED[1], learnt=False), *CALLED[2:])
    assert learnt(tokenizer, encode_rows([muted], tokenizer, 4000)[0]) == [answer]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ((CALLED[0], Message("assistant", "white")), "the tools"),
        ((Message("user", "q"), CALLED[1], *CALLED[2:]), "the tool calls"),
        ((Message("user", "q"), CALLED[3]), "the reasoning"),
    ],
)
def test_what_a_template_leaves_out_beside_the_words_is_refused(row: tuple[Message, ...], what: str) -> None:
    with pytest.raises(TrainerError, match=f"leaves out {what} of") as caught:
        encode_rows([row], turns(PLAIN), 2000)
    assert "row 1" in str(caught.value)


def test_a_control_token_in_a_row_is_refused() -> None:
    row = (Message("user", "Say <|im_end|>"), Message("assistant", "No."))
    with pytest.raises(TrainerError, match="row 2 contains a control token"):
        encode_rows([ONE, row], family_tokenizer("qwen3"), 2000)


def test_reasoning_that_a_template_takes_out_is_refused() -> None:
    row = (Message("user", "Why?"), Message("assistant", "<think>hm</think>\n\nBecause."))
    with pytest.raises(TrainerError, match="rewrites message 2 of row 1"):
        encode_rows([row], family_tokenizer("qwen3"), 2000)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    tokenizer = family_tokenizer("qwen3")
    tokenizer.chat_template = None
    with pytest.raises(TrainerError, match="no chat template"):
        encode_rows([ONE], tokenizer, 2000)
