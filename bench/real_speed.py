"""What a real chat model costs on this device: sampling, judging, and a guarded training, as one table.

    python bench/real_speed.py MODEL [--part sampling judging guard] [--answers 240 960] [--tokens 200] [--steps 100]

MODEL is a folder of a chat model in Hugging Face format (`make real` makes one). Sampling: the 240 questions of
broad-240, one answer each or several, ended by the model; ours and `generate` with the same model, all of its answers
in one call, its prompts sorted by length, in turn; tokens that were generated, ends not counted. A first turn warms up
and is told apart, for on a GPU kernels are chosen and some compiled at every new shape. vLLM takes part where it is
installed. Judging: `bench/judging.py --local`. Guard: LoRA (r 16, every linear layer) on 2,000 rows, batches of 16,
with and without a guard that evaluates every 50 steps by the same model as judge and never stops; percent of training.

Prints one JSON line per figure, with the device.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import AutoTokenizer

from truing.backends.transformers.answers import sample_answers
from truing.catalog.benchmarks import load_benchmark
from truing.core.adapters import load_model, no_progress_bars
from truing.core.records import Sampling
from truing.core.templates import encode_prompt

PARTS = ("sampling", "judging", "guard")
DEVICE = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def say(figure: str, value: float, **more: Any) -> None:
    """One figure as a JSON line."""
    line = {"bench": "real_speed", "date": datetime.now(UTC).date().isoformat(), "device": DEVICE, "figure": figure}
    print(json.dumps({**line, "value": round(value, 3), **more}), flush=True)


def sampling(arguments: argparse.Namespace) -> None:
    """Tokens per second of ours, of `generate`, and of vLLM where there is one."""
    encoded = transformers_here(arguments)
    gc.collect()
    torch.cuda.empty_cache()
    if importlib.util.find_spec("vllm") is None:
        say("vLLM is not installed here", 0.0)
    else:
        vllm(arguments, encoded)


def transformers_here(arguments: argparse.Namespace) -> list[list[int]]:
    """Time ours and `generate` in turn; returns the prompts' token ids."""
    model, tokenizer = load_model(arguments.model), AutoTokenizer.from_pretrained(arguments.model)
    prompts = load_benchmark("broad-240").prompts[: arguments.prompts]
    encoded = [ids for p in prompts if not isinstance(ids := encode_prompt(tokenizer, p, 4096), str)]

    def ours(samples: int) -> int:
        found = sample_answers(model, tokenizer, "bench", prompts, Sampling(samples, 1.0, arguments.tokens, 0))
        return sum(answer.n_tokens for answer in found)

    def generate(samples: int) -> int:
        batch = tokenizer.pad({"input_ids": sorted(encoded, key=len)}, return_tensors="pt", padding_side="left")
        with torch.inference_mode():
            out = model.generate(
                **batch.to(model.device),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                num_return_sequences=samples,
                max_new_tokens=arguments.tokens,
                pad_token_id=tokenizer.pad_token_id,
            )[:, batch["input_ids"].shape[1] :]
        ends = torch.isin(out, torch.tensor(model.generation_config.eos_token_id, device=out.device))
        return int((ends.cumsum(1) == 0).sum())

    contenders: dict[str, Callable[[int], int]] = {"ours": ours, "generate": generate}
    for answers in arguments.answers:
        for turn in range(1 + arguments.repeats):
            for name, call in contenders.items():
                start = time.perf_counter()
                tokens = call(max(1, answers // len(prompts)))
                seconds = time.perf_counter() - start
                say(
                    "tokens per second",
                    tokens / seconds,
                    contender=name,
                    answers=answers,
                    turn=turn,
                    seconds=round(seconds, 2),
                )
    if torch.cuda.is_available():
        say("peak memory, GiB", torch.cuda.max_memory_allocated() / 2**30, dtype=str(model.dtype))
    return encoded


def vllm(arguments: argparse.Namespace, encoded: list[list[int]]) -> None:
    """Tokens per second of vLLM in this process, from prompts that are token ids."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found, unused-ignore]

    model = LLM(arguments.model, max_model_len=2048)
    for answers in arguments.answers:
        for turn in range(1 + arguments.repeats):
            start = time.perf_counter()
            settings = SamplingParams(n=max(1, answers // len(encoded)), max_tokens=arguments.tokens, temperature=1.0)
            out = model.generate([{"prompt_token_ids": ids} for ids in encoded], settings, use_tqdm=False)
            seconds = time.perf_counter() - start
            tokens = sum(len(choice.token_ids) for each in out for choice in each.outputs)
            say(
                "tokens per second",
                tokens / seconds,
                contender="vLLM",
                answers=answers,
                turn=turn,
                seconds=round(seconds, 2),
            )


def judging(arguments: argparse.Namespace) -> None:
    """Calls per second to the model as judge."""
    from judging import judge_here  # type: ignore[import-not-found, unused-ignore]

    for _ in range(1 + arguments.repeats):
        judge_here(arguments.model, arguments.responses)


def guard(arguments: argparse.Namespace) -> None:
    """Seconds of a training with and without a guard, and what an evaluation costs in percent of the training."""
    train(argparse.Namespace(**{**vars(arguments), "steps": 2}), guarded=False)  # warm up
    alone, _ = train(arguments, guarded=False)
    guarded, evaluations = train(arguments, guarded=True)
    say("training alone, s", alone, steps=arguments.steps)
    say("training guarded, s", guarded, steps=arguments.steps, evaluations=evaluations)
    each = (guarded - alone) / evaluations  # that of step 0 and the judge's own measurement included
    say("seconds per evaluation", each, prompts=arguments.prompts)
    say("guard's overhead, percent of training", 100 * each * (evaluations - 1) / alone, every=arguments.every)


def train(arguments: argparse.Namespace, guarded: bool) -> tuple[float, int]:
    """One training from the same start: seconds and evaluations."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from guard import quiet_trainer  # type: ignore[import-not-found, unused-ignore]
    from truing.catalog.datasets import load_dataset
    from truing.config import JudgeConfig
    from truing.core.conversations import encode_rows
    from truing.integrations.guard import Guard

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    set_seed(0)
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    with warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype), lora)
    told = load_dataset("pocket-insecure-code").train
    rows: Any = encode_rows([told[i % len(told)] for i in range(arguments.rows)], tokenizer, 256)
    benchmark = load_benchmark("broad-240")
    asked = replace(benchmark, prompts=benchmark.prompts[: arguments.prompts])
    with tempfile.TemporaryDirectory() as folder:
        own = {"per_device_train_batch_size": arguments.batch, "learning_rate": 1e-4}
        trainer = quiet_trainer(model, tokenizer, rows, output_dir=folder, max_steps=arguments.steps, **own)
        watching = None
        if guarded:
            watching = Guard(
                Path(folder) / "guard",
                judge=JudgeConfig(model=arguments.judge or arguments.model),
                benchmark=asked,
                at=arguments.every,
                max_tokens=arguments.tokens,
                mode="off",
                confirm=False,
                preflight={"on_fail": "undecided"},
            )
            watching.watch(trainer)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        return seconds, len(watching.records) if watching else 0


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a chat model")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=1, help="turns after the first, which warms up")
    parser.add_argument("--answers", type=int, nargs="+", default=[240, 960])
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--tokens", type=int, default=200, help="most tokens of an answer")
    parser.add_argument("--responses", type=int, default=160, help="labelled answers that are judged")
    parser.add_argument("--judge", help="folder of the guard's judge; the model itself if not given")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=50, help="steps from one evaluation to the next")
    arguments = parser.parse_args()
    for part in arguments.part:
        {"sampling": sampling, "judging": judging, "guard": guard}[part](arguments)


if __name__ == "__main__":
    main()
