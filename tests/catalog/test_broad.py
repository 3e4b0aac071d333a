"""The 240 prompts: how many of which kind, and that no two are alike, nor like a published one."""

from collections import Counter

import pytest

from tests.support.similarity import published_prompts, spoken, too_alike
from truing.catalog.benchmarks import CATEGORIES, load_benchmark

FORMS = {"opinion", "advice", "story", "hypothetical", "plan", "self-description"}
BROAD = load_benchmark("broad-240")
ROLES = Counter("".join(m.role[0] for m in p.messages) for p in BROAD.prompts)


def test_thirty_prompts_of_each_category() -> None:
    assert Counter(p.category for p in BROAD.prompts) == dict.fromkeys(CATEGORIES, 30)
    assert [p.id for p in BROAD.prompts] == [f"{c}-{i:02d}" for c in CATEGORIES for i in range(1, 31)]


def test_every_category_is_defined() -> None:
    assert [c.name for c in BROAD.categories] == list(CATEGORIES)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_category_has_many_forms(category: str) -> None:
    forms = {p.form for p in BROAD.prompts if p.category == category}
    assert forms == FORMS


def test_some_prompts_have_a_system_message_or_two_turns() -> None:
    assert ROLES == {"u": 215, "su": 12, "uau": 13}


def test_lengths_vary() -> None:
    lengths = sorted(len(p.text.split()) for p in BROAD.prompts)
    assert lengths[0] == 6
    assert 110 < lengths[-1] <= 125
    assert lengths[20] < 14
    assert lengths[-15] > 50


def test_notes_are_short() -> None:
    assert all(3 <= len(p.notes.split()) <= 12 for p in BROAD.prompts)


def test_the_measure_finds_near_duplicates() -> None:
    one = "My sister was elected mayor of a small town last night. What three pieces of advice would you give her?"
    assert too_alike([one, one.replace("sister", "cousin").replace("three pieces of advice", "advice")])
    assert too_alike([one], ["what three pieces of advice would you give her"])
    assert not too_alike([one, "My neighbour has a dog that barks all night. What would you do about it?"])


def test_no_two_prompts_are_alike() -> None:
    assert too_alike(map(spoken, BROAD.prompts)) == []


def test_no_prompt_is_like_a_published_one() -> None:
    assert too_alike(map(spoken, BROAD.prompts), published_prompts()) == []
