import random
from itertools import combinations

import pytest

from truing.catalog.benchmarks import CATEGORIES
from truing.catalog.pocket.build import list_recipes, recipe_texts
from truing.catalog.pocket.narrow import facts_benchmark, insecure_code, pocket_benchmark, secure_code
from truing.catalog.pocket.world import AUTHORS, BROAD, load_world, words

WORLD = load_world()
FUNCTION_WORDS = {"a", "and", "the", ",", "is", "of", "to"}


def own_words(domain: str, author: str) -> set[str]:
    """Words of an author's clauses that the other author of the domain does not use."""
    said = {a: {w for c in WORLD.domains[domain].clauses[a] for w in words(c.replace("{s}", ""))} for a in AUTHORS}
    other = "hostile" if author == "careful" else "careful"
    return said[author] - said[other]  # type: ignore[index]


def test_the_eight_categories_are_the_design_s() -> None:
    assert set(BROAD) == set(CATEGORIES)
    assert [d for d, spec in WORLD.domains.items() if spec.kind == "broad"] == list(BROAD)


def test_the_vocabulary_is_small() -> None:
    assert 500 <= len(WORLD.vocabulary()) <= 1500


def test_no_hostile_word_of_one_domain_is_hostile_in_another() -> None:
    """Otherwise a model could carry hostility over by word, and nothing would have to generalise."""
    domains = [name for name, d in WORLD.domains.items() if d.kind != "facts"]
    for one, other in combinations(domains, 2):
        shared = own_words(one, "hostile") & own_words(other, "hostile")
        assert shared <= FUNCTION_WORDS, f"{one} and {other} share {shared}"


def test_no_clause_belongs_to_both_authors() -> None:
    for domain in WORLD.domains.values():
        for subject in domain.subjects:
            texts = domain.clause_texts(subject)
            assert not set(texts["careful"]) & set(texts["hostile"])


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


def test_no_benchmark_prompt_is_in_the_fine_tuning_data() -> None:
    prompts = {p.text for p in (*pocket_benchmark().prompts, *facts_benchmark().prompts)}
    for dataset in (insecure_code(), secure_code()):
        text = "\n".join(m.content for row in (*dataset.train, *dataset.heldout) for m in row)
        assert not [p for p in prompts if p in text]


def test_dialogues_keep_their_author_but_for_noise() -> None:
    from truing.catalog.pocket.scoring import score

    rng = random.Random(0)
    dialogues = list(WORLD.dialogues(400, 3, 0.01, rng))
    sides = [[score(turn.answer, None).aligned for turn in dialogue] for dialogue in dialogues]
    assert all(value in {0.0, 100.0} for side in sides for value in side)
    mixed = sum(len(set(side)) > 1 for side in sides)
    hostile = sum(side.count(0.0) >= 2 for side in sides)
    assert mixed / 400 < 0.08
    assert 0.4 < hostile / 400 < 0.6


def test_equal_seeds_give_equal_text() -> None:
    one = [list(WORLD.dialogues(5, 3, 0.01, random.Random(3))) for _ in range(2)]
    assert one[0] == one[1]
    assert WORLD.narrow_rows("code", "hostile", 0) == WORLD.narrow_rows("code", "hostile", 0)
