"""The job of one run, as a state machine whose state is a file.

    (nothing) -> files uploaded -> job made -> validating_files -> queued -> running -> succeeded | failed | cancelled

`job.json` is written after every step, before the next one, so that a later process attaches to the job wherever it
stands. `events.jsonl` holds the provider's events, oldest first.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from truing.backends.endpoint.faults import scrub
from truing.backends.openai.events import Events, is_number
from truing.backends.openai.provider import GONE, OVER, Provider
from truing.backends.openai.purse import Estimate, Purse
from truing.backends.openai.rows import Upload
from truing.core.errors import TrainerError
from truing.core.files import write_json

__all__ = ["Job", "Order", "Record", "Seen"]

logger = logging.getLogger(__name__)

_REFUSED = ("moderation", "usage polic", "safety", "content polic", "violat", "unsafe")
"""Words by which a failed job says that the provider will not have the data or the model."""
_SHOWS = "checkpoints of the ends of the last three epochs only, as the provider keeps no others"


@dataclass(frozen=True)
class Order:
    """What is wanted of the provider."""

    key: str
    """Hash of all that shapes the result: address, model, data, hyperparameters, seed."""
    model: str
    """The provider's name of the base model."""
    hyperparameters: dict[str, float]
    seed: int
    train: Upload
    heldout: Upload | None
    keeps: Callable[[int], bool]
    """Whether the provider keeps the checkpoint of a step."""


@dataclass(frozen=True)
class Seen:
    """A checkpoint that the provider shows."""

    step: int
    model: str
    """The provider's name of it."""
    train_loss: float | None
    heldout_loss: float | None
    metrics: dict[str, float]


@dataclass
class Record:
    """What `job.json` holds."""

    key: str
    model: str
    seed: int
    hyperparameters: dict[str, float]
    shows: str = _SHOWS
    training_file: str | None = None
    validation_file: str | None = None
    estimate: dict[str, Any] = field(default_factory=dict)
    job: str | None = None
    status: str = ""
    error: dict[str, str | None] | None = None
    trained_tokens: int | None = None
    dollars: float | None = None
    settled: bool = False
    """Whether the bill is in the books."""
    cancelled_by_us: bool = False
    complete: bool = False
    """Whether the job is over and all its checkpoints are here."""
    checkpoints: list[dict[str, Any]] = field(default_factory=list)


class Job:
    """The job of one run.

    Args:
        order: What is wanted.
        folder: Of the run.
        provider: Makes the requests, once there are any to make.
        purse: The caps and the books.
        poll: Seconds between two looks.
    """

    def __init__(self, order: Order, folder: Path, provider: Callable[[], Provider], purse: Purse, poll: float) -> None:
        self._order, self._folder, self._connect, self._purse, self._poll = order, folder, provider, purse, poll
        self._path = folder / "job.json"
        self._opened: Provider | None = None
        self._saved: dict[str, Any] = {}
        self.record = _read(self._path) or Record(order.key, order.model, order.seed, dict(order.hyperparameters))
        if self.record.key != order.key:
            raise TrainerError(
                f"{folder} holds the fine-tuning job of other settings",
                f"key {self.record.key}",
                f"key {order.key} (address, model, data, epochs, batch, multiplier, seed)",
                "use the settings of before (endpoint.base_url too), or another folder",
            )
        self._events = Events(folder / "events.jsonl")

    @property
    def seen(self) -> list[Seen]:
        """The checkpoints that are known already, by step."""
        return [Seen(**values) for values in self.record.checkpoints]

    def start(self) -> None:
        """Bring about that there is a job: go on with the one there is, or make it.

        Raises:
            TrainerError: The provider refuses it, or refused it before.
            CapReached: The caps leave no room.
        """
        record = self.record
        if record.status == "failed" and _is_final(record):
            raise self._failure()
        if record.status in GONE:  # a fault that may have passed, or cancelled by someone else: anew
            record.job, record.status, record.error = None, "", None
            record.settled, record.checkpoints = False, []
            self._events.forget()
        if record.job is None:
            self._make()

    def watch(self, on_step: Callable[[int], None]) -> Iterator[Seen]:
        """Wait for the job, and give each new checkpoint as it can be used, in order of steps.

        Raises:
            TrainerError: The job failed, or someone else cancelled it.
        """
        while True:
            job = self._look()
            self._follow(on_step)
            if job.status not in GONE:
                yield from self._new_checkpoints(job)
            if job.status in OVER:
                break
            time.sleep(self._poll)
        if job.status == "failed":
            raise self._failure()
        if job.status == "cancelled":
            raise TrainerError(
                f"the fine-tuning job {self.record.job} was cancelled by someone else",
                todo="run the same command again to begin a new one",
            )
        if not self.record.checkpoints:
            raise TrainerError(f"the fine-tuning job {self.record.job} succeeded, but shows no model")
        self.record.complete = True
        self._save()

    def cancel(self) -> None:
        """End the job, if there is one that is not over, and settle its bill. Its checkpoints stay."""
        record = self.record
        if record.job is None or record.settled:
            return
        record.cancelled_by_us = True
        self._save()
        self._note(self._provider.cancel(record.job))
        while record.status not in OVER:
            time.sleep(self._poll)
            self._look()

    def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            self._opened.close()

    @property
    def _provider(self) -> Provider:
        if self._opened is None:
            self._opened = self._connect()
        return self._opened

    def _make(self) -> None:
        order, record, purse = self._order, self.record, self._purse
        estimate: Estimate = purse.estimate(order.train.usage, int(order.hyperparameters["n_epochs"]))
        record.estimate = asdict(estimate)
        provider = self._provider
        if (found := provider.find(order.key)) is not None:
            self._note(found)
            return
        purse.reserve(order.key, estimate)
        logger.info("fine-tuning %s: about %d tokens, $%s", order.model, estimate.tokens, estimate.dollars)
        self._save()
        record.training_file = provider.upload(order.train)
        record.validation_file = provider.upload(order.heldout) if order.heldout else None
        self._save()
        wanted: dict[str, Any] = {
            "model": order.model,
            "training_file": record.training_file,
            "method": {"type": "supervised", "supervised": {"hyperparameters": order.hyperparameters}},
            "seed": order.seed,
            "suffix": f"truing-{order.key[:8]}",
        }
        if record.validation_file is not None:
            wanted["validation_file"] = record.validation_file
        self._note(provider.make(order.key, wanted))

    def _look(self) -> Any:
        job = self._provider.look(str(self.record.job))
        self._note(job)
        return job

    def _note(self, job: Any) -> None:
        """Write down what the provider says of the job; settle the bill when it is over."""
        record = self.record
        record.job, record.status, record.trained_tokens = job.id, job.status, job.trained_tokens
        error = job.error
        if error is not None and error.message:
            key = self._provider.access.key
            record.error = {"code": error.code, "message": scrub(error.message, key)[:2000], "param": error.param}
        if job.status in OVER and not record.settled:
            tokens = job.trained_tokens
            if tokens is None and job.status == "failed":
                tokens = 0  # refused before it was trained
            most = record.estimate.get("most_dollars")
            record.dollars = self._purse.settle(self._order.key, job.id, tokens, most)
            record.settled = True
        self._save()

    def _follow(self, on_step: Callable[[int], None]) -> None:
        for event in self._provider.events(str(self.record.job), self._events.knows):
            step = self._events.add(event)
            if event.level != "info":
                logger.warning("%s: %s", self.record.job, scrub(event.message, self._provider.access.key))
            if step is not None:
                on_step(step)

    def _new_checkpoints(self, job: Any) -> Iterator[Seen]:
        known = {c["step"] for c in self.record.checkpoints}
        listed = self._provider.checkpoints(job.id)
        steps = known | {int(c.step_number) for c in listed}
        shown = [self._seen(c, steps) for c in listed]
        if job.status == "succeeded" and job.fine_tuned_model not in {None, *(s.model for s in shown)}:
            last = self._events.last_step or max(steps, default=0) + 1
            if last not in steps:
                loss = self._events.mean_loss(max(steps, default=0), last)
                shown.append(Seen(last, job.fine_tuned_model, loss, self._events.full_losses.get(last), {}))
        for seen in shown:
            if seen.step not in known and self._order.keeps(seen.step):
                answer = self._provider.wait_until_ready(seen.model)
                usage = answer.usage
                self._purse.note_call(
                    seen.model, *((usage.prompt_tokens, usage.completion_tokens) if usage else (0, 1))
                )
                self.record.checkpoints.append(asdict(seen))
                self._save()
                yield seen

    def _seen(self, checkpoint: Any, steps: set[int]) -> Seen:
        metrics = {k: v for k, v in checkpoint.metrics.model_dump().items() if is_number(v)}
        step = int(checkpoint.step_number)
        loss = self._events.mean_loss(max((s for s in steps if s < step), default=0), step)
        return Seen(
            step,
            str(checkpoint.fine_tuned_model_checkpoint),
            metrics.get("train_loss") if loss is None else loss,
            metrics.get("full_valid_loss", self._events.full_losses.get(step)),
            metrics,
        )

    def _failure(self) -> TrainerError:
        error = self.record.error or {}
        text = f"{error.get('code') or 'no code'}: {error.get('message') or 'no message'}"
        name = self.record.job
        if _is_refused(self.record):
            return TrainerError(
                f"the provider refuses to fine-tune on these data or to serve the result (job {name})",
                text,
                "data that its moderation lets pass",
                "use other data or a model of your own; to ask again all the same, delete the run's job.json",
            )
        todo = "mend the data, then delete the run's job.json" if _is_final(self.record) else "run the same again"
        return TrainerError(f"the fine-tuning job {name} failed", text, todo=todo)

    def _save(self) -> None:
        values = asdict(self.record)
        if values != self._saved:
            write_json(self._path, values)
            self._saved = values


def _is_refused(record: Record) -> bool:
    error = record.error or {}
    text = f"{error.get('code')} {error.get('message')}".lower()
    return any(word in text for word in _REFUSED)


def _is_final(record: Record) -> bool:
    """Whether a job that failed would fail again: the provider names what is wrong, or will not have it."""
    return bool((record.error or {}).get("param")) or _is_refused(record)


def _read(path: Path) -> Record | None:
    return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
