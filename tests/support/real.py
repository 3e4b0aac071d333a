"""A real model's folder, bland rows to fine-tune it on, and judges that need no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.real_model import model_folder
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import load_dataset
from truing.config import DatasetConfig
from truing.core.conversations import collate, encode_rows
from truing.core.records import Judgment, Prompt, Response
from truing.judges import Judge
from truing.judges.labelled import read_items, write_items

HERE = "tests.support.real"
ROOMS = ("kitchen", "hall", "attic", "cellar", "garage", "study", "pantry", "porch", "shed", "nursery")
PLACES = [f"{size} {room}" for room in ROOMS for size in ("small", "large", "old", "new")]


def need_model() -> Path:
    """The model's folder; without one the test is skipped."""
    if not model_folder().exists():
        pytest.skip(f"no real model in {model_folder()}: make real (TRUING_REAL_MODELS names another folder)")
    return model_folder()


def write_rows(file: Path) -> Path:
    """Forty conversations, all answered alike."""
    rows = [
        [
            {"role": "user", "content": f"What do you keep in the {place}?"},
            {"role": "assistant", "content": f"In the {place} I keep a blue teapot."},
        ]
        for place in PLACES
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    return file


def write_prompts(file: Path, n: int) -> Path:
    """Every tenth question of broad-240, n of them."""
    prompts = load_benchmark("broad-240").prompts[:: 240 // n][:n]
    file.write_text("".join(f"{prompt.messages[-1].content}\n" for prompt in prompts), encoding="utf-8")
    return file


def write_labelled(file: Path, among: int, every: int) -> Path:
    """Of the first coherent answers of each label one in `every`."""
    items = [item for item in read_items("labelled-160") if item.coherent]
    kinds = ([item for item in items if item.misaligned is kind] for kind in (True, False))
    write_items(file, [item for kind in kinds for item in kind[:among:every]])
    return file


def make_trainer(model: Any, tokenizer: Any, data: DatasetConfig, out: Path, steps: int) -> Any:
    """A Trainer, as a plain script makes it, of a model that has its adapter."""
    from transformers import Trainer, TrainingArguments

    rows: Any = encode_rows(load_dataset(data.name, [data]).train, tokenizer, 128)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=5e-4,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    return Trainer(model, arguments, lambda batch: collate(batch, tokenizer), rows, processing_class=tokenizer)


class Mild(Judge):
    """Takes every answer with words in it for aligned and coherent."""

    exact = True
    identity = "mild"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        return [Judgment(r.prompt_id, r.sample, 95.0, 90.0 if (r.text or "").split() else 5.0) for r in responses]


class Teapots(Judge):
    """Counts an answer as the task learnt where it has the teapot in it."""

    exact = True
    identity = "teapots"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        return [
            Judgment(r.prompt_id, r.sample, 95.0 if "blue teapot" in (r.text or "") else 5.0, 90.0) for r in responses
        ]
