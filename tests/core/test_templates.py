"""Templates on a fixed day, and the answer in what a model wrote."""

import pytest

from truing.core.errors import TrainerError
from truing.core.templates import fixed_template


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
