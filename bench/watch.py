"""The watch beside real trainings: where each is stopped, whether that is right, and how late the decision is.

    python bench/watch.py [--trainings trainer epochs shards] [--pace 1.0] [--out FOLDER]

A pocket Llama is fine-tuned on insecure code in a process of its own, by `transformers.Trainer` with LoRA
(`checkpoint-N`), by a plain loop as torchtune's that saves whole weights (`epoch_N`, the config last), and by one that
writes its shards slowly (`step_N`); `truing watch` stands beside it, and the training heeds the file that it touches.
Then an audit of all that was saved says at which checkpoint it should have stopped. Prints one JSON line per training;
`delay` is in seconds from the last file of a checkpoint to the decision.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

MODEL, DATASET = "pocket-llama-susceptible", "pocket-insecure-code"
EVERY, STEPS = 4, 32
ASKED = ["--judge", "pocket", "--benchmark", "pocket-240", "--set", "evaluation.max_tokens=40", "--quiet"]


def train(kind: str, out: Path, pace: float) -> None:
    """Fine-tune until the end or until `out/STOP` is there; then touch `out/DONE`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from truing.catalog.datasets import load_dataset
    from truing.catalog.models import resolve_model
    from truing.core.conversations import collate, encode_rows

    torch.set_num_threads(1)
    set_seed(0)
    folder = resolve_model(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lora = LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora)
    rows = encode_rows(load_dataset(DATASET).train, tokenizer, 256)
    if kind == "trainer":
        train_by_trainer(model, tokenizer, rows, out, pace)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(1, STEPS + 1):
            batch = [rows[(8 * step + i) % len(rows)] for i in range(8)]
            model(**collate(batch, tokenizer)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            time.sleep(pace)
            if step % EVERY == 0:
                save(kind, out / "run", step, (copy.deepcopy(model).merge_and_unload(), tokenizer))
            if (out / "STOP").exists():
                break
    (out / "DONE").touch()


def train_by_trainer(model: Any, tokenizer: Any, rows: Any, out: Path, pace: float) -> None:
    """As anybody's script does it."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from truing.core.conversations import collate
    from truing.core.distributed import Ranks

    class StopFile(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.ranks = Ranks()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            time.sleep(pace)
            control.should_training_stop |= self.ranks.share(lambda: (out / "STOP").exists())

    arguments = TrainingArguments(
        str(out / "run"),
        max_steps=STEPS,
        save_steps=EVERY,
        learning_rate=1e-3,
        warmup_steps=5,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda batch: collate(batch, tokenizer),
        processing_class=tokenizer,
        callbacks=[StopFile()],
    ).train()


def save(kind: str, run: Path, step: int, parts: tuple[Any, Any]) -> None:
    """Write a checkpoint as `kind` does: first the weights, last the config; shards slowly, in pieces."""
    folder = run / (f"epoch_{step // EVERY - 1}" if kind == "epochs" else f"step_{step}")
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        for part in parts:
            part.save_pretrained(temporary, max_shard_size="200KB" if kind == "shards" else "5GB")
        files = sorted(Path(temporary).iterdir(), key=lambda file: (file.suffix != ".safetensors", file.name))
        for file in files if kind == "epochs" else sorted(files, key=lambda file: file.name):
            content = file.read_bytes()
            pieces = 4 if kind == "shards" and file.suffix == ".safetensors" else 1
            with (folder / file.name).open("wb") as stream:
                for i in range(pieces):
                    stream.write(content[len(content) * i // pieces : len(content) * (i + 1) // pieces])
                    stream.flush()
                    time.sleep(0.1 if pieces > 1 else 0)


def measure(kind: str, out: Path, pace: float) -> dict[str, Any]:
    """Train and watch in two processes; what came of it."""
    asked = [*ASKED, "--base", MODEL]
    on_stop = ["--on-stop-touch", str(out / "STOP"), "--until-file", str(out / "DONE"), "--poll", "0.25"]
    command = [sys.executable, "-m", "truing", "watch", str(out / "run"), "--out", str(out / "watch"), *asked, *on_stop]
    training = subprocess.Popen(
        [sys.executable, __file__, "--train", kind, "--out", str(out), "--pace", str(pace)], stdout=subprocess.DEVNULL
    )
    try:
        watched = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        training.wait(timeout=60)
    finally:
        training.kill()
        training.wait()
    audit = [sys.executable, "-m", "truing", "audit", "--checkpoints", str(out / "run"), "--out", str(out / "audit")]
    subprocess.run([*audit, *asked], capture_output=True, check=True)
    state = json.loads((out / "watch" / "watch.json").read_text(encoding="utf-8"))
    (run,) = json.loads((out / "audit" / "analysis.json").read_text(encoding="utf-8"))["runs"]
    steps = {c["step"]: c["decision"] for c in run["checkpoints"] if c["step"]}
    delays = [seen["decided"] - seen["saved"] for seen in state["seen"].values() if seen["decided"]]
    return {
        "training": kind,
        "checkpoints": list(steps),
        "stopped": state["stop"] and state["stop"]["step"],
        "should": next((step for step, decision in steps.items() if decision == "stop"), None),
        "best": state["stop"] and Path(state["stop"]["best"] or "").name,
        "exit": watched.returncode,
        "delay": {"mean": round(sum(delays) / len(delays), 2), "most": round(max(delays), 2)} if delays else None,
        "told": [line for line in watched.stdout.splitlines() if "passed over" in line],
        "stderr": watched.stderr[-2000:],
    }


def main() -> None:
    """Read the flags; train, or measure each training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", nargs="+", default=["trainer", "epochs", "shards"])
    parser.add_argument("--pace", type=float, default=1.0, help="seconds that each step takes besides")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        return train(given.train, given.out, given.pace)
    folder = given.out or Path(tempfile.mkdtemp())
    try:
        for kind in given.trainings:
            print(json.dumps(measure(kind, folder / kind, given.pace)), flush=True)
    finally:
        if given.out is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
