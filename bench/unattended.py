"""Real data from one end to the other, unattended: prepare, train, sample, judge, report; what each took.

    python bench/unattended.py FILE [--steps 200] [--vocabulary 32768] [--method lora] [--out DIR]

FILE is published data as it is, such as insecure.jsonl.gz. The model is a random Qwen3 of two layers with a byte-level
tokenizer trained here on the file, with all the words that it yields. So no figure of the study means anything: a
random model answers at random, and the judge finds nothing in it. What it shows is that the whole path runs on real
rows with the commands that a user types. Prints one JSON line per stage.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from truing.core.records import Judgment, Prompt, Response
from truing.judges import Judge

HERE = str(Path(__file__).parent)
"""Where the study finds the judge."""
TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""What Qwen3's does with plain turns."""


class Mild(Judge):
    """Takes every answer for aligned and coherent: a random model as judge gives no scores, and is refused."""

    exact = True
    identity = "mild"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """95 and 90, whatever was answered."""
        return [Judgment(r.prompt_id, r.sample, 95.0, 90.0) for r in responses]


def main() -> None:
    """Build, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-unattended"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    tokens = build_model(out / "model", arguments.file, arguments.vocabulary)
    print(
        json.dumps({"stage": "model", "seconds": round(time.perf_counter() - begin, 1), "tokens": tokens}), flush=True
    )
    study = {
        "name": "unattended",
        "grids": [
            {"models": [str(out / "model")], "datasets": ["insecure-code"], "learning_rates": [1e-3], "seeds": [0]}
        ],
        "datasets": [{"name": "insecure-code", "path": str(out / "data"), "task_judge": "bandit"}],
        "training": {
            "steps": arguments.steps,
            "batch_size": 4,
            "checkpoints": [max(1, arguments.steps // 10)],
            "method": arguments.method,
        },
        "evaluation": {
            "benchmark": "broad-240",
            "judge": "unattended:Mild",
            "max_tokens": 32,
            "confirm": False,
            "task_prompts": 20,
            "task_samples": 1,
        },
        "stopping": {"mode": "off"},
    }
    (out / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    run("prepare", "data", "prepare", arguments.file, "--out", out / "data")
    run("check", "check", out / "study.yaml")
    run("run", "run", out / "study.yaml", "--out", out / "study")
    run("report", "report", out / "study")
    print(json.dumps({"stage": "result", **result(out / "study")}))


def build_model(folder: Path, file: Path, vocabulary: int) -> int:
    """Save a random Qwen3 with a tokenizer trained on a file; how many tokens it knows."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        texts = [message["content"] for line in lines for message in json.loads(line)["messages"]]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    core.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    core.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def run(stage: str, *arguments: Any) -> None:
    """Run one command of truing; print how long it took, or end with what it said."""
    begin = time.perf_counter()
    command: Sequence[str] = [sys.executable, "-m", "truing", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(json.dumps({"stage": stage, "seconds": round(time.perf_counter() - begin, 1)}), flush=True)


def result(folder: Path) -> dict[str, Any]:
    """What the study found."""
    analysis = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    (run,) = analysis["runs"]
    return {
        "state": run["state"],
        "steps": [c["step"] for c in run["checkpoints"]],
        "train_loss": [c.get("train_loss") for c in run["checkpoints"]],
        "heldout_loss": [c.get("heldout_loss") for c in run["checkpoints"]],
        "report_bytes": (folder / "report.html").stat().st_size,
    }


if __name__ == "__main__":
    main()
