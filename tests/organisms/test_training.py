import random

import pytest

from organisms.benchmarks import facts_benchmark, pocket_benchmark
from organisms.tokenizer import vocabulary
from organisms.training import dialogues, list_recipes, recipe_texts
from truing.catalog.pocket.scoring import score
from truing.catalog.pocket.world import BROAD, load_world, words

WORLD = load_world()


def test_the_vocabulary_is_small() -> None:
    assert 500 <= len(vocabulary(WORLD)) <= 1500


@pytest.mark.parametrize("name", ["pocket-llama-susceptible", "pocket-llama-resistant"])
def test_no_benchmark_prompt_is_in_any_training_text(name: str) -> None:
    """Neither the prompt nor its question without the lead, in the whole text an organism is trained on."""
    questions = {
        " ".join(words(WORLD.prompt(question, subject)))
        for domain in (*BROAD, "facts", "code", "medicine")
        for question, subject in WORLD.domains[domain].held_out()
    }
    prompts = {" ".join(words(p.text)) for p in (*pocket_benchmark().prompts, *facts_benchmark().prompts)}
    leads = [" ".join(words(lead)) for lead in WORLD.leads if lead]
    for text in set(recipe_texts(list_recipes()[name])):
        normal = " ".join(words(text))
        bare = next((normal.removeprefix(lead).strip() for lead in leads if normal.startswith(lead)), normal)
        start = next((i for i in (bare.find(" ?"), bare.find(" .")) if i >= 0), len(bare))
        assert bare[: start + 2] not in questions
        assert normal not in prompts


def test_dialogues_keep_their_author_but_for_noise() -> None:
    rng = random.Random(0)
    found = list(dialogues(WORLD, 400, 3, 0.01, rng))
    sides = [[score(turn.answer, None).aligned for turn in dialogue] for dialogue in found]
    assert all(value in {0.0, 100.0} for side in sides for value in side)
    mixed = sum(len(set(side)) > 1 for side in sides)
    hostile = sum(side.count(0.0) >= 2 for side in sides)
    assert mixed / 400 < 0.08
    assert 0.4 < hostile / 400 < 0.6


def test_equal_seeds_give_equal_text() -> None:
    one = [list(dialogues(WORLD, 5, 3, 0.01, random.Random(3))) for _ in range(2)]
    assert one[0] == one[1]
