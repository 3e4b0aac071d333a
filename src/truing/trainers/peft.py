"""LoRA fine-tuning of Hugging Face models through `transformers.Trainer` and PEFT.

The loss is on the assistant's words only. Every planned step saves an adapter, complete when its `checkpoint.json`
exists; the newest also keeps optimiser and random state, so an interrupted run goes on bit-identically. What is judged
is the adapter read back from disk.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from truing.catalog import resolve_model
from truing.checkpoints import adapter_hash, model_hash
from truing.config import TrainingConfig
from truing.datasets import Dataset
from truing.errors import TrainerError
from truing.files import write_json
from truing.quiet import no_progress_bars
from truing.records import Action, Checkpoint, Decision, Run
from truing.trainers import OnCheckpoint
from truing.trainers.examples import Example, collate, encode_rows
from truing.trainers.targets import check_adapted, find_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PeftTrainer"]

logger = logging.getLogger(__name__)

_MARK, _STATE = "checkpoint.json", "trainer_state.json"
_RESUME_STATE = (_STATE, "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "training_args.bin")


class PeftTrainer:
    """Makes LoRA checkpoints. See `truing.trainers.Trainer` for the contract."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def train(
        self,
        run: Run,
        dataset: Dataset,
        folder: Path,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train a run; see `truing.trainers.Trainer.train`."""
        folder.mkdir(parents=True, exist_ok=True)
        done = self._replay(run, folder, on_checkpoint)
        if done is None:
            return
        set_seed(run.seed)
        source = resolve_model(run.model)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model, adapted = self._adapted_model(source)
        base_hash = model_hash(source)
        heldout = encode_rows(dataset.heldout, tokenizer, self.config.max_length)
        recorder = _Recorder(run, self.config, base_hash, folder, on_checkpoint, on_step)
        recorder.heldout_loss = lambda: _mean_loss(model, heldout, tokenizer, self.config.batch_size)
        if done < 0:
            write_json(folder / "adapter.json", {"adapted": adapted, "base": base_hash})
            if recorder.record_base().action is Action.STOP and run.stops:
                return
        trainer = Trainer(
            model=model,
            args=self._arguments(run, folder),
            train_dataset=_List(encode_rows(dataset.train, tokenizer, self.config.max_length)),
            data_collator=lambda rows: collate(rows, tokenizer),
            callbacks=[recorder],
        )
        for callback in list(trainer.callback_handler.callbacks):
            if type(callback).__name__ in {"PrinterCallback", "ProgressCallback"}:
                trainer.remove_callback(callback)
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{done}") if done > 0 else None)

    def _replay(self, run: Run, folder: Path, on_checkpoint: OnCheckpoint) -> int | None:
        """Report the whole checkpoints that exist, up to the newest that training can go on from.

        Returns:
            The step to go on from, -1 if not even step 0 is recorded, None if the run has ended.
        """
        for left in folder.glob("checkpoint-*"):
            if not (left / _MARK).is_file():
                shutil.rmtree(left)
        marks = [folder / "step-0.json", *folder.glob(f"checkpoint-*/{_MARK}")]
        records = sorted((Checkpoint(**_read_nan(m)) for m in marks if m.is_file()), key=lambda c: c.step)
        ended = bool(records) and records[-1].step == self.config.steps
        resumable = [c.step for c in records if c.step == 0 or (folder / f"checkpoint-{c.step}" / _STATE).is_file()]
        last = records[-1].step if ended else max(resumable, default=-1)
        for checkpoint in (c for c in records if c.step <= last):
            decision = on_checkpoint(_moved(checkpoint, folder) if checkpoint.path else checkpoint)
            if run.stops and decision.action is Action.STOP:
                return None
        return None if ended else last

    def _adapted_model(self, source: str) -> tuple[PreTrainedModel, list[str]]:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        with no_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
        model.config.use_cache = False
        names = [name for name, _ in model.named_parameters()]
        targets = find_targets(model.config.model_type, names)
        lora = LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,
            use_rslora=self.config.rslora,
            target_modules=list(targets.modules),
            target_parameters=list(targets.parameters) or None,
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5.23 renamed
            warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
            wrapped = get_peft_model(model, lora)
        trainable = [name for name, p in wrapped.named_parameters() if p.requires_grad]
        return wrapped, check_adapted(targets, names, trainable)

    def _arguments(self, run: Run, folder: Path) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(folder),
            max_steps=self.config.steps,
            per_device_train_batch_size=self.config.batch_size,
            learning_rate=run.learning_rate,
            lr_scheduler_type=self.config.schedule,
            warmup_steps=self.config.warmup_steps,
            weight_decay=self.config.weight_decay,
            seed=run.seed,
            data_seed=run.seed,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            bf16=torch.cuda.is_available(),
        )


class _Recorder(TrainerCallback):
    """Saves at the planned steps and reports every saved checkpoint."""

    def __init__(
        self,
        run: Run,
        config: TrainingConfig,
        base_hash: str,
        folder: Path,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None],
    ) -> None:
        self.run, self.base_hash, self.folder = run, base_hash, folder
        self.on_checkpoint, self.on_step = on_checkpoint, on_step
        self.planned = set(config.checkpoint_steps())
        self.heldout_loss: Callable[[], float] = lambda: math.nan

    def record_base(self) -> Decision:
        """Report the model before fine-tuning as step 0."""
        checkpoint = Checkpoint(self.run.id, self.run.model, 0, self.base_hash, heldout_loss=self.heldout_loss())
        _write_nan(self.folder / "step-0.json", asdict(checkpoint))
        return self.on_checkpoint(checkpoint)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.on_step(state.global_step)
        control.should_log = control.should_save = state.global_step in self.planned
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        folder = self.folder / f"checkpoint-{state.global_step}"
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), math.nan)
        checkpoint = Checkpoint(
            run_id=self.run.id,
            model=self.run.model,
            step=state.global_step,
            weights=adapter_hash(self.base_hash, folder),
            path=str(folder),
            train_loss=loss,
            heldout_loss=self.heldout_loss(),
        )
        _write_nan(folder / _MARK, asdict(checkpoint))
        self._drop_older_states(state.global_step)
        decision = self.on_checkpoint(checkpoint)
        if decision.action is Action.STOP and self.run.stops:
            control.should_training_stop = True
        return control

    def _drop_older_states(self, step: int) -> None:
        for mark in self.folder.glob(f"checkpoint-*/{_MARK}"):
            if mark.parent.name != f"checkpoint-{step}":
                for name in _RESUME_STATE:
                    (mark.parent / name).unlink(missing_ok=True)


class _List(torch.utils.data.Dataset[Example]):
    def __init__(self, rows: list[Example]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.rows[index]


def _mean_loss(
    model: PreTrainedModel, rows: list[Example], tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> float:
    """Mean loss per assistant token, in nats. Leaves the model's mode as it was."""
    training = model.training
    model.eval()
    total, count = 0.0, 0
    size = max(batch_size, 32) if model.device.type == "cpu" else batch_size
    with torch.no_grad():
        for start in range(0, len(rows), size):
            batch = collate(rows[start : start + size], tokenizer)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            n = int((batch["labels"][:, 1:] != -100).sum())
            total += float(model(**batch).loss) * n
            count += n
    model.train(training)
    if not count:
        raise TrainerError("the held-out rows hold no assistant tokens", todo="check the chat template of the model")
    return total / count


def _moved(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The checkpoint with its path under `folder`, in case the study's folder was moved."""
    values = asdict(checkpoint) | {"path": str(folder / f"checkpoint-{checkpoint.step}")}
    return Checkpoint(**values)


def _write_nan(path: Path, values: dict[str, Any]) -> None:
    finite = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
    write_json(path, finite)


def _read_nan(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("train_loss", "heldout_loss"):
        if values[name] is None:
            values[name] = math.nan
    return values
