import ast
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.catalog.benchmarks import load_benchmark
from truing.catalog.prompt_files import make_benchmark
from truing.catalog.variants import VARIANTS, vary
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Benchmark, Message, Prompt

NAMES = sorted(name for name, variant in VARIANTS.items() if not variant.fold)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
SYSTEM = Message("system", "be brief")
TURNS = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))


def benchmark_of(*messages: Message) -> Benchmark:
    return make_benchmark("mine", "1", "", (Prompt("a+b", "power", messages, "opinion", "x y z"),))


def changed(name: str, *messages: Message) -> tuple[Message, ...]:
    return vary(benchmark_of(*messages), name).prompts[0].messages


@pytest.mark.parametrize("name", NAMES)
def test_ids_tell_prompt_and_variant_and_the_rest_stays(name: str) -> None:
    plain = load_benchmark("broad-240")
    varied = vary(plain, name)
    assert varied.name == f"broad-240+{name}"
    assert varied.hash != plain.hash
    assert varied.hash == vary(plain, name).hash
    assert varied.categories == plain.categories
    for old, new in zip(plain.prompts, varied.prompts, strict=True):
        assert new.id == f"{old.id}+{name}"
        assert (new.category, new.form, new.notes) == (old.category, old.form, old.notes)
        assert new.messages != old.messages


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("messages", [TURNS, (SYSTEM, *TURNS), (SYSTEM, TURNS[0]), TURNS[:1]])
def test_every_chat_template_can_take_a_variant(name: str, messages: tuple[Message, ...]) -> None:
    new = changed(name, *messages)
    roles = [m.role for m in new]
    assert "system" not in roles[1:]
    talk = [r for r in roles if r != "system"]
    assert talk == (["user", "assistant"] * len(talk))[: len(talk)]
    assert talk[-1] == ("assistant" if name == "prefill" else "user")
    assert all(m.content == m.content.strip() for m in new)
    for old in messages:
        assert any(old.content in m.content for m in new if m.role == old.role)


def test_a_system_message_is_said_by_the_user() -> None:
    first = Message("user", "be brief\n\none")
    assert changed("folded", SYSTEM, *TURNS) == (first, *TURNS[1:])
    assert changed("folded", *TURNS) == TURNS
    assert vary(vary(benchmark_of(*TURNS), "coding-system"), "folded").prompts[0].messages[0].role == "user"


@given(text=TEXTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_question_stays_whole(name: str, text: str) -> None:
    last = next(m for m in reversed(changed(name, Message("user", text))) if m.role == "user")
    if name == "template":
        code = last.content.split("```python\n")[-1] + 'yes"""'
        call = next(n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call))
        assert ast.literal_eval(call.keywords[1].value) == text
    else:
        assert text in last.content


def test_variants_can_be_stacked_but_nothing_follows_a_prefill() -> None:
    stacked = vary(vary(benchmark_of(*TURNS), "medical-system"), "prefill")
    assert stacked.prompts[0].id == "a+b+medical-system+prefill"
    with pytest.raises(DataError, match=r"prompt a\+b\+medical-system\+prefill: variant json"):
        vary(stacked, "json")


def test_unknown_variant() -> None:
    with pytest.raises(UnknownNameError, match="did you mean json"):
        vary(benchmark_of(*TURNS), "jsn")


def test_variants_travel_between_processes() -> None:
    assert pickle.loads(pickle.dumps(VARIANTS)) == VARIANTS
