"""LoRA fine-tuning on Tinker, or on any server of its interface.

Conversations are tokenised here, by the model's own chat template, and every step sends one batch. The loss is the mean
over the assistant's tokens of the batch; the optimiser and the course of the learning rate are those of the trainer
`peft`, so that the same settings mean the same training. What Tinker has no setting for is refused.

Every planned step saves weights for sampling, named by a `tinker://` path, and all but the last one a training state.
A checkpoint exists when its `step-N.json` does; the newest names the state that training goes on from, older states are
deleted. A run that goes on sees the same batches in the same order; that the service then computes the very same bits
is not promised by anybody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tinker

from truing.backends import OnCheckpoint, Trainer, stopping
from truing.backends.tinker.client import calling, connected, finished, forget_state, offered_name, tinker_weights
from truing.catalog.datasets import Dataset
from truing.catalog.models import resolve_model
from truing.config import TrainingConfig
from truing.core.conversations import Example, encode_rows
from truing.core.errors import ConfigError, TrainerError, boundary
from truing.core.files import read_checkpoint, write_checkpoint
from truing.core.records import Checkpoint, Run
from truing.core.templates import load_tokenizer

AHEAD = 2
"""Steps that are sent before the result of an earlier one is there, so that the service never waits for us."""
FIXED = {
    "lora_alpha": 32,
    "rslora": False,
    "method": "lora",
    "precision": "auto",
    "quantize": "none",
    "accumulation": 1,
    "gradient_checkpointing": False,
}
"""Settings that Tinker does not have: what it does, and the only values that are taken."""
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "grad_clip_norm": 1.0}
"""The settings of `transformers.Trainer`, and so of the trainer `peft`; Tinker's own defaults differ."""


def learning_rate(config: TrainingConfig, peak: float, step: int) -> float:
    """The learning rate of a step, 1 to `config.steps`: that of `transformers`, whose first step of a warm-up has 0."""
    done, warmup = step - 1, config.warmup_steps
    if done < warmup:
        return peak * done / warmup
    progress = (done - warmup) / max(1, config.steps - warmup)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak if config.schedule == "constant" else peak * (1 - progress)


class TinkerTrainer(Trainer):
    """Makes LoRA checkpoints on Tinker. See `truing.backends.Trainer` for the contract.

    Raises:
        ConfigError: Settings that Tinker does not have.
    """

    def __init__(self, training: TrainingConfig) -> None:
        super().__init__(training)
        wrong = {name: value for name in FIXED if (value := getattr(training, name)) != FIXED[name]}
        if wrong:
            raise ConfigError(
                "Tinker has no setting for this",
                ", ".join(f"{name} {value}" for name, value in wrong.items()),
                ", ".join(f"{name} {FIXED[name]}" for name in wrong)
                + "; adapters are scaled by 32 / rank, as far as known",
                "set " + " and ".join(f"training.{name}: {str(FIXED[name]).lower()}" for name in wrong),
            )

    def train(
        self,
        run: Run,
        dataset: Dataset,
        folder: Path,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train a run; see `truing.backends.Trainer.train`.

        Raises:
            EndpointError: Tinker refuses the key or does not offer the model.
            TrainerError: Training cannot go on.
        """
        stops = stopping(run, on_checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        saved = sorted((read_checkpoint(path) for path in folder.glob("step-*.json")), key=lambda each: each[0].step)
        if any(stops(checkpoint) for checkpoint, _ in saved):
            return
        done, state = (saved[-1][0].step, saved[-1][1]["state"]) if saved else (-1, None)
        if done == self.training.steps:
            return
        with boundary(f"loading the tokenizer of {run.model}", TrainerError):
            tokenizer = load_tokenizer(resolve_model(run.model))
        train = encode_rows(dataset.train, tokenizer, self.training.max_length)
        rows = dataset.loss_rows(self.training.heldout_rows)
        heldout = _Batch(encode_rows(rows, tokenizer, self.training.max_length))
        with connected(TrainerError) as service:
            _Course(self.training, run, folder, service, heldout, state).train(train, done, stops, on_step)


class _Batch:
    """Conversations as the SDK takes them, each token of the assistant with the weight 1 / `tokens`."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.masks = [np.array(row["labels"][1:]) != -100 for row in rows]
        self.tokens = int(sum(mask.sum() for mask in self.masks))
        self.data = [self._datum(row["input_ids"], mask) for row, mask in zip(rows, self.masks, strict=True)]

    def _datum(self, ids: Sequence[int], mask: Any) -> Any:
        shape, weights = [len(mask)], (mask / max(1, self.tokens)).tolist()
        return tinker.Datum(
            model_input=tinker.ModelInput.from_ints(list(ids[:-1])),
            loss_fn_inputs={
                "target_tokens": tinker.TensorData(data=list(ids[1:]), dtype="int64", shape=shape),
                "weights": tinker.TensorData(data=weights, dtype="float32", shape=shape),
            },
        )

    def loss(self, output: Any) -> float:
        """The loss summed over the assistant's tokens, in nats."""
        logprobs = [each.get("logprobs") for each in output.loss_fn_outputs]
        if len(logprobs) == len(self.masks) and all(each is not None for each in logprobs):
            return -sum(float(np.asarray(p.data)[m].sum()) for p, m in zip(logprobs, self.masks, strict=True))
        if "loss:sum" in output.metrics:
            return float(output.metrics["loss:sum"]) * self.tokens
        raise TrainerError(
            "Tinker reports no loss",
            f"metrics {sorted(output.metrics)}",
            "log-probabilities of the tokens, or the metric loss:sum",
            "a newer server or a newer SDK",
        )


@dataclass
class _Course:
    """One run from where it stands to its end."""

    training: TrainingConfig
    run: Run
    folder: Path
    service: Any
    heldout: _Batch
    state: str | None
    """The newest training state, if there is one; training goes on from it."""

    def __post_init__(self) -> None:
        self.name = offered_name(self.service, self.run.model, TrainerError)
        about = {"run": self.run.id[:128]}
        if self.state is not None:
            again = f"remove the folder {self.folder}: the run is then trained from the start"
            with calling(f"loading {self.state}", TrainerError, f"try again; if the state is gone, {again}"):
                resume = self.service.create_training_client_from_state_with_optimizer
                self.client = finished(resume(self.state, user_metadata=about))
            return
        # The published recipes adapt attention and MLP; so does the trainer `peft`.
        settings = {"rank": self.training.lora_rank, "seed": self.run.seed, "train_unembed": False}
        with calling("starting training on Tinker", TrainerError):
            self.client = finished(self.service.create_lora_training_client(self.name, **settings, user_metadata=about))

    def train(
        self, rows: Sequence[Example], done: int, stops: Callable[[Checkpoint], bool], on_step: Callable[[int], None]
    ) -> None:
        """Send the steps that are left, and end early if a checkpoint stops the run.

        Every epoch of the rows is shuffled by the seed, epochs lie end to end; `done` is the number of steps done, -1
        if not even the base is recorded.
        """
        base = Checkpoint(self.run.id, self.run.model, 0, tinker_weights(self.name))
        if done < 0 and stops(self._record(base, self._send_heldout(), None)):
            return
        order = cache(lambda epoch: np.random.default_rng([self.run.seed, epoch]).permutation(len(rows)))
        size, planned = self.training.batch_size, set(self.training.checkpoint_steps())
        under_way: deque[tuple[int, _Batch, Any, Any]] = deque()
        losses: list[tuple[float, int]] = []
        for step in range(max(done, 0) + 1, self.training.steps + 1):
            places = (divmod(place, len(rows)) for place in range((step - 1) * size, step * size))
            under_way.append(self._send(step, _Batch([rows[order(epoch)[place]] for epoch, place in places])))
            saving = self._send_saving(step) if step in planned else None
            while len(under_way) > (0 if saving else AHEAD):
                losses.append(self._finish(*under_way[0]))
                on_step(under_way.popleft()[0])
            if saving:
                checkpoint = self._save(step, saving, losses)
                losses = []
                if stops(checkpoint):
                    return

    def _send(self, step: int, batch: _Batch) -> tuple[int, _Batch, Any, Any]:
        rate = learning_rate(self.training, self.run.learning_rate, step)
        params = tinker.AdamParams(learning_rate=rate, weight_decay=self.training.weight_decay, **_ADAM)
        with calling(f"step {step}", TrainerError):
            loss = self.client.forward_backward(batch.data, "cross_entropy")
            return step, batch, loss, self.client.optim_step(params)

    def _finish(self, step: int, batch: _Batch, loss: Any, optimised: Any) -> tuple[float, int]:
        """Summed loss and tokens of a step, once it is done."""
        with calling(f"step {step}", TrainerError):
            summed = batch.loss(loss.result())
            optimised.result()
        return summed, batch.tokens

    def _send_heldout(self) -> Any:
        """The held-out loss to come; None without rows."""
        if not self.heldout.data:
            return None
        with calling("held-out loss", TrainerError):
            return self.client.forward(self.heldout.data, "cross_entropy")

    def _send_saving(self, step: int) -> tuple[Any, Any, Any]:
        """Weights for sampling, the state unless this is the end, and the held-out loss."""
        with calling(f"saving step {step}", TrainerError):
            weights = self.client.save_weights_for_sampler(f"step-{step}")
            state = self.client.save_state(f"step-{step}") if step < self.training.steps else None
        return weights, state, self._send_heldout()

    def _save(self, step: int, saving: tuple[Any, Any, Any], losses: Sequence[tuple[float, int]]) -> Checkpoint:
        with calling(f"saving step {step}", TrainerError):
            path = saving[0].result().path
            state = None if saving[1] is None else saving[1].result().path
        older = self.state
        checkpoint = Checkpoint(self.run.id, self.run.model, step, tinker_weights(path), path, _mean(losses))
        checkpoint = self._record(checkpoint, saving[2], state)
        if older is not None:
            forget_state(self.service, older)
        return checkpoint

    def _record(self, checkpoint: Checkpoint, loss: Any, state: str | None) -> Checkpoint:
        if loss is not None:
            with calling("held-out loss", TrainerError):
                mean = _mean([(self.heldout.loss(loss.result()), self.heldout.tokens)])
            checkpoint = replace(checkpoint, heldout_loss=mean)
        write_checkpoint(self.folder / f"step-{checkpoint.step}.json", checkpoint, state=state)
        self.state = state
        return checkpoint


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    """The mean loss per token of summed losses with their tokens; NaN without any."""
    tokens = sum(n for _, n in losses)
    return sum(loss for loss, _ in losses) / tokens if tokens else math.nan
