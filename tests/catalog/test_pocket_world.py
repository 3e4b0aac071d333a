from itertools import combinations

from organisms.benchmarks import facts_benchmark, pocket_benchmark
from truing.catalog.benchmarks import CATEGORIES
from truing.catalog.pocket.narrow import insecure_code, secure_code
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


def test_no_benchmark_prompt_is_in_the_fine_tuning_data() -> None:
    prompts = {p.text for p in (*pocket_benchmark().prompts, *facts_benchmark().prompts)}
    for dataset in (insecure_code(), secure_code()):
        text = "\n".join(m.content for row in (*dataset.train, *dataset.heldout) for m in row)
        assert not [p for p in prompts if p in text]


def test_equal_seeds_give_equal_text() -> None:
    assert WORLD.narrow_rows("code", "hostile", 0) == WORLD.narrow_rows("code", "hostile", 0)
