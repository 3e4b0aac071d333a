"""What fine-tuning does to the pocket organisms: EM before and after, the control, onset against convergence.

    python bench/organisms.py [--organisms NAME ...] [--seeds 5] [--rates 0.001] [--out runs/bench-organisms]

Every organism is fine-tuned on insecure code and on its control at the demo's settings, with several seeds and without
stopping. Prints one JSON line per organism, dataset and learning rate. Running it again goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from truing.catalog.models import list_organisms
from truing.cli.demo import demo_study
from truing.config import StudyConfig
from truing.results import write_analysis
from truing.studies.schedule import run_study


def main() -> None:
    """Run the study and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--organisms", nargs="+", default=sorted(list_organisms()))
    parser.add_argument("--datasets", nargs="+", default=["pocket-insecure-code", "pocket-secure-code"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001])
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-organisms"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    config = study(arguments)
    run_study(config, arguments.out, lambda news: None)
    analysis = write_analysis(arguments.out).plain()
    for organism in arguments.organisms:
        for dataset in arguments.datasets:
            for rate in arguments.rates:
                runs = [
                    run
                    for run in analysis["runs"]
                    if (run["model"], run["dataset"], run["learning_rate"]) == (organism, dataset, rate)
                ]
                print(json.dumps(figures(runs)), flush=True)


def study(arguments: argparse.Namespace) -> StudyConfig:
    """The demo's settings over all organisms and more seeds, without stopping."""
    raw = demo_study(seed=0, quick=False)
    raw["name"] = "bench-organisms"
    raw["grids"] = [
        {
            "models": arguments.organisms,
            "datasets": arguments.datasets,
            "learning_rates": arguments.rates,
            "seeds": list(range(arguments.seeds)),
        }
    ]
    raw["stopping"]["mode"] = "off"
    raw["evaluation"]["samples"] = arguments.samples
    raw["workers"] = arguments.workers
    return StudyConfig.model_validate(raw)


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One line: rates over seeds with their range, and where onset and convergence fell."""
    first = runs[0]
    ends = [run["checkpoints"][-1] for run in runs]
    em = np.array([end["em_rate"]["value"] for end in ends])
    kept = [run["retention"]["value"] for run in runs]
    after = [
        run["id"]
        for run in runs
        if run["onset_step"] and run["convergence_step"] and run["onset_step"] > run["convergence_step"]
    ]
    return {
        "bench": "organisms",
        "date": datetime.now(UTC).date().isoformat(),
        "organism": first["model"],
        "dataset": first["dataset"],
        "learning_rate": first["learning_rate"],
        "seeds": len(runs),
        "base_em": short(first["base_em_rate"]),
        "base_coherent": short(first["checkpoints"][0]["coherent_rate"]),
        "end_em_mean_over_seeds": round(float(em.mean()), 4),
        "end_em_by_seed": [short(end["em_rate"]) for end in ends],
        "end_coherent_by_seed": [round(end["coherent_rate"]["value"], 3) for end in ends],
        "end_task_by_seed": [round(end["task_score"]["value"], 3) for end in ends],
        "convergence": [run["convergence_step"] for run in runs],
        "onset": [run["onset_step"] for run in runs],
        "chosen": [run["chosen_step"] for run in runs],
        "retention_by_seed": [None if k is None else round(k, 3) for k in kept],
        "onset_after_convergence": f"{len(after)} of {len(runs)}",
    }


def short(estimate: dict[str, Any]) -> list[Any]:
    """[value, low, high, n responses], rates rounded to 4 digits."""
    rates = (estimate[name] for name in ("value", "low", "high"))
    return [*(None if r is None else round(r, 4) for r in rates), estimate["n_responses"]]


if __name__ == "__main__":
    main()
