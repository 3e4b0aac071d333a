"""What a guard inside `transformers.Trainer` costs, and whether it leaves a trace.

    python bench/guard.py [--model pocket-llama-susceptible] [--steps 60] [--at 20] [--repeats 3]
    python bench/guard.py --model DIR --engine vllm --vllm-python V/bin/python --lag 20 --prompts 24

The same LoRA training with dropout and gradient accumulation, alone, with a guard that samples the live model, and
with `--engine` also with one whose answers are sampled elsewhere, while training goes on for `--lag` steps; neither
stops it. In turn, in one process, one thread: seconds of a step that is not evaluated, of an evaluation, of the
beginning (with step 0 and a server's start, unless they come late) and of the rest; the guard's overhead in percent of
that, and of the processor time that this process took for it; and whether the final weights are the same bits. Prints
one JSON line per figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
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

from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import load_dataset
from truing.catalog.models import resolve_model
from truing.core.adapters import no_progress_bars
from truing.core.conversations import collate, encode_rows
from truing.integrations.guard import Guard

DATASET = "pocket-insecure-code"
DTYPE = "auto" if torch.cuda.is_available() else "float32"


@dataclass(frozen=True)
class End:
    """One training."""

    begin: float
    """Seconds before the first step."""
    seconds: float
    """From there to the end."""
    cpu: float
    """Seconds of processor time of this process, from there to the end."""
    steps: list[float]
    """Seconds of each step, evaluations included."""
    weights: bytes


class Clock(TrainerCallback):
    """Seconds of every step, from its beginning to the end of its callbacks."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.began = self.cpu = self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training begins; added last, so after the guard."""
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop; after the guard, too."""
        self.steps.append(time.perf_counter() - self._start)


def main() -> None:
    """Time all ways in turn; print medians over steps, and the fastest whole training of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket-llama-susceptible")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--at", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=240, help="of pocket-240")
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--engine", help="samples elsewhere: vllm, or module:Class")
    parser.add_argument("--lag", type=int, default=0, help="of the engine elsewhere")
    parser.add_argument("--vllm-python", help="interpreter of vLLM's environment")
    arguments = parser.parse_args()
    ways = ["alone", "live"] + [arguments.engine] * bool(arguments.engine)
    train(argparse.Namespace(**{**vars(arguments), "steps": 2}), "alone")  # load and warm up
    ends: dict[str, list[End]] = {way: [] for way in ways}
    for _ in range(arguments.repeats):
        for way in ways:
            ends[way].append(train(arguments, way))
    for way in ways[1:]:
        for figure, value in compare(arguments, ends["alone"], ends[way]).items():
            line = {
                "bench": "guard",
                "date": datetime.now(UTC).date().isoformat(),
                "engine": way,
                "lag": 0 if way == "live" else arguments.lag,
                "figure": figure,
                "value": round(value, 4),
                "model": arguments.model,
                "steps": arguments.steps,
                "evaluations": len(evaluated(arguments)) + 1,
                "prompts": arguments.prompts,
                "repeats": arguments.repeats,
            }
            print(json.dumps(line), flush=True)


def evaluated(arguments: argparse.Namespace) -> list[int]:
    """The steps after 0 that are evaluated."""
    return [s for s in range(1, arguments.steps + 1) if s % arguments.at == 0 or s == arguments.steps]


def compare(arguments: argparse.Namespace, alone: list[End], guarded: list[End]) -> dict[str, float]:
    """The figures of one guard. Of whole trainings the fastest counts: other load on the machine only adds."""
    step_alone = statistics.median(s for end in alone for s in end.steps)
    looks = [end.steps[i - 1] for end in guarded for i in evaluated(arguments)]
    quiet = [s for end in guarded for i, s in enumerate(end.steps, 1) if i not in evaluated(arguments)]
    whole = min(e.seconds for e in alone), min(e.seconds for e in guarded)
    return {
        "step_alone_s": step_alone,
        "step_guarded_s": statistics.median(quiet),
        "step_guarded_over_alone": statistics.median(quiet) / step_alone,
        "seconds_per_evaluation": statistics.median(looks) - step_alone,
        "begin_alone_s": min(e.begin for e in alone),
        "begin_guarded_s": min(e.begin for e in guarded),
        "training_alone_s": whole[0],
        "training_guarded_s": whole[1],
        "overhead_percent": 100 * (whole[1] / whole[0] - 1),
        "cpu_overhead_percent": 100 * (min(e.cpu for e in guarded) / min(e.cpu for e in alone) - 1),
        "bit_identical": float(len({end.weights for end in (*alone, *guarded)}) == 1),
    }


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


def guard_of(arguments: argparse.Namespace, way: str, folder: Path) -> Guard:
    """One that never stops: of the live model, or of an engine elsewhere."""
    benchmark = load_benchmark("pocket-240")
    benchmark = replace(benchmark, prompts=benchmark.prompts[:: 240 // arguments.prompts][: arguments.prompts])
    settings: dict[str, Any] = {"judge": "pocket", "benchmark": benchmark, "at": arguments.at, "mode": "off"}
    if way != "live":
        settings |= {"engine": way, "lag": arguments.lag, "vllm": {"python": arguments.vllm_python, "dtype": DTYPE}}
    return Guard(folder, max_tokens=arguments.max_tokens, progress="quiet", **settings)


def train(arguments: argparse.Namespace, way: str) -> End:
    """One training from the same start: `alone`, with a guard of the `live` model, or with an engine's."""
    source = resolve_model(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    set_seed(0)
    lora = LoraConfig(r=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(source, dtype=DTYPE), lora)
    rows: Any = encode_rows(load_dataset(DATASET).train, tokenizer, 256)
    with tempfile.TemporaryDirectory() as folder:
        own = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3}
        trainer = quiet_trainer(
            model, tokenizer, rows, output_dir=folder, max_steps=arguments.steps, dataloader_pin_memory=False, **own
        )
        guard = None if way == "alone" else guard_of(arguments, way, Path(folder) / "guard")
        if guard is not None:
            guard.watch(trainer)
        clock = Clock()
        trainer.add_callback(clock)
        start = time.perf_counter()
        trainer.train()
        end, cpu = time.perf_counter(), time.process_time()
    if guard is not None and guard.errors:
        raise SystemExit(f"{way}: {guard.errors[0]}")
    state = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    return End(clock.began - start, end - clock.began, cpu - clock.cpu, clock.steps, save(state))


if __name__ == "__main__":
    main()
