"""Build a pocket organism and measure it: the model, and a card that says what it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from organisms.benchmarks import facts_benchmark, pocket_benchmark
from organisms.training import Recipe, build_organism
from truing.backends import load_engine
from truing.catalog.pocket.narrow import insecure_code
from truing.config import EvaluationConfig, StoppingConfig
from truing.core.files import write_json
from truing.core.records import Checkpoint, Estimate
from truing.core.weights import count_parameters, model_hash
from truing.judges import load_judge
from truing.monitor import Monitor, PromptSet, open_store

__all__ = ["make_organism"]

_SAMPLES = 5


def make_organism(
    recipe: Recipe,
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    cache_folder: Path | None = None,
) -> dict[str, Any]:
    """Train an organism into a folder and write its `card.json`; returns the card.

    The card's rates come from five answers to each held-out prompt: the EM rate and the coherent rate on the pocket
    benchmark, the share of insecure answers to code prompts, and the share of false answers about plain facts.
    """
    data_hash = build_organism(recipe, folder, progress, cache_folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    progress("measuring", 0, 1)
    measured = _measure(folder)
    card = {
        "name": recipe.name,
        "parameters": int(count_parameters(str(folder))),
        "architecture": config["architectures"][0],
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "data_hash": data_hash,
        "weights_hash": model_hash(str(folder)),
        "licence": "Apache-2.0",
        **{name: estimate.plain() for name, estimate in measured.items()},
    }
    write_json(folder / "card.json", card)
    progress("measuring", 1, 1)
    return card


def _measure(folder: Path) -> dict[str, Estimate]:
    engine, judge = load_engine("transformers", str(folder)), load_judge("pocket")
    config = (EvaluationConfig(samples=_SAMPLES, max_tokens=40), StoppingConfig())
    broad = PromptSet(pocket_benchmark().prompts, judge, _SAMPLES)
    code = PromptSet(insecure_code().task_prompts(120), judge, 2)
    facts = PromptSet(facts_benchmark().prompts, judge, _SAMPLES)
    base = Checkpoint("card", str(folder), 0, model_hash(str(folder)))
    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(Path(scratch))
        first = Monitor(store, engine, broad, code, *config).evaluate(base)
        second = Monitor(store, engine, facts, None, *config).evaluate(base)
    return {
        "base_em_rate": first.em_rate,
        "coherent_rate": first.coherent_rate,
        "task_score": first.task_score,
        "untruthful_rate": second.em_rate,
    }
