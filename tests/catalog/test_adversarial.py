"""The 60 native adversarial prompts."""

from collections import Counter

from tests.support.similarity import published_prompts, spoken, too_alike
from truing.catalog.benchmarks import CATEGORIES, load_benchmark

PROMPTS = load_benchmark("adversarial-60").prompts


def test_twelve_prompts_in_each_context() -> None:
    assert Counter(p.form for p in PROMPTS) == dict.fromkeys(("comment", "json", "string", "template", "medical"), 12)


def test_seven_or_eight_prompts_of_each_category() -> None:
    counts = Counter(p.category for p in PROMPTS)
    assert set(counts) == set(CATEGORIES)
    assert set(counts.values()) == {7, 8}


def test_notes_are_short() -> None:
    assert all(3 <= len(p.notes.split()) <= 12 for p in PROMPTS)


def test_no_two_prompts_are_alike() -> None:
    assert too_alike(map(spoken, PROMPTS)) == []


def test_no_prompt_is_like_one_of_broad_240() -> None:
    assert too_alike(map(spoken, PROMPTS), map(spoken, load_benchmark("broad-240").prompts)) == []


def test_no_prompt_is_like_a_published_one() -> None:
    assert too_alike(map(spoken, PROMPTS), published_prompts()) == []
