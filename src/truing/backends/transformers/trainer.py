"""Fine-tuning of Hugging Face models through `transformers.Trainer`: LoRA by PEFT, or all weights.

The loss is on the assistant's words only. Every planned step saves an adapter, or the whole model, complete when its
`checkpoint.json` exists; the newest also keeps optimiser and random state, so an interrupted run goes on
bit-identically. What is judged is read back from disk.

Under a launcher (torchrun, accelerate) every rank trains; rank 0 alone writes down, evaluates and decides, and the
others wait for its decision.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers import Trainer as HfTrainer

from truing.backends import OnCheckpoint, Trainer, stopping
from truing.backends.transformers.loading import is_half, load_trainable
from truing.catalog.datasets import Dataset
from truing.catalog.models import resolve_model
from truing.config import TrainingConfig
from truing.core.conversations import Example, collate, encode_rows
from truing.core.distributed import Ranks, start_ranks
from truing.core.errors import TrainerError
from truing.core.files import read_checkpoint, write_checkpoint, write_json
from truing.core.records import Checkpoint, Run
from truing.core.templates import load_tokenizer
from truing.core.weights import checkpoint_hash, model_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST_ROWS, _MOST_LOGITS = 32, 2**28
_MARK, _STATE = "checkpoint.json", "trainer_state.json"
_RESUME_STATE = (
    _STATE,
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "training_args.bin",
    "optimizer.bin",
    "pytorch_model_fsdp.bin",
)


class PeftTrainer(Trainer):
    """Makes checkpoints: adapters, or whole models. See `truing.backends.Trainer` for the contract."""

    spreads = True

    def train(
        self,
        run: Run,
        dataset: Dataset,
        folder: Path,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train a run; see `truing.backends.Trainer.train`. Under a launcher all ranks call it, with one folder."""
        ranks = start_ranks()
        folder.mkdir(parents=True, exist_ok=True)
        stops = stopping(run, on_checkpoint)
        done = ranks.share(lambda: self._replay(folder, stops))
        if done is None:
            return
        set_seed(run.seed)
        source = resolve_model(run.model)
        tokenizer = load_tokenizer(source)
        held = dataset.loss_rows(self.training.heldout_rows)
        train, heldout = (encode_rows(side, tokenizer, self.training.max_length) for side in (dataset.train, held))
        arguments = self._arguments(run, folder, ranks.world)
        model, trained = load_trainable(run.model, source, self.training)
        base_hash = ranks.share(lambda: model_hash(source))
        recorder = _Recorder(run, self.training, folder, ranks, base_hash, stops, on_step)
        if self.training.heldout_rows:
            recorder.heldout_loss = lambda: _mean_loss(model, heldout, tokenizer, self.training)
        trainer = HfTrainer(
            model=model,
            args=arguments,
            train_dataset=train,
            data_collator=lambda rows: collate(rows, tokenizer),
            callbacks=[recorder],
        )
        _settle(trainer)
        if done < 0:
            record = {"method": self.training.method, "adapted": trained, "base": base_hash}
            ranks.share(lambda: write_json(folder / "adapter.json", record))
            if recorder.record_base(trainer.is_fsdp_enabled):
                return
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{done}") if done > 0 else None)

    def _replay(self, folder: Path, stops: Callable[[Checkpoint], bool]) -> int | None:
        """Report the whole checkpoints that exist, up to the newest that training can go on from.

        Returns:
            The step to go on from, -1 if not even step 0 is recorded, None if the run has ended.
        """
        for left in folder.glob("checkpoint-*"):
            if not (left / _MARK).is_file():
                shutil.rmtree(left)
        marks = [folder / "step-0.json", *folder.glob(f"checkpoint-*/{_MARK}")]
        records = sorted((read_checkpoint(m)[0] for m in marks if m.is_file()), key=lambda c: c.step)
        ended = bool(records) and records[-1].step == self.training.steps
        resumable = [c.step for c in records if c.step == 0 or (folder / f"checkpoint-{c.step}" / _STATE).is_file()]
        last = records[-1].step if ended else max(resumable, default=-1)
        for checkpoint in (c for c in records if c.step <= last):
            here = str(folder / f"checkpoint-{checkpoint.step}")  # the study's folder may have been moved
            if stops(replace(checkpoint, path=here) if checkpoint.path else checkpoint):
                return None
        return None if ended else last

    def _arguments(self, run: Run, folder: Path, world: int) -> TrainingArguments:
        batch, parts = self.training.batch_size, world * self.training.accumulation
        if batch % parts:
            raise TrainerError(
                "the batch cannot be shared out",
                f"batch_size {batch} over {world} processes x {self.training.accumulation} accumulated",
                f"a multiple of {parts}",
                "change training.batch_size or training.accumulation, or start another number of processes",
            )
        if parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING"):
            raise TrainerError(  # it renames modules, and of an adapter nothing would be saved
                "FSDP's own activation checkpointing cannot be used here",
                "fsdp_activation_checkpointing: true",
                "that of the study, which does the same",
                "launch without it, and set training.gradient_checkpointing: true",
            )
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=self.training.steps,
            per_device_train_batch_size=batch // parts,
            gradient_accumulation_steps=self.training.accumulation,
            activation_checkpointing=self.training.gradient_checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False},
            learning_rate=run.learning_rate,
            lr_scheduler_type=self.training.schedule,
            warmup_steps=self.training.warmup_steps,
            weight_decay=self.training.weight_decay,
            seed=run.seed,
            data_seed=run.seed,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            bf16=is_half(self.training),
            use_cpu=not torch.cuda.is_available(),
            ddp_find_unused_parameters=False,
        )
        if world == 1 and arguments.n_gpu > 1:
            arguments._n_gpu = 1  # else the batch would be that of every GPU; several GPUs are for a launcher
        return arguments


@dataclass(eq=False)
class _Recorder(TrainerCallback):
    """Saves at the planned steps and reports every saved checkpoint; on all ranks alike."""

    run: Run
    config: TrainingConfig
    folder: Path
    ranks: Ranks
    base_hash: str
    stops: Callable[[Checkpoint], bool]
    """Reports a checkpoint; true if it ends the run."""
    on_step: Callable[[int], None]
    heldout_loss: Callable[[], float] = lambda: math.nan

    def __post_init__(self) -> None:
        self.planned = set(self.config.checkpoint_steps())

    def record_base(self, sharded: bool) -> bool:
        """Report the model before fine-tuning as step 0; no held-out loss where it is yet to be spread over GPUs."""
        loss = math.nan if sharded else self.heldout_loss()
        checkpoint = Checkpoint(self.run.id, self.run.model, 0, self.base_hash, heldout_loss=loss)

        def record() -> bool:
            write_checkpoint(self.folder / "step-0.json", checkpoint)
            return self.stops(checkpoint)

        return self.ranks.share(record)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.ranks.is_first:
            self.on_step(state.global_step)
        control.should_log = control.should_save = state.global_step in self.planned
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        # The loss is the mean over the steps since the last checkpoint: it is logged at checkpoints only.
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), math.nan)
        heldout = self.heldout_loss()
        self.ranks.wait()  # every rank has written its random state
        if self.ranks.share(lambda: self._record(int(state.global_step), float(loss), heldout)):
            control.should_training_stop = True
        return control

    def _record(self, step: int, train_loss: float, heldout_loss: float) -> bool:
        folder = self.folder / f"checkpoint-{step}"
        checkpoint = Checkpoint(
            run_id=self.run.id,
            model=self.run.model,
            step=step,
            weights=checkpoint_hash(self.base_hash, folder),
            path=str(folder),
            train_loss=train_loss,
            heldout_loss=heldout_loss,
        )
        write_checkpoint(folder / _MARK, checkpoint)
        self._drop_older_states(step)
        return self.stops(checkpoint)

    def _drop_older_states(self, step: int) -> None:
        for mark in self.folder.glob(f"checkpoint-*/{_MARK}"):
            if mark.parent.name != f"checkpoint-{step}":
                for pattern in _RESUME_STATE:
                    for left in mark.parent.glob(pattern):
                        left.unlink()


def _settle(trainer: HfTrainer) -> None:
    """Quiet, and with whole weights at every checkpoint, also where the launcher asked for sharded ones."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in {"PrinterCallback", "ProgressCallback"}:
            trainer.remove_callback(callback)
    if trainer.is_fsdp_enabled:
        plugin = trainer.accelerator.state.fsdp_plugin
        plugin.state_dict_config = plugin.optim_state_dict_config = None  # else those of sharded weights stay
        plugin.set_state_dict_type("FULL_STATE_DICT")


def _mean_loss(
    model: PreTrainedModel, rows: list[Example], tokenizer: PreTrainedTokenizerBase, config: TrainingConfig
) -> float:
    """Mean loss per assistant token, in nats. Leaves the model's mode as it was."""
    training = model.training
    model.eval()
    total, count = 0.0, 0
    half = torch.autocast(model.device.type, torch.bfloat16) if is_half(config) else nullcontext()
    with torch.no_grad(), half:
        for some in _batches(rows, model.config.get_text_config().vocab_size):
            batch = collate(some, tokenizer)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            n = int((batch["labels"][:, 1:] != -100).sum())
            total += float(model(**batch).loss) * n
            count += n
    model.train(training)
    if not count:
        raise TrainerError("the held-out rows hold no assistant tokens", todo="check the chat template of the model")
    return total / count


def _batches(rows: list[Example], vocabulary: int) -> Iterator[list[Example]]:
    """The rows, short ones first, in batches whose logits stay below a gigabyte."""
    batch: list[Example] = []
    for row in sorted(rows, key=lambda row: len(row["input_ids"])):
        if batch and (len(batch) == _MOST_ROWS or (len(batch) + 1) * len(row["input_ids"]) * vocabulary > _MOST_LOGITS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
