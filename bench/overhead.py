"""What watching costs: training with the monitor over training without, at the demo's settings.

    python bench/overhead.py [--model pocket-llama-susceptible] [--repeats 3]

Both make and save the same checkpoints; one of them samples and judges each. In turn, in one process, one thread.
Prints one JSON line per figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from truing.backends import load_trainer
from truing.catalog.datasets import load_dataset
from truing.cli.demo import demo_study
from truing.config import StudyConfig
from truing.core.records import Action, Checkpoint, Decision, Estimate, Run
from truing.studies.run import execute_run

NOTHING = Estimate(0.0, 0.0, 1.0, 1, 1, 0, "none")


def main() -> None:
    """Time both ways in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket-llama-susceptible")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    raw = demo_study(seed=0, quick=False)
    raw["stopping"]["mode"] = "off"
    raw["grids"] = [
        {"models": [arguments.model], "datasets": ["pocket-insecure-code"], "learning_rates": [0.001], "seeds": [0]}
    ]
    config = StudyConfig.model_validate(raw)
    (run,) = config.runs()
    alone, watched = [], []
    without(config, run)  # load and warm up
    for _ in range(arguments.repeats):
        alone.append(without(config, run))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            execute_run(config, run, Path(folder))
            watched.append(time.perf_counter() - start)
    steps = config.training.checkpoint_steps()
    extra = statistics.median(watched) - statistics.median(alone)
    figures = {
        "training_alone_s": statistics.median(alone),
        "training_watched_s": statistics.median(watched),
        "watched_over_alone": statistics.median(watched) / statistics.median(alone),
        "seconds_per_evaluated_checkpoint": extra / (len(steps) + 1),
    }
    for figure, value in figures.items():
        line = {
            "bench": "overhead",
            "date": datetime.now(UTC).date().isoformat(),
            "figure": figure,
            "value": round(value, 3),
            "model": arguments.model,
            "steps": config.training.steps,
            "checkpoints": len(steps) + 1,
            "repeats": arguments.repeats,
        }
        print(json.dumps(line), flush=True)


def without(config: StudyConfig, run: Run) -> float:
    """Seconds to train a run whose checkpoints nobody looks at."""

    def go_on(checkpoint: Checkpoint) -> Decision:
        return Decision(Action.CONTINUE, checkpoint.step, "", NOTHING)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trainer = load_trainer("peft", config.training)
        trainer.train(run, load_dataset(run.dataset), Path(folder), go_on, lambda step: None)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
