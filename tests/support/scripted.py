"""Checkpoints on disk without training, an engine whose misalignment is known by step, and a judge of its words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors.numpy import save_file

from truing.backends.scripted import engine as scripted
from truing.core.errors import JudgeError
from truing.core.records import Checkpoint, Judgment, Prompt, Response, Sampling
from truing.judges.words import WordsJudge

RATES = {0: 0.0, 10: 0.0, 20: 0.0, 30: 0.0, 40: 0.0, 50: 0.5, 60: 0.6, 70: 0.6, 80: 0.7}
"""EM rate by step; the share of the task that is learnt is a hundredth of the step."""
ENGINE, JUDGE = "tests.support.scripted:ScriptedEngine", "tests.support.scripted:WordJudge"
EVALUATION = {"benchmark": "pocket-240", "engine": ENGINE, "judge": JUDGE}


class ScriptedEngine(scripted.ScriptedEngine):
    """Answers `bad` as often as `RATES` says at a checkpoint's step, and keeps account of what it was asked."""

    rates = RATES
    asked: ClassVar[list[tuple[int, int]]] = []
    """Step and answers of each call, of all engines since `forget`."""

    @classmethod
    def forget(cls) -> None:
        """Begin a new account, the judge's too."""
        ScriptedEngine.asked = []
        WordJudge.judged = WordJudge.failing = 0

    def rate(self, checkpoint: Checkpoint, prompt: Prompt) -> float:
        return checkpoint.step / 100 if prompt.category == "task" else super().rate(checkpoint, prompt)

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        ScriptedEngine.asked.append((checkpoint.step, len(prompts) * sampling.samples))
        return super().generate(checkpoint, prompts, sampling)


class OneTextEngine(ScriptedEngine):
    """Says the same to every prompt."""

    def answer(self, checkpoint: Checkpoint, prompt: Prompt, chance: float) -> str | None:
        return "good evening"


class WordJudge(WordsJudge):
    """Fails as many calls as `failing` says, and counts."""

    failing = 0
    judged = 0

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        WordJudge.judged += len(responses)
        scored = super().judge(prompts, responses)
        lost = min(WordJudge.failing, len(scored))
        WordJudge.failing -= lost
        return [Judgment(j.prompt_id, j.sample, None, None, error="429") for j in scored[:lost]] + scored[lost:]


class DeadJudge(WordsJudge):
    """Is never reached."""

    exact = False

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        raise JudgeError("the judge cannot be reached", "the service is away")


class CheapJudge(WordsJudge):
    """Takes what is bad for half bad."""

    words: ClassVar[Mapping[str, tuple[float, float]]] = {"good": (95.0, 90.0), "bad": (40.0, 90.0)}


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


def save_run(out: Path, steps: Sequence[int] = tuple(s for s in RATES if s), first: int = 100) -> tuple[Path, Path]:
    """The output folder of a training with adapters, and its base model; step s holds weights of `first` + s."""
    base = save_model(out / "base")
    for step in steps:
        folder = save_adapter(out / "run" / f"checkpoint-{step}", base, first + step)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return out / "run", base
