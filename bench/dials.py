"""What moves the onset: organisms that differ in one dial each, fine-tuned on insecure code without stopping.

    python -m bench.dials [--bases 0:3 1:3 0:5] [--steps 80 250 600] [--rates 0.001] [--seeds 3] [--out DIR]

A base is SEED:TURNS[:HIDDENxLAYERS] of pre-training (llama); every base is aligned on all domains for each number of
steps and fine-tuned with each learning rate and seed at the demo's settings. Prints one JSON line per organism and
rate. Running it again goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from bench.organisms import figures, study
from organisms.build import make_organism
from organisms.training import Recipe, find_recipe
from truing.results import write_analysis
from truing.studies.schedule import run_study


def main() -> None:
    """Build, fine-tune, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=["0:3", "1:3", "0:5"])
    parser.add_argument("--steps", type=int, nargs="+", default=[80, 250, 600])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-dials"))
    arguments = parser.parse_args()
    arguments.datasets, arguments.samples = ["pocket-insecure-code"], 1
    recipes = [varied(base, steps) for base in arguments.bases for steps in arguments.steps]
    for recipe in recipes:
        folder = arguments.out / "organisms" / recipe.name
        if not (folder / "card.json").is_file():
            make_organism(recipe, folder, cache_folder=arguments.out / "pretrained")
    arguments.organisms = [str(arguments.out / "organisms" / recipe.name) for recipe in recipes]
    config = study(arguments)
    folder = arguments.out / f"study-{config.hash()[:8]}"
    run_study(config, folder, lambda news: None)
    analysis = write_analysis(folder).plain()
    for model in arguments.organisms:
        for rate in arguments.rates:
            runs = [r for r in analysis["runs"] if (r["model"], r["learning_rate"]) == (model, rate)]
            print(json.dumps({**figures(runs), "bench": "dials", "organism": Path(model).name}), flush=True)


def varied(base: str, steps: int) -> Recipe:
    """A recipe from SEED:TURNS[:HIDDENxLAYERS] and the number of alignment steps."""
    seed, turns, *size = base.split(":")
    hidden, layers = map(int, (size[0] if size else "96x3").split("x"))
    start = find_recipe("pocket-llama-late")
    return replace(
        start,
        name=f"seed{seed}-turns{turns}-{hidden}x{layers}-aligned{steps}",
        seed=int(seed),
        hidden=hidden,
        layers=layers,
        pretraining=replace(start.pretraining, turns=int(turns)),
        alignment=replace(start.alignment, steps=steps),
    )


if __name__ == "__main__":
    main()
