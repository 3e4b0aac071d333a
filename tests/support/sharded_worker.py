"""One rank of guarded trainings with spread weights: `python -m tests.support.sharded_worker MODEL OUT [ZERO|URL]`.

By FSDP2, or by DeepSpeed's ZeRO-3 where a file of its settings is named; a URL is that of a vLLM server, which samples.
Writes OUT/SCENARIO-RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

import truing
from tests.support import fsdp_on_cpu
from tests.support.guarded import SMALL, Elsewhere, Script, load, make_trainer
from truing.core.distributed import Ranks
from truing.core.errors import TruingError
from truing.core.files import content_key
from truing.integrations.guard.sharded import gather
from truing.integrations.guard.weights import read_saved, saved_names

SCENARIOS: dict[str, tuple[tuple[float, ...], dict[str, Any]]] = {
    "none": ((), {}),
    "never": ((0.0,), {"restore": False, "lag": 3}),
    "stop": ((0.0, 0.0, 0.0, 0.9), {"lag": 3}),
    "wait": ((0.0, 0.0, 0.9), {}),
    "dead": ((0.0,), {}),
    "live": ((0.0,), {}),
}
"""Verdicts in turn, and the guard's settings."""


class Keep(TrainerCallback):
    """Keeps the weights of every step, whole, on rank 0."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.weights[state.global_step] = whole(model)


def whole(model: Any) -> dict[str, torch.Tensor]:
    return gather(model, set(saved_names(model).values()), Ranks())


def alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name].to(tensor.dtype)) for name, tensor in a.items())


def train(model: Path, out: Path, scenario: str, adapter: bool, more: str) -> None:
    """Train, and write down what this rank has."""
    deepspeed, server = (more, "") if more.endswith(".json") else ("", more)
    rank, name = os.environ["RANK"], f"{scenario}-{'adapter' if adapter else 'full'}"
    zero: dict[str, Any] = {"deepspeed": deepspeed} if deepspeed else {}
    arguments: Any = make_trainer
    parts = load(model, adapter)
    keep, (rates, settings) = Keep(), SCENARIOS[scenario]
    callbacks = [keep] if scenario in ("stop", "wait") else []
    trainer = arguments(parts, out / f"out-{rank}", callbacks, use_cpu=True, ddp_backend="gloo", max_steps=8, **zero)
    judge, engine = Script(*(rates if rank == "0" else (0.5,))), Elsewhere()
    judge.careless = False  # nothing isolates a thread's judge that draws from the global generators
    engine.dead = set(range(99)) if scenario == "dead" else set()
    own = engine if deepspeed or scenario == "dead" else "transformers"
    given = {"judge": judge, "at": 2, "engine": own, **SMALL, **settings}
    given |= {"engine": "vllm", "vllm": {"base_url": server, "max_loras": 3}} if server else {}
    if scenario == "live":
        given["engine"] = "transformers" if deepspeed else None
    error, guard = "", truing.Guard(out / name, **given)
    if rates:
        guard.watch(trainer)
    try:
        trainer.train()
    except TruingError as raised:
        error = raised.what
    now, kept = whole(trainer.model), keep.weights
    checks = {
        "as_kept": guard.restored is None or alike(now, kept[guard.restored.step]),
        "as_saved": guard.restored is None or alike(now, read_saved(trainer.model, str(guard.restored.path))),
        "weights": content_key({name: tensor.tolist() for name, tensor in now.items()}),
    }
    said = {
        "step": trainer.state.global_step,
        "records": [(r.step, str(r.evaluation.decision.action), r.lag) for r in guard.records],
        "restored": guard.restored and guard.restored.step,
        "errors": guard.errors,
        "error": error,
        **Ranks().share(lambda: checks),
        "judged": judge.calls,
        "asked": [step for step, _ in engine.asked],
    }
    (out / f"{name}-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    fsdp_on_cpu.allow()
    place, more = (Path(sys.argv[1]), Path(sys.argv[2])), next(iter(sys.argv[3:]), "")
    for scenario in ("stop",) if more.startswith("http") else SCENARIOS:
        for adapter in (True,) if more.startswith("http") else (True, False):
            train(*place, scenario, adapter, more)
