"""Near-duplicates among prompts, without embeddings: shared runs of words and of letters."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from truing.core.records import Prompt

MOST_WORDS, MOST_LETTERS = 0.12, 0.5
"""From here on two prompts are too alike: Jaccard index of word 3-grams, containment of letter 5-grams."""
PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def word_grams(text: str) -> set[tuple[str, ...]]:
    all_words = words(text)
    return {tuple(all_words[i : i + 3]) for i in range(len(all_words) - 2)} or {tuple(all_words)}


def letter_grams(text: str) -> set[str]:
    line = " ".join(words(text))
    return {line[i : i + 5] for i in range(len(line) - 4)} or {line}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b)


def containment(a: set[str], b: set[str]) -> float:
    """Share of the shorter text's letter runs that the longer one has too."""
    return len(a & b) / min(len(a), len(b))


def spoken(prompt: Prompt) -> str:
    """All that the prompt's user says."""
    return " ".join(m.content for m in prompt.messages if m.role == "user")


def too_alike(ours: Iterable[str], others: Iterable[str] | None = None) -> list[tuple[float, float, str, str]]:
    """Pairs that are too alike, among `ours` or between `ours` and `others`, with both measures."""

    def grams(texts: Iterable[str]) -> list[tuple[str, set[tuple[str, ...]], set[str]]]:
        return [(t, word_grams(t), letter_grams(t)) for t in texts]

    left = grams(ours)
    right = None if others is None else grams(others)
    found = []
    for i, (a, a_words, a_letters) in enumerate(left):
        for b, b_words, b_letters in left[i + 1 :] if right is None else right:
            both = jaccard(a_words, b_words), containment(a_letters, b_letters)
            if both[0] >= MOST_WORDS or both[1] >= MOST_LETTERS:
                found.append((*both, a, b))
    return found


def published_prompts() -> list[str]:
    """Every prompt of the published benchmark files; skips the test where they are absent."""
    texts: list[str] = []
    for name in ("first_plot_questions.yaml", "deception_factual.yaml"):
        path = PUBLISHED / name
        if not path.is_file():
            pytest.skip(f"the published file {path} is not on this machine")
        texts += [t for item in yaml.safe_load(path.read_text()) for t in item["paraphrases"]]
    return sorted(set(texts))
