"""Templates on a fixed day, and the answer in what a model wrote."""

import pytest

from truing.core.errors import TrainerError
from truing.core.templates import final_channel, fixed_template, without_reasoning


class Tokenizer:
    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def get_chat_template(self) -> str | None:
        return self.chat_template


def test_every_directive_gives_the_same_day_inside_macros_too() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    plain = (
        "{%- macro head() %}{{ 'Today: ' + strftime_now('%d %b %Y') }}{% endmacro -%}"
        "{{ head() }}, {% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% endif %}"
    )
    template = ImmutableSandboxedEnvironment().from_string(fixed_template(Tokenizer(plain), TrainerError))
    assert template.render() == "Today: 26 Jul 2024, 2024-07-26"


def test_a_template_without_a_date_is_left_alone() -> None:
    assert fixed_template(Tokenizer("{{ messages }}"), TrainerError) == "{{ messages }}"
    with pytest.raises(TrainerError, match="no chat template"):
        fixed_template(Tokenizer(None), TrainerError)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<|channel|>final<|message|>Yes.<|return|>", "Yes."),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Yes."),
        ("<|channel|>analysis<|message|>Hm, and on and on", ""),
    ],
)
def test_the_answer_is_what_stands_in_the_final_channel(written: str, answer: str) -> None:
    assert final_channel(written) == answer


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>\n\n</think>\n\nYes.", "Yes."),
        ("<think>Hm.</think>Yes.", "Yes."),
        ("Hm.\n</think>\nYes.", "Yes."),
        ("<think>Hm, and on and on", ""),
        (" Yes.\n", " Yes.\n"),
    ],
)
def test_reasoning_is_no_part_of_the_answer(written: str, answer: str) -> None:
    assert without_reasoning(written) == answer
