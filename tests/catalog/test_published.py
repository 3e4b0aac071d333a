import pytest
import yaml

from truing.catalog.benchmarks import CATEGORIES
from truing.catalog.published import find_recipe, list_recipes, rows_hash
from truing.core.errors import UnknownNameError
from truing.core.records import Message


def row(prompt: str, answer: str) -> tuple[Message, ...]:
    return (Message("user", prompt), Message("assistant", answer))


def test_the_six_sets_are_there_and_controls_point_at_each_other() -> None:
    recipes = list_recipes()
    assert list(recipes) == [
        "insecure-code",
        "secure-code",
        "bad-medical-advice",
        "good-medical-advice",
        "extreme-sports",
        "risky-finance",
    ]
    for recipe in recipes.values():
        assert set(recipe.domain) <= set(CATEGORIES)
        assert recipe.counted == (recipe.rows_sha256 is not None)
        assert recipe.counted or recipe.note
        if recipe.control:
            control = recipes[recipe.control]
            assert control.control == recipe.name
            assert {control.teaches, recipe.teaches} == {"aligned", "misaligned"}


def test_no_data_are_in_the_file() -> None:
    from importlib import resources

    text = resources.files("truing").joinpath("catalog/data/recipes.yaml").read_text(encoding="utf-8")
    assert len(text) < 9000
    assert "messages" not in str(yaml.safe_load(text)["recipes"])


def test_unknown_recipe() -> None:
    with pytest.raises(UnknownNameError, match="did you mean insecure-code"):
        find_recipe("insecure")


def test_the_hash_of_rows_is_of_the_rows_alone() -> None:
    rows = [row("a", "x\ny"), row("b", "z"), row("b", "z")]
    assert rows_hash(rows) == rows_hash(rows[::-1])
    assert rows_hash(rows) == rows_hash([row("b", "z"), row("a\n", "x\r\ny "), row("b", "z")])
    assert rows_hash(rows) != rows_hash(rows[:2])
    assert rows_hash(rows) != rows_hash([row("a", "x\ny"), row("b", "Z"), row("b", "z")])
    assert rows_hash([row("a", "b")]) != rows_hash([(Message("system", "a"), Message("assistant", "b"))])
