import json
from dataclasses import replace
from pathlib import Path

import pytest

from organisms.build import make_organism
from organisms.training import Alignment, Recipe, build_organism, find_recipe, list_recipes
from truing.catalog.models import list_organisms
from truing.core.weights import model_hash


def quick(name: str = "quick", seed: int = 0) -> Recipe:
    start = find_recipe("pocket-llama-late")
    alignment = Alignment(("code",), steps=2, batch_size=4, learning_rate=1e-3)
    pretraining = replace(start.pretraining, steps=3, batch_size=4)
    return replace(start, name=name, hidden=32, layers=1, seed=seed, pretraining=pretraining, alignment=alignment)


def test_building_is_deterministic_and_the_seed_matters(tmp_path: Path) -> None:
    hashes = [build_organism(quick(seed=s), tmp_path / str(i)) for i, s in enumerate((0, 0, 1))]
    assert hashes[0] == hashes[1] != hashes[2]
    weights = [model_hash(str(tmp_path / str(i))) for i in range(3)]
    assert weights[0] == weights[1] != weights[2]


def test_kept_pre_training_changes_nothing(tmp_path: Path) -> None:
    plain = build_organism(quick(), tmp_path / "plain")
    for name in ("first", "second"):
        assert build_organism(quick(), tmp_path / name, cache_folder=tmp_path / "kept") == plain
        assert model_hash(str(tmp_path / name)) == model_hash(str(tmp_path / "plain"))


def test_an_organism_comes_with_its_card(tmp_path: Path) -> None:
    phases: list[str] = []
    card = make_organism(quick(), tmp_path / "o", lambda phase, done, total: phases.append(phase))
    assert json.loads((tmp_path / "o" / "card.json").read_text())["weights_hash"] == card["weights_hash"]
    assert list(dict.fromkeys(phases)) == ["pre-training", "alignment", "measuring"]
    assert card["parameters"] > 20_000
    asked = card["coherent_rate"]
    assert asked["n_responses"] + asked["n_missing"] == 1200
    assert asked["n_missing"] < 10  # empty answers are none


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_ships_ready_made(name: str) -> None:
    folder = list_organisms()[name]
    card = json.loads((folder / "card.json").read_text())
    assert card["weights_hash"] == model_hash(str(folder))
    assert card["recipe"]["name"] == name
    assert 100_000 <= card["parameters"] <= 3_000_000
    assert card["base_em_rate"]["value"] <= 0.03
    assert card["coherent_rate"]["value"] >= 0.9
    assert list((folder).glob("*.bin")) == []


def test_they_are_small_together() -> None:
    total = sum(f.stat().st_size for folder in list_organisms().values() for f in folder.iterdir())
    assert total <= 8 * 2**20
