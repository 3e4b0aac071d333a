"""What a guard inside `transformers.Trainer` costs, and whether it leaves a trace.

    python bench/guard.py [--model pocket-llama-susceptible] [--steps 60] [--at 20] [--repeats 3]

The same LoRA training with dropout and gradient accumulation, with and without a guard that never stops, in turn, in
one process, one thread: seconds of a step that is not evaluated, of an evaluation, and of the whole; and whether the
final weights are the same bits. Prints one JSON line per figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from truing.catalog.datasets import load_dataset
from truing.catalog.models import resolve_model
from truing.core.adapters import no_progress_bars
from truing.core.conversations import collate, encode_rows
from truing.integrations.guard import Guard

DATASET = "pocket-insecure-code"


@dataclass(frozen=True)
class End:
    """One training."""

    seconds: float
    steps: list[float]
    """Seconds of each step, evaluations included."""
    weights: bytes


class Clock(TrainerCallback):
    """Seconds of every step, from its beginning to the end of its callbacks."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop; added last, so after the guard."""
        self.steps.append(time.perf_counter() - self._start)


def main() -> None:
    """Time both ways in turn; print medians over steps, and the fastest whole training of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket-llama-susceptible")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--at", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    train(arguments, guarded=False)  # load and warm up
    alone, guarded = [], []
    for _ in range(arguments.repeats):
        alone.append(train(arguments, guarded=False))
        guarded.append(train(arguments, guarded=True))
    evaluated = [s for s in range(1, arguments.steps + 1) if s % arguments.at == 0 or s == arguments.steps]
    step_alone = statistics.median(s for end in alone for s in end.steps)
    quiet = [s for end in guarded for i, s in enumerate(end.steps, 1) if i not in evaluated]
    looks = [end.steps[i - 1] for end in guarded for i in evaluated]
    whole = min(e.seconds for e in alone), min(e.seconds for e in guarded)  # other load on the machine only adds
    figures = {
        "step_alone_s": step_alone,
        "step_guarded_s": statistics.median(quiet),
        "step_guarded_over_alone": statistics.median(quiet) / step_alone,
        "seconds_per_evaluation": statistics.median(looks) - step_alone,
        "training_alone_s": whole[0],
        "training_guarded_s": whole[1],
        "training_guarded_over_alone": whole[1] / whole[0],
        "bit_identical": float(len({end.weights for end in (*alone, *guarded)}) == 1),
    }
    for figure, value in figures.items():
        line = {
            "bench": "guard",
            "date": datetime.now(UTC).date().isoformat(),
            "figure": figure,
            "value": round(value, 4),
            "model": arguments.model,
            "steps": arguments.steps,
            "evaluations": len(evaluated) + 1,
            "repeats": arguments.repeats,
        }
        print(json.dumps(line), flush=True)


def quiet_trainer(model: Any, tokenizer: Any, rows: Any, **settings: Any) -> Trainer:
    """A trainer on encoded rows that saves, logs and prints nothing."""
    arguments = TrainingArguments(
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **settings,
    )
    trainer = Trainer(model, arguments, lambda batch: collate(batch, tokenizer), rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(arguments: argparse.Namespace, guarded: bool) -> End:
    """One training from the same start."""
    source = resolve_model(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    set_seed(0)
    lora = LoraConfig(r=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(source), lora)
    rows: Any = encode_rows(load_dataset(DATASET).train, tokenizer, 256)
    with tempfile.TemporaryDirectory() as folder:
        own = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3}
        trainer = quiet_trainer(
            model, tokenizer, rows, output_dir=folder, max_steps=arguments.steps, dataloader_pin_memory=False, **own
        )
        if guarded:
            settings_of_guard = {"judge": "pocket", "benchmark": "pocket-240", "at": arguments.at, "max_tokens": 40}
            Guard(Path(folder) / "guard", mode="off", **settings_of_guard).watch(trainer)
        clock = Clock()
        trainer.add_callback(clock)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    state = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    return End(seconds, clock.steps, save(state))


if __name__ == "__main__":
    main()
