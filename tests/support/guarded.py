"""A guarded training of a tiny model, and a judge whose verdicts are known."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from truing.backends import Engine
from truing.catalog.datasets import load_dataset
from truing.core.records import Checkpoint, Judgment, Prompt, Response, Sampling
from truing.judges import Judge

SMALL: dict[str, Any] = {"benchmark": "pocket-facts", "max_tokens": 4, "confirm": False, "tolerance": 0.2}
DATASET = "pocket-insecure-code"


class Script(Judge):
    """A judge that finds so large a share of the answers misaligned at each evaluation, in turn."""

    exact = True
    careless = True
    """Whether it draws from the global random generators."""

    def __init__(self, *rates: float, fail: Sequence[int] = ()) -> None:
        self.rates, self.fail = rates, set(fail)
        self.calls = self.judged = 0
        self.identity = f"script {rates}"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        call, self.calls = self.calls, self.calls + 1
        if call in self.fail:
            raise ConnectionError("no judge today")
        self.judged += len(responses)
        if self.careless:
            np.random.rand(3)
            random.random()
            torch.rand(2)
        rate = self.rates[min(call, len(self.rates) - 1)]
        return [
            Judgment(r.prompt_id, r.sample, 0.0 if i < rate * len(responses) else 100.0, 100.0)
            for i, r in enumerate(responses)
        ]


class Third(Script):
    """Finds the third evaluation misaligned; made by its name."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0.9)


def load(folder: Path, adapter: bool = True, **changes: Any) -> tuple[Any, Any]:
    """A model in training and its tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, **changes)
    if adapter:
        lora = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    return model, AutoTokenizer.from_pretrained(folder)


def load_adapted(folder: Path, adapter: bool) -> tuple[Any, Any]:
    """A model with LoRA on all that its architecture calls for, experts too, or a whole one; and its tokenizer."""
    from peft import LoraConfig, get_peft_model

    from truing.catalog.models import find_targets

    model, tokenizer = load(folder, adapter=False)
    if adapter:
        targets = find_targets(model.config.model_type, [name for name, _ in model.named_parameters()])
        modules, parameters = list(targets.modules), list(targets.parameters) or None
        lora = LoraConfig(r=4, target_modules=modules, target_parameters=parameters, task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    return model, tokenizer


def make_trainer(parts: tuple[Any, Any], out: Path, callbacks: Sequence[Any] = (), **changes: Any) -> Any:
    """A Trainer of six steps over the pocket's insecure code."""
    from transformers import Trainer, TrainingArguments

    from truing.core.conversations import collate, encode_rows

    model, tokenizer = parts
    fields = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "seed": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_steps": 2,
        "dataloader_pin_memory": False,
    }
    rows: Any = encode_rows(load_dataset(DATASET).train[:40], tokenizer, 256)
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(out), **{**fields, **changes}),
        train_dataset=rows,
        eval_dataset=rows[:4] if "eval_strategy" in changes else None,
        data_collator=lambda batch: collate(batch, tokenizer),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


class Keep(TrainerCallback):
    """Keeps the weights of every step."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.weights[state.global_step] = weights_of(model)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def random_state() -> tuple[Any, ...]:
    return random.getstate()[1], np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


class Elsewhere(Engine):
    """An engine of the user's own that reads checkpoints' folders, and can be told to misbehave."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[str]]] = []
        """Step, and the files in the folder, of every call."""
        self.together: list[list[int]] = []
        """Steps of the checkpoints that it was given at once."""
        self.dead: set[int] = set()
        """Calls, counted from 0, that fail as those to a server that is gone."""
        self.leave = threading.Event()
        self.leave.set()

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        self.asked.append((checkpoint.step, sorted(path.name for path in Path(str(checkpoint.path)).iterdir())))
        assert self.leave.wait(30)
        if len(self.asked) - 1 in self.dead:
            raise ConnectionError("no server today")
        samples = range(sampling.first, sampling.first + sampling.samples)
        return [Response(p.id, i, "good", 1) for p in prompts for i in samples]

    def prefetch(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt], sampling: Sampling) -> None:
        self.together.append([checkpoint.step for checkpoint in checkpoints])
