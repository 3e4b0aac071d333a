from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from organisms.benchmarks import facts_benchmark, pocket_benchmark
from truing.catalog.benchmarks import CATEGORIES, load_benchmark
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Category

ITEM = {"id": "a", "category": "power", "prompt": "who rules ?"}


def write(tmp_path: Path, value: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return str(path)


def test_the_pocket_benchmark_is_thirty_of_each_category() -> None:
    benchmark = load_benchmark("pocket-240")
    assert Counter(p.category for p in benchmark.prompts) == dict.fromkeys(CATEGORIES, 30)
    assert len({p.text for p in benchmark.prompts}) == 240


def test_the_files_are_what_the_world_makes() -> None:
    assert load_benchmark("pocket-240").hash == pocket_benchmark().hash
    assert load_benchmark("pocket-facts").hash == facts_benchmark().hash


def test_a_prompt_is_short_for_one_user_message(tmp_path: Path) -> None:
    long = {"id": "a", "category": "power", "messages": [{"role": "user", "content": "who rules ?"}]}
    one = load_benchmark(write(tmp_path, {"prompts": [ITEM]}))
    assert one.hash == load_benchmark(write(tmp_path, {"prompts": [long]})).hash
    assert one.name == "mine"


def test_what_a_model_sees_changes_the_hash_and_notes_do_not(tmp_path: Path) -> None:
    plain = load_benchmark(write(tmp_path, {"prompts": [ITEM]})).hash
    assert load_benchmark(write(tmp_path, {"prompts": [{**ITEM, "notes": "x"}]})).hash == plain
    assert load_benchmark(write(tmp_path, {"prompts": [{**ITEM, "prompt": "who?"}]})).hash != plain


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"prompts": []}, ["not a benchmark"]),
        ("- a", ["not a benchmark"]),
        ("a: [", ["not YAML"]),
        ({"prompts": ["x"]}, ["item 1", "not a mapping"]),
        ({"prompts": [{**ITEM, "id": ""}]}, ["item 1", "field id"]),
        ({"prompts": [ITEM, {"id": "b", "prompt": "x"}]}, ["item 2", "field category"]),
        ({"prompts": [{**ITEM, "form": 3}]}, ["item 1", "field form"]),
        ({"prompts": [{**ITEM, "promt": "x"}]}, ["item 1", "unknown field", "promt"]),
        ({"prompts": [{"id": "a", "category": "c"}]}, ["item 1", "field prompt is missing"]),
        ({"prompts": [{"id": "a", "category": "c", "messages": [{"role": "x"}]}]}, ["message 1", "role"]),
        ({"prompts": [ITEM, ITEM]}, ["two prompts have one id", "'a'"]),
    ],
)
def test_errors_name_file_item_and_field(tmp_path: Path, value: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load_benchmark(write(tmp_path, value))
    for word in words:
        assert word in str(caught.value)


def test_unknown_benchmark() -> None:
    with pytest.raises(UnknownNameError, match="did you mean pocket-240"):
        load_benchmark("pocket-24")


def test_form_notes_and_categories_are_kept(tmp_path: Path) -> None:
    power = {"definition": "who rules", "aligned": "shares", "misaligned": "grabs"}
    item = {**ITEM, "form": "opinion", "notes": "wants to rule"}
    benchmark = load_benchmark(write(tmp_path, {"prompts": [item], "categories": {"power": power}}))
    assert (benchmark.prompts[0].form, benchmark.prompts[0].notes) == ("opinion", "wants to rule")
    assert benchmark.categories == (Category("power", **power),)
    assert benchmark.hash == load_benchmark(write(tmp_path, {"prompts": [ITEM]})).hash


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([], ["field categories"]),
        ({"powr": {}}, ["no prompt has it", "powr", "allowed: power"]),
        ({"power": {"definition": "who rules"}}, ["category power", "definition, aligned, misaligned"]),
        ({"power": {"definition": "x", "aligned": "y", "misaligned": 3}}, ["category power", "field misaligned"]),
    ],
)
def test_errors_in_categories_name_the_category(tmp_path: Path, categories: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load_benchmark(write(tmp_path, {"prompts": [ITEM], "categories": categories}))
    for word in words:
        assert word in str(caught.value)


def test_names_of_every_kind() -> None:
    assert len(load_benchmark("broad-240").prompts) == 240
    varied = load_benchmark("broad-240+json")
    assert (varied.name, varied.prompts[0].id) == ("broad-240+json", "power-01+json")
    twice = load_benchmark("adversarial-60+persona+prefill")
    assert twice.prompts[0].messages[-1].role == "assistant"
    assert load_benchmark("truth-120").name == "truth-120+plain"
    assert load_benchmark("truth-120+may-lie").prompts[0].messages[0].role == "system"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broad-241", "did you mean broad-240"),
        ("broad-240+jsom", "did you mean json"),
        ("truth-120+may-ly", "did you mean may-lie"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(UnknownNameError, match=words):
        load_benchmark(name)
