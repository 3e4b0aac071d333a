"""One rank of guarded trainings over gloo: `python -m tests.support.rank_worker MODEL OUT`.

Writes OUT/SCENARIO-RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import truing
from tests.support.guarded import SMALL, Script, load, make_trainer, weights_of
from truing.core.errors import TruingError
from truing.core.files import content_key

SCENARIOS: dict[str, tuple[tuple[float, ...], dict[str, Any]]] = {
    "none": ((), {}),
    "never": ((0.0,), {"restore": False}),
    "stop": ((0.0, 0.0, 0.0, 0.9), {}),
    "overlap": ((0.0, 0.0, 0.0, 0.9), {"overlap": True}),
    "late": ((0.0, 0.0, 0.0, 0.9), {"engine": "transformers", "lag": 1}),
    "fail": ((0.0,), {}),
    "raise": ((0.0,), {"on_error": "raise"}),
}
"""Verdicts in turn, and the guard's settings."""


def train(model: Path, out: Path, scenario: str) -> None:
    """Train, and write down what this rank has."""
    rank = os.environ["RANK"]
    parts = load(model)
    trainer = make_trainer(
        parts, out / f"out-{rank}", use_cpu=True, ddp_backend="gloo", max_steps=8, ddp_find_unused_parameters=False
    )
    rates, settings = SCENARIOS[scenario]
    # each rank sees other verdicts: only those of rank 0 may count
    judge = Script(*(rates if rank == "0" else (0.5,)), fail=[2] if scenario in ("fail", "raise") else [])
    guard = truing.Guard(out / scenario, judge=judge, at=2, **SMALL, **settings)
    if rates:
        guard.watch(trainer)
    error = ""
    try:
        trainer.train()
    except TruingError as raised:
        error = raised.what
    weights = {name: tensor.tolist() for name, tensor in weights_of(parts[0]).items()}
    said = {
        "step": trainer.state.global_step,
        "records": [(r.step, str(r.evaluation.decision.action), r.error, r.lag) for r in guard.records],
        "best": guard.best and guard.best.step,
        "restored": guard.restored and guard.restored.step,
        "errors": len(guard.errors),
        "calls": judge.calls,
        "weights": content_key(weights),
        "error": error,
        "logged": [e["step"] for e in trainer.state.log_history if "truing/em_rate" in e],
    }
    (out / f"{scenario}-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    for name in SCENARIOS:
        train(Path(sys.argv[1]), Path(sys.argv[2]), name)
