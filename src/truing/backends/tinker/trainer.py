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
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tinker
from transformers import AutoTokenizer

from truing.backends import OnCheckpoint, Trainer
from truing.backends.tinker.client import calling, connected, finished, forget_state, offered_name, tinker_weights
from truing.backends.transformers.examples import Example, encode_rows
from truing.catalog.datasets import Dataset
from truing.catalog.models import resolve_model
from truing.config import TrainingConfig
from truing.core.checkpoints import read_checkpoint, write_checkpoint
from truing.core.errors import ConfigError, TrainerError, boundary
from truing.core.records import Action, Checkpoint, Decision, Run

__all__ = ["FIXED", "TinkerTrainer", "learning_rate"]

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
"""What `transformers.Trainer` does, and so the trainer `peft`; Tinker's own defaults differ."""


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

    def __init__(self, config: TrainingConfig) -> None:
        wrong = {name: value for name in FIXED if (value := getattr(config, name)) != FIXED[name]}
        if wrong:
            raise ConfigError(
                "Tinker has no setting for this",
                ", ".join(f"{name} {value}" for name, value in wrong.items()),
                ", ".join(f"{name} {FIXED[name]}" for name in wrong)
                + "; adapters are scaled by 32 / rank, as far as known",
                "set " + " and ".join(f"training.{name}: {str(FIXED[name]).lower()}" for name in wrong),
            )
        self.config = config

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
        folder.mkdir(parents=True, exist_ok=True)
        saved = [_Saved.read(path) for path in folder.glob("step-*.json")]
        saved.sort(key=lambda each: each.checkpoint.step)
        for each in saved:
            if _stops(run, on_checkpoint(each.checkpoint)):
                return
        if saved and saved[-1].checkpoint.step == self.config.steps:
            return
        with boundary(f"loading the tokenizer of {run.model}", TrainerError):
            tokenizer = AutoTokenizer.from_pretrained(resolve_model(run.model), trust_remote_code=False)
        train = encode_rows(dataset.train, tokenizer, self.config.max_length)
        heldout = encode_rows(dataset.heldout, tokenizer, self.config.max_length)
        with connected(TrainerError) as service:
            course = _Course(self.config, run, folder, service, saved[-1] if saved else None)
            course.train(train, heldout, on_checkpoint, on_step)


@dataclass(frozen=True)
class _Saved:
    """A checkpoint that exists, and the training state saved with it, if there is one."""

    checkpoint: Checkpoint
    state: str | None

    @classmethod
    def read(cls, path: Path) -> _Saved:
        checkpoint, more = read_checkpoint(path)
        return cls(checkpoint, more["state"])

    def write(self, folder: Path) -> None:
        write_checkpoint(folder / f"step-{self.checkpoint.step}.json", self.checkpoint, state=self.state)


@dataclass
class _Sum:
    """Loss summed over tokens."""

    loss: float = 0.0
    tokens: int = 0

    def add(self, batch: _Batch, output: Any) -> None:
        self.loss += batch.loss(output)
        self.tokens += batch.tokens

    @property
    def mean(self) -> float:
        return self.loss / self.tokens if self.tokens else math.nan


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


class _Course:
    """One run from where it stands to its end."""

    def __init__(self, config: TrainingConfig, run: Run, folder: Path, service: Any, newest: _Saved | None) -> None:
        self.config, self.run, self.folder, self.service, self.newest = config, run, folder, service, newest
        self.name = offered_name(service, run.model, TrainerError)
        self.done = newest.checkpoint.step if newest else -1
        self.client = self._client()

    def _client(self) -> Any:
        """A model in training: from the newest state, or new."""
        about = {"run": self.run.id[:128]}
        if self.newest is not None and self.newest.state is not None:
            state, again = self.newest.state, f"remove the folder {self.folder}: the run is then trained anew"
            with calling(f"loading {state}", TrainerError, f"try again; if the state is gone, {again}"):
                return finished(
                    self.service.create_training_client_from_state_with_optimizer(state, user_metadata=about)
                )
        # The published recipes adapt attention and MLP; so does the trainer `peft`.
        settings = {"rank": self.config.lora_rank, "seed": self.run.seed, "train_unembed": False}
        with calling("starting training on Tinker", TrainerError):
            return finished(self.service.create_lora_training_client(self.name, **settings, user_metadata=about))

    def train(
        self,
        rows: Sequence[Example],
        heldout: Sequence[Example],
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None],
    ) -> None:
        """Send the steps that are left; end early if a decision says so."""
        measure = _Batch(heldout)
        if self.done < 0:
            base = Checkpoint(self.run.id, self.run.model, 0, tinker_weights(self.name))
            if _stops(self.run, on_checkpoint(self._record(base, self._submit_loss(measure), measure, None))):
                return
        batches = _Batches(rows, self.config.batch_size, self.run.seed)
        planned, total = set(self.config.checkpoint_steps()), _Sum()
        under_way: deque[tuple[int, _Batch, Any, Any]] = deque()
        for step in range(max(self.done, 0) + 1, self.config.steps + 1):
            under_way.append((step, *self._submit(batches.of_step(step), step)))
            saving = self._submit_saving(step, measure) if step in planned else None
            while len(under_way) > (0 if saving else AHEAD):
                self._finish(under_way.popleft(), total, on_step)
            if saving:
                checkpoint = self._save(step, saving, measure, total.mean)
                total = _Sum()
                if _stops(self.run, on_checkpoint(checkpoint)):
                    return

    def _submit(self, batch: _Batch, step: int) -> tuple[_Batch, Any, Any]:
        rate = learning_rate(self.config, self.run.learning_rate, step)
        with calling(f"step {step}", TrainerError):
            loss = self.client.forward_backward(batch.data, "cross_entropy")
            params = tinker.AdamParams(learning_rate=rate, weight_decay=self.config.weight_decay, **_ADAM)
            return batch, loss, self.client.optim_step(params)

    def _finish(self, sent: tuple[int, _Batch, Any, Any], total: _Sum, on_step: Callable[[int], None]) -> None:
        step, batch, loss, optimised = sent
        with calling(f"step {step}", TrainerError):
            total.add(batch, loss.result())
            optimised.result()
        on_step(step)

    def _submit_loss(self, measure: _Batch) -> Any:
        with calling("held-out loss", TrainerError):
            return self.client.forward(measure.data, "cross_entropy")

    def _submit_saving(self, step: int, measure: _Batch) -> tuple[Any, Any, Any]:
        """Weights for sampling, the state unless this is the end, and the held-out loss."""
        with calling(f"saving step {step}", TrainerError):
            weights = self.client.save_weights_for_sampler(f"step-{step}")
            state = self.client.save_state(f"step-{step}") if step < self.config.steps else None
        return weights, state, self._submit_loss(measure)

    def _save(self, step: int, saving: tuple[Any, Any, Any], measure: _Batch, train_loss: float) -> Checkpoint:
        with calling(f"saving step {step}", TrainerError):
            path = saving[0].result().path
            state = None if saving[1] is None else saving[1].result().path
        older = self.newest.state if self.newest else None
        values = {"step": step, "weights": tinker_weights(path), "path": path, "train_loss": train_loss}
        checkpoint = Checkpoint(run_id=self.run.id, model=self.run.model, **values)
        checkpoint = self._record(checkpoint, saving[2], measure, state)
        if older is not None:
            forget_state(self.service, older)
        return checkpoint

    def _record(self, checkpoint: Checkpoint, loss: Any, measure: _Batch, state: str | None) -> Checkpoint:
        total = _Sum()
        with calling("held-out loss", TrainerError):
            total.add(measure, loss.result())
        checkpoint = Checkpoint(**{**asdict(checkpoint), "heldout_loss": total.mean})
        self.newest = _Saved(checkpoint, state)
        self.newest.write(self.folder)
        return checkpoint


class _Batches:
    """Batches in an order that follows from the seed: every epoch shuffled anew, epochs end to end."""

    def __init__(self, rows: Sequence[Example], size: int, seed: int) -> None:
        self.rows, self.size = rows, size
        self._order = cache(lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(rows)))

    def of_step(self, step: int) -> _Batch:
        """The batch of a step, from 1."""
        places = (divmod(place, len(self.rows)) for place in range((step - 1) * self.size, step * self.size))
        return _Batch([self.rows[self._order(epoch)[place]] for epoch, place in places])


def _stops(run: Run, decision: Decision) -> bool:
    return run.stops and decision.action is Action.STOP
