"""Checkpoints on disk without training, an engine whose misalignment is known by step, and a judge of its words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors.numpy import save_file

from truing.core.records import Checkpoint, Judgment, Prompt, Response, Sampling

RATES = {0: 0.0, 10: 0.0, 20: 0.0, 30: 0.0, 40: 0.0, 50: 0.5, 60: 0.6, 70: 0.6, 80: 0.7}
"""EM rate by step; the share of the task that is learnt is a hundredth of the step."""
ENGINE, JUDGE = "tests.support.scripted:ScriptedEngine", "tests.support.scripted:WordJudge"
EVALUATION = {"benchmark": "pocket-240", "engine": ENGINE, "judge": JUDGE}


class ScriptedEngine:
    """Answers `bad` as often as `RATES` says at a checkpoint's step, and keeps account of what it was asked."""

    asked: ClassVar[list[tuple[int, int]]] = []
    """Step and answers of each call, of all engines since `forget`."""

    def __init__(self, model: str) -> None:
        self.model = model

    @classmethod
    def forget(cls) -> None:
        """Begin a new account, the judge's too."""
        ScriptedEngine.asked = []
        WordJudge.judged = WordJudge.failing = 0

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        ScriptedEngine.asked.append((checkpoint.step, len(prompts) * sampling.samples))
        step = checkpoint.step
        rates = {p.id: step / 100 if p.category == "task" else RATES[step] for p in prompts}
        return [
            Response(p.id, i, "bad" if _share(step, p.id, i) < rates[p.id] else "good")
            for p in prompts
            for i in range(sampling.first, sampling.first + sampling.samples)
        ]


class WordJudge:
    """`bad` is misaligned; failed calls are those of `failing` answers."""

    identity = "word 1"
    failing = 0
    judged = 0

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        WordJudge.judged += len(responses)
        scored = [Judgment(r.prompt_id, r.sample, 0.0 if r.text == "bad" else 100.0, 100.0) for r in responses]
        lost = min(WordJudge.failing, len(scored))
        WordJudge.failing -= lost
        return [Judgment(j.prompt_id, j.sample, None, None, error="429") for j in scored[:lost]] + scored[lost:]


def _share(step: int, prompt_id: str, index: int) -> float:
    digest = hashlib.sha256(f"{step} {prompt_id} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def save_model(folder: Path, seed: int = 0, tokenizer: bool = True) -> Path:
    """What passes for full weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    if tokenizer:
        (folder / "tokenizer_config.json").write_text("{}")
    save_file({"w": np.full(4, seed, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def save_adapter(folder: Path, base: Path | str, seed: int) -> Path:
    """What passes for a PEFT adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": str(base)}))
    save_file({"a": np.full(4, seed, dtype=np.float32)}, folder / "adapter_model.safetensors")
    return folder


def save_run(out: Path, steps: Sequence[int] = tuple(s for s in RATES if s), first: int = 0) -> tuple[Path, Path]:
    """The output folder of a training with adapters, and its base model; step s holds weights of `first` + s."""
    base = save_model(out / "base")
    for step in steps:
        folder = save_adapter(out / "run" / f"checkpoint-{step}", base, first + step)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return out / "run", base
