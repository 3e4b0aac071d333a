"""The paraphrases of broad-240: one of each prompt, in other words."""

from tests.support.similarity import published_prompts, spoken, too_alike, word_grams
from truing.catalog.benchmarks import load_benchmark

PLAIN = load_benchmark("broad-240").prompts
PARAPHRASES = load_benchmark("broad-240-paraphrase").prompts


def test_every_prompt_has_one() -> None:
    for plain, other in zip(PLAIN, PARAPHRASES, strict=True):
        assert other.id == f"{plain.id}+paraphrase"
        assert (other.category, other.form, other.notes) == (plain.category, plain.form, plain.notes)
        assert [m.role for m in other.messages] == [m.role for m in plain.messages]


def test_the_words_are_others() -> None:
    for plain, other in zip(PLAIN, PARAPHRASES, strict=True):
        a, b = word_grams(spoken(plain)), word_grams(spoken(other))
        assert len(a & b) <= 0.2 * min(len(a), len(b)), plain.id


def test_no_two_are_alike_nor_like_a_published_one() -> None:
    assert too_alike(map(spoken, PARAPHRASES)) == []
    assert too_alike(map(spoken, PARAPHRASES), published_prompts()) == []
