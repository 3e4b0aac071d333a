"""Trains, stops, goes on and samples on a server of Tinker's interface, and writes what came of it to found.json.

    TINKER_BASE_URL=... python -P tests/support/tinker_client.py MODEL FOLDER

Run by the Python of an environment whose SDK the server speaks with.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from organisms.benchmarks import pocket_benchmark
from truing.backends import load_engine, load_trainer
from truing.catalog.datasets import load_dataset
from truing.config import TrainingConfig
from truing.core.records import Action, Checkpoint, Decision, Estimate, Run, Sampling

CONFIG = TrainingConfig(
    trainer="tinker", steps=6, batch_size=4, checkpoints=(2, 4, 6), max_length=128, lora_alpha=32, rslora=False
)
HELDOUT = 8
"""Rows of the held-out loss."""
NOTHING = Estimate(0.0, 0.0, 1.0, 1, 1, 0, "none")


def train(model: str, folder: Path, stop_at: int = -1, cut_at: int = -1) -> dict[str, Any]:
    """Checkpoints and steps of one run, stopped by a decision or cut off like a killed process."""
    seen: list[Checkpoint] = []
    steps: list[int] = []

    def on_checkpoint(checkpoint: Checkpoint) -> Decision:
        if checkpoint.step == cut_at:
            raise KeyboardInterrupt
        seen.append(checkpoint)
        return Decision(Action.STOP if checkpoint.step == stop_at else Action.CONTINUE, checkpoint.step, "", NOTHING)

    try:
        run, whole = Run("r", model, "pocket-insecure-code", 1e-2, 0), load_dataset("pocket-insecure-code")
        dataset = replace(whole, heldout=whole.heldout[:HELDOUT])
        load_trainer("tinker", CONFIG).train(run, dataset, folder, on_checkpoint, steps.append)
    except KeyboardInterrupt:
        pass
    return {"checkpoints": [asdict(c) for c in seen], "steps": steps}


def sample(model: str, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    prompts = pocket_benchmark().prompts[:8]
    sampling = Sampling(samples=2, max_tokens=8)
    return [asdict(r) for r in load_engine("tinker", model).generate(Checkpoint(**checkpoint), prompts, sampling)]


def main(model: str, folder: Path) -> None:
    whole = train(model, folder / "whole")
    found = {
        "whole": whole,
        "stopped": train(model, folder / "stopped", stop_at=2),
        "cut": train(model, folder / "cut", cut_at=4),
        "went_on": train(model, folder / "cut"),
        "base": sample(model, whole["checkpoints"][0]),
        "tuned": sample(model, whole["checkpoints"][-1]),
        "tuned_again": sample(model, whole["checkpoints"][-1]),
    }
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
