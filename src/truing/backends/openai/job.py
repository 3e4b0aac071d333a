"""The job of one run, as a state machine whose state is a file.

    (nothing) -> files uploaded -> job made -> validating_files -> queued -> running -> succeeded | failed | cancelled

`job.json` is written after every step, before the next one, so that a later process attaches to the job wherever it
stands. `events.jsonl` holds the provider's events, oldest first. Nothing that is paid for is made twice: a job carries
its key as metadata, and before each attempt at making one the jobs are searched for that key, so that a job whose
making was answered by nothing (a cut line, a kill) is found again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from truing.backends.endpoint.client import MARK, UPLOAD, Endpoint, find_marked
from truing.backends.endpoint.completer import OpenAICompleter
from truing.backends.endpoint.faults import scrub
from truing.backends.endpoint.journal import Paid
from truing.backends.openai.data import Upload
from truing.core.errors import CapReached, EndpointError, TrainerError
from truing.core.files import content_key, write_json

T = TypeVar("T")
logger = logging.getLogger(__name__)

_OVER, _GONE = ("succeeded", "failed", "cancelled"), ("failed", "cancelled")
"""The states of a job that last, and those of one that is of no use any more."""
_EVENT = ("id", "created_at", "level", "type", "message", "data")
"""Fields of an event that are kept."""
_LOOKS = 20
"""Times that a new model is asked whether it is loaded, `poll` seconds apart."""
_REFUSED = ("moderation", "usage polic", "safety", "content polic", "violat", "unsafe")
"""Words by which a failed job says that the provider will not have the data or the model."""


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
    """The content of `job.json`: what is wanted of the provider, and how far that is."""

    key: str
    """Hash of all that shapes the result: address, model, data, hyperparameters, seed."""
    model: str
    """The provider's name of the base model."""
    seed: int
    hyperparameters: dict[str, int | float]
    shows: str = "checkpoints of the ends of the last three epochs only, as the provider keeps no others"
    training_file: str | None = None
    validation_file: str | None = None
    estimate: dict[str, int | float | None] = field(default_factory=dict)
    """`tokens` (expected, all epochs), `most_tokens`, `dollars` (expected), `most_dollars`; None: no known price."""
    job: str | None = None
    status: str = ""
    error: dict[str, str | None] | None = None
    trained_tokens: int | None = None
    dollars: float | None = None
    settled: bool = False
    """Whether the bill is in the journal."""
    complete: bool = False
    """Whether the job is over and all its checkpoints are here."""
    checkpoints: list[Seen] = field(default_factory=list)


class Job:
    """The job of one run.

    `wanted` is a new record: what is wanted of the provider. The endpoint is opened once there is something to ask.
    """

    def __init__(
        self, wanted: Record, train: Upload, heldout: Upload | None, folder: Path, completer: OpenAICompleter
    ) -> None:
        self._train, self._heldout, self._completer = train, heldout, completer
        self._path, self._saved = folder / "job.json", dict[str, Any]()
        self._told_in, self._events = folder / "events.jsonl", list[dict[str, Any]]()
        for line in self._told_in.read_text(encoding="utf-8").splitlines() if self._told_in.is_file() else ():
            with suppress(ValueError):  # torn by a kill: it will be asked for again
                self._events.append(json.loads(line))
        self.record = wanted
        if self._path.is_file():
            self.record = TypeAdapter(Record).validate_python(json.loads(self._path.read_text(encoding="utf-8")))
        if self.record.key != wanted.key:
            raise TrainerError(
                f"{folder} holds the fine-tuning job of other settings",
                f"key {self.record.key}",
                f"key {wanted.key} (address, model, data, epochs, batch, multiplier, seed)",
                "use the settings of before (endpoint.base_url too), or another folder",
            )

    def start(self) -> None:
        """Bring about that there is a job: go on with the one there is, or make it.

        Raises:
            TrainerError: The provider refuses it, or refused it before.
            CapReached: The caps leave no room.
        """
        record = self.record
        if record.status == "failed" and _is_final(record):
            raise self._failure()
        if record.status in _GONE:  # a fault that may have passed, or cancelled by someone else: again
            record.job, record.status, record.error = None, "", None
            record.settled, record.checkpoints = False, []
            self._events.clear()
            self._told_in.unlink(missing_ok=True)
        if record.job is None:
            self._make()

    def watch(self, on_step: Callable[[int], None], keeps: Callable[[int], bool]) -> Iterator[Seen]:
        """Wait for the job, and give each new checkpoint as it can be used, in order of steps.

        `on_step` is called with each new step that the provider tells of; only checkpoints of steps that it `keeps` are
        given.

        Raises:
            TrainerError: The job failed, or someone else cancelled it.
        """
        while True:
            job = self._look()
            self._follow(on_step)
            if job.status not in _GONE:
                yield from self._new_checkpoints(job, keeps)
            if job.status in _OVER:
                break
            self._wait()
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
        try:
            self._note(self._ask(lambda sdk: sdk.fine_tuning.jobs.cancel(record.job)))
        except TrainerError:
            if self._look().status not in _OVER:
                raise
        while record.status not in _OVER:
            self._wait()
            self._look()

    @cached_property
    def _endpoint(self) -> Endpoint:
        return self._completer.endpoint

    def _ask(
        self, call: Callable[[Any], Awaitable[T]], what: str = "the fine-tuning interface failed", timeout: float = 0.0
    ) -> T:
        return self._endpoint.ask(call, TrainerError, what, timeout or self._endpoint.config.timeout)

    def _wait(self) -> None:
        time.sleep(self._endpoint.config.poll)

    def _make(self) -> None:
        """Find or make the job; the most that it can cost is leased before anything is sent."""
        record, usage, epochs = self.record, self._train.usage, int(self.record.hyperparameters["n_epochs"])
        tokens, most = round(usage.expected * epochs), usage.most * epochs  # validation is not billed
        dollars = {"dollars": self._dollars(tokens), "most_dollars": self._dollars(most)}
        record.estimate = {"tokens": tokens, "most_tokens": most, **dollars}
        job = self._ask(self._find)
        if job is None:
            self._lease(dollars["dollars"], dollars["most_dollars"])
            logger.info("fine-tuning %s: about %s", record.model, record.estimate)
            self._save()
            record.training_file = self._upload(self._train)
            record.validation_file = self._upload(self._heldout) if self._heldout else None
            self._save()
            order: dict[str, Any] = {
                "model": record.model,
                "training_file": record.training_file,
                "method": {"type": "supervised", "supervised": {"hyperparameters": record.hyperparameters}},
                "seed": record.seed,
                "suffix": f"truing-{record.key[:8]}",
                "metadata": {MARK: record.key},
                **({"validation_file": record.validation_file} if record.validation_file else {}),
            }

            async def find_or_make(sdk: Any) -> Any:
                return await self._find(sdk) or await sdk.fine_tuning.jobs.create(**order)

            job = self._ask(find_or_make, "the provider refuses the fine-tuning job")
        self._note(job)

    def _dollars(self, tokens: int) -> float | None:
        """The price of so many trained tokens; None if it is not known."""
        price = self._endpoint.prices.training(self.record.model)
        return None if price is None else tokens * price / 1e6

    def _lease(self, expected: float | None, most: float | None) -> None:
        """Lease the most dollars that the job can cost, under the caps of the study's calls; it counts as one call.

        Raises:
            CapReached: A cap leaves no room for it.
            ConfigError: A cap on the cost, and the price is not known.
        """
        model, journal = self.record.model, self._endpoint.journal
        if self._endpoint.config.max_cost is not None and most is None:
            raise self._endpoint.unpriced(f"training {model}", "a model with `train`, there or in the catalogue,")
        if not journal.take([most or 0.0], f"training-{self.record.key}"):
            reached = journal.reached()
            dollars = f"about ${expected:,.2f}, at most ${most:,.2f}" if most else "at an unknown price"
            raise CapReached(
                f"the study's caps leave no room for a fine-tuning job of {model}",
                f"the job: {dollars} (a token is at least a byte); so far {reached.got}",
                reached.allowed,
                "raise the cap and run the same command again; nothing was begun",
            )

    async def _find(self, sdk: Any) -> Any | None:
        """The job of our key, unless it failed or was cancelled; None if there is none."""
        key = self.record.key
        return await find_marked(sdk.fine_tuning.jobs.list(limit=100, metadata={MARK: key}), key, _GONE)

    def _upload(self, upload: Upload) -> str:
        """The id of a file of this name and size: found, or uploaded."""

        async def find_or_make(sdk: Any) -> str:
            async for file in sdk.files.list(purpose="fine-tune"):
                if (file.filename, file.bytes) == (upload.name, len(upload.content)) and file.status != "error":
                    return str(file.id)
            return str((await sdk.files.create(file=(upload.name, upload.content), purpose="fine-tune")).id)

        return self._ask(find_or_make, timeout=UPLOAD)

    def _look(self) -> Any:
        """The job as it is now, written down."""
        name = self.record.job
        try:
            job = self._ask(lambda sdk: sdk.fine_tuning.jobs.retrieve(name))
        except EndpointError as error:
            if "status 404" not in error.got:
                raise
            todo = "delete the run's job.json to begin a new job"
            raise TrainerError(f"the fine-tuning job {name} is gone", error.got, todo=todo) from error
        self._note(job)
        return job

    def _note(self, job: Any) -> None:
        """Write down what the provider says of the job; settle the bill when it is over."""
        record, error = self.record, job.error
        record.job, record.status, record.trained_tokens = job.id, job.status, job.trained_tokens
        if error is not None and error.message:
            record.error = {"code": error.code, "message": self._scrub(error.message)[:2000], "param": error.param}
        if job.status in _OVER and not record.settled:
            self._settle(job)
        self._save()

    def _settle(self, job: Any) -> None:
        """Write down what the job came to, once, and give its lease back."""
        record, tokens = self.record, job.trained_tokens
        paid: list[Paid] = []
        if tokens:
            record.dollars = self._dollars(tokens)
            paid = [Paid(record.model, _name("training", job.id), content_key(job.id), tokens, 0, record.dollars)]
        elif tokens is None and job.status != "failed":  # the provider does not say: up to the most
            paid = [Paid(record.model, cost=record.estimate.get("most_dollars"))]
        else:
            record.dollars = self._dollars(0)  # refused before it was trained
        self._endpoint.journal.write(paid, "training", (f"training-{record.key}", 0, 0.0), once=True)
        record.settled = True

    def _follow(self, on_step: Callable[[int], None]) -> None:
        """Keep the events that are new, and tell of new steps."""
        known, last = {event["id"] for event in self._events}, max(self._losses("train_loss"), default=0)

        async def fetch(sdk: Any) -> list[Any]:
            new = []
            async for event in sdk.fine_tuning.jobs.list_events(self.record.job, limit=100):  # newest first
                if event.id in known:
                    break
                new.append(event)
            return new[::-1]

        for event in self._ask(fetch):
            values = {name: getattr(event, name, None) for name in _EVENT}
            with self._told_in.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
            self._events.append(values)
            if event.level != "info":
                logger.warning("%s: %s", self.record.job, self._scrub(event.message))
            if (told := _told(values, "train_loss")) is not None and told[0] > last:
                last = told[0]
                on_step(last)

    def _losses(self, name: str) -> dict[int, float]:
        """Step -> loss, as the events tell: `train_loss`, or `full_valid_loss` on the whole validation file."""
        return dict(told for event in self._events if (told := _told(event, name)) is not None)

    def _mean_loss(self, after: int, to: int) -> float | None:
        """Mean over the steps' training losses; None if none was told."""
        some = [loss for step, loss in self._losses("train_loss").items() if after < step <= to]
        return math.fsum(some) / len(some) if some else None

    def _new_checkpoints(self, job: Any, keeps: Callable[[int], bool]) -> Iterator[Seen]:
        async def fetch(sdk: Any) -> list[Any]:
            return [each async for each in sdk.fine_tuning.jobs.checkpoints.list(job.id, limit=100)]

        known = {seen.step for seen in self.record.checkpoints}
        listed = sorted(self._ask(fetch), key=lambda checkpoint: checkpoint.step_number)
        steps = known | {int(c.step_number) for c in listed}
        shown = [self._seen(c, steps) for c in listed]
        if job.status == "succeeded" and job.fine_tuned_model not in {None, *(s.model for s in shown)}:
            before = max(steps, default=0)
            last = max(self._losses("train_loss"), default=before + 1)
            if last not in steps:
                heldout = self._losses("full_valid_loss").get(last)
                shown.append(Seen(last, job.fine_tuned_model, self._mean_loss(before, last), heldout, {}))
        for seen in shown:
            if seen.step not in known and keeps(seen.step):
                self._wait_until_ready(seen.model)
                self.record.checkpoints.append(seen)
                self._save()
                yield seen

    def _seen(self, checkpoint: Any, steps: set[int]) -> Seen:
        metrics = {k: v for k, v in checkpoint.metrics.model_dump().items() if _is_number(v)}
        step = int(checkpoint.step_number)
        loss = self._mean_loss(max((s for s in steps if s < step), default=0), step)
        return Seen(
            step,
            str(checkpoint.fine_tuned_model_checkpoint),
            metrics.get("train_loss") if loss is None else loss,
            metrics.get("full_valid_loss", self._losses("full_valid_loss").get(step)),
            metrics,
        )

    def _wait_until_ready(self, model: str) -> None:
        """Ask a new model for one token until it answers, which may take minutes; its answer is on the bill."""
        body: Any = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        body[self._endpoint.max_tokens_field] = 1
        for _ in range(_LOOKS):
            try:
                usage = self._ask(lambda sdk: sdk.chat.completions.create(**body)).usage
                read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 1)
                cost = self._endpoint.prices.cost(model, (read, 0, written))
                paid = Paid(model, _name("ready", model), content_key(model), read, written, cost)
                self._endpoint.journal.write([paid], "live")
                return
            except EndpointError as error:
                if "status 404" not in error.got:
                    raise
                got = error.got
            self._wait()
        todo = "run the same command again: it goes on"
        raise TrainerError(f"the fine-tuned model {model} does not answer", got, todo=todo)

    def _failure(self) -> TrainerError:
        error, name = self.record.error or {}, self.record.job
        text = f"{error.get('code') or 'no code'}: {error.get('message') or 'no message'}"
        if _is_refused(self.record):
            return TrainerError(
                f"the provider refuses to fine-tune on these data or to serve the result (job {name})",
                text,
                "data that its moderation lets pass",
                "use other data or a model of your own; to ask again all the same, delete the run's job.json",
            )
        todo = "fix the data, then delete the run's job.json" if _is_final(self.record) else "run the same again"
        return TrainerError(f"the fine-tuning job {name} failed", text, todo=todo)

    def _scrub(self, text: str) -> str:
        return scrub(text, *self._endpoint.access.secrets)

    def _save(self) -> None:
        values = asdict(self.record)
        if values != self._saved:
            write_json(self._path, values)
            self._saved = values


def _told(event: Mapping[str, Any], loss: str) -> tuple[int, float] | None:
    """The step that an event tells of, and a loss there."""
    data = event.get("data")
    if isinstance(data, dict) and _is_number(data.get("step")) and _is_number(data.get(loss)):
        return int(data["step"]), data[loss]
    return None


def _name(what: str, of: str) -> bytes:
    """The key of an entry in the journal that is no call of a user's."""
    return hashlib.sha256(f"{what}\0{of}".encode()).digest()[:16]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_refused(record: Record) -> bool:
    error = record.error or {}
    text = f"{error.get('code')} {error.get('message')}".lower()
    return any(word in text for word in _REFUSED)


def _is_final(record: Record) -> bool:
    """Tell whether a job that failed would fail again: the provider names what is wrong, or will not have it."""
    return bool((record.error or {}).get("param")) or _is_refused(record)
