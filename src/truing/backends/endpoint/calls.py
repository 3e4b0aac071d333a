"""Live calls: paced, retried, written to the journal, and only then handed over.

    advance(run, requests) -> queue -> at most `pace.limit` tasks -> attempts -> journal (a few at a time) -> run

Everything here runs in one event loop. Invariants:
- A call holds its place among those under way until it is in the journal, so that a kill loses at most
  `concurrency` answers that were paid for.
- Equal requests under way are one call.
- A run's results come out in the order of its requests, whatever the order of the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from truing.backends.endpoint.address import max_tokens_field
from truing.backends.endpoint.attempts import attempt
from truing.backends.endpoint.budget import Budget
from truing.backends.endpoint.faults import Trouble
from truing.backends.endpoint.journal import Journal, Paid
from truing.backends.endpoint.pacing import Pace, backoff
from truing.backends.endpoint.pricing import Prices
from truing.backends.endpoint.transport import Transport
from truing.backends.endpoint.wire import (
    Reply,
    call_key,
    dump_result,
    encode,
    load_result,
    most_tokens,
    parse_reply,
    refusal,
)
from truing.config import EndpointConfig
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import EngineError, TruingError, boundary

__all__ = ["Caller", "Run"]

_FLUSH_AFTER = 0.004
"""Seconds that finished calls are gathered before they are written."""
_FLUSH_AT = 64
_HAND_OVER_AFTER = 0.05
"""Seconds after which a run hands over what it has."""
_GRACE = 2.0
"""Seconds that calls under way may take to finish when all is closed."""
_GIVE_UP_AFTER = 32
"""Calls that fail in a row before all stop."""


@dataclass(eq=False, slots=True)
class _Job:
    key: bytes
    request: ChatRequest
    content: bytes
    most: float
    """The most that the call can cost, in dollars; 0 if unknown."""
    watchers: list[tuple[Run, int]]


@dataclass(eq=False)
class Run:
    """The results of one sequence of requests, in order. Belongs to the loop of its caller."""

    results: dict[int, ChatResult] = field(default_factory=dict)
    fed: int = 0
    taken: int = 0
    pending: int = 0
    """Requests that are waited for."""
    failure: Exception | None = None
    full: int = 64
    """Results in order that are worth handing over at once."""
    ready: int = 0
    """Results in order, from `taken` on."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, index: int, result: ChatResult) -> None:
        """Put a result in its place."""
        self.results[index] = result
        self.pending -= 1
        while self.taken + self.ready in self.results:
            self.ready += 1
        if self.ready >= self.full or not self.pending:
            self.changed.set()

    def fail(self, error: Exception) -> None:
        """No result for one of the requests, and none for later ones."""
        self.failure = self.failure or error
        self.pending -= 1
        if not self.pending:
            self.changed.set()

    def take(self) -> list[ChatResult]:
        """The results that are there, in order."""
        some = [self.results.pop(i) for i in range(self.taken, self.taken + self.ready)]
        self.taken, self.ready = self.taken + len(some), 0
        return some


class Caller:
    """Makes the calls of one process to one endpoint. Belongs to an event loop.

    Args:
        config: How.
        transport: Where.
        journal: What is finished.
        budget: What may be spent.
        prices: What it costs.
    """

    def __init__(
        self, config: EndpointConfig, transport: Transport, journal: Journal, budget: Budget, prices: Prices
    ) -> None:
        self._config, self._transport, self._journal = config, transport, journal
        self._budget, self._prices = budget, prices
        self._field = max_tokens_field(config, transport.access.address)
        self.pace = Pace(config.concurrency)
        self._queue: deque[_Job] = deque()
        self._jobs: dict[bytes, _Job] = {}
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished: list[tuple[_Job, ChatResult]] = []
        self._to_write: list[Paid] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._failed_in_a_row, self._any_answered = 0, False

    async def advance(self, run: Run, requests: Sequence[ChatRequest]) -> list[ChatResult]:
        """Feed further requests and wait for results: all that are ready, in order; none when all are out.

        Raises:
            TruingError: No further call can be made; everything that was finished has been handed over.
        """
        if run.failure is None:
            self._feed(run, requests)
        if run.pending and run.ready < run.full:
            run.changed.clear()
            try:
                async with asyncio.timeout(_HAND_OVER_AFTER):
                    await run.changed.wait()
            except TimeoutError:
                while run.pending and not run.ready:
                    run.changed.clear()
                    run.full = 1
                    await run.changed.wait()
                run.full = 64
        if not run.ready and run.failure is not None:
            raise run.failure
        return run.take()

    async def close(self) -> None:
        """Begin no further call, wait a moment for those under way (they are paid for), write what is finished."""
        self._queue.clear()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._flush()
        self._budget.close()
        await self._transport.close()

    def forget(self, run: Run) -> None:
        """Nobody waits for a run any more: what it has not begun is dropped."""
        kept: deque[_Job] = deque()
        for job in self._queue:
            if any(other is not run for other, _ in job.watchers):
                kept.append(job)
            else:
                self._jobs.pop(job.key, None)
        self._queue = kept

    def _feed(self, run: Run, requests: Sequence[ChatRequest]) -> None:
        keyed = []
        for request in requests:
            content = encode(request, self._field)
            keyed.append((call_key(self._transport.identity, content, request.sample), request, content))
        found = self._journal.find([key for key, _, _ in keyed])
        for key, request, content in keyed:
            index, run.fed, run.pending = run.fed, run.fed + 1, run.pending + 1
            if key in found:
                run.deliver(index, load_result(found[key]))
            elif (reason := refusal(request, self._config.prefill)) is not None:
                run.deliver(index, ChatResult(None, error=reason))
            elif key in self._jobs:
                self._jobs[key].watchers.append((run, index))
            else:
                most = self._prices.cost(request.model, most_tokens(request)) or 0.0
                self._jobs[key] = job = _Job(key, request, content, most, [(run, index)])
                self._queue.append(job)
        self._pump()

    def _pump(self) -> None:
        """Start as many calls as may be under way."""
        while self._queue and self._under_way < self.pace.limit:
            job = self._queue[0]
            try:
                room = self._budget.take(job.most)
                refused: TruingError | None = None if room or self._under_way else self._budget.reached()
            except TruingError as error:
                room, refused = False, error
            if refused is not None:
                self._halt(self._queue.popleft(), refused)
            if not room:
                break  # what is under way may leave some
            self._queue.popleft()
            self._under_way += 1
            task = asyncio.get_running_loop().create_task(self._call(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not self._queue and not self._under_way:
            self._budget.give_back()

    async def _call(self, job: _Job) -> None:
        try:
            reply = await self._attempts(job)
            self._failed_in_a_row, self._any_answered = 0, True
            self._finish(job, reply)
        except Trouble as trouble:
            self._failed(job, trouble)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  it goes to those who wait, whatever it is
            self._under_way -= 1
            self._halt(job, error if isinstance(error, Exception) else EngineError("stopped", repr(error)))
        self._pump()

    async def _attempts(self, job: _Job) -> Reply:
        """The sound reply to a call; counts and paces its attempts."""
        wait: float | None = None
        for number in range(self._config.attempts):
            if number:
                await self._pause(job, number, wait)
            try:
                return await self._attempt(job)
            except Trouble as trouble:
                last = not trouble.again or number + 1 == self._config.attempts
                self._settle(job, trouble, last)
                if last:
                    raise
                wait = trouble.wait
            except asyncio.CancelledError:
                self._settle(job, Trouble("stopped", unconfirmed=True), last=True)
                raise
            except BaseException:
                self._budget.return_unused(job.most)
                raise
        raise AssertionError("unreachable")  # the last attempt returns or raises

    async def _pause(self, job: _Job, number: int, wait: float | None) -> None:
        """Wait before a further attempt: as long as the endpoint says, and a little more, or by our own rule."""
        own = backoff(number - 1, self._config.backoff)
        try:
            await asyncio.sleep(own if wait is None else wait + 0.1 * min(own, wait))
        except asyncio.CancelledError:
            self._budget.return_unused(job.most)
            raise

    async def _attempt(self, job: _Job) -> Reply:
        """One attempt; its outcome sets the pace."""
        started = time.monotonic()

        async def call() -> Reply:
            return parse_reply(await self._transport.chat(job.content), job.request.top_logprobs > 0)

        try:
            reply = await attempt(call, self._transport.access, self._config.timeout)
        except Trouble as trouble:
            if trouble.congested:
                self.pace.congested(started, time.monotonic())
            raise
        self.pace.succeeded()
        return reply

    def _settle(self, job: _Job, trouble: Trouble, last: bool) -> None:
        """Keep the books of an attempt that failed; another attempt needs room under the caps again."""
        if trouble.unconfirmed:
            most = job.most if self._prices.of(job.request.model) else None
            self._to_write.append(Paid(job.request.model, cost=most))
            self._budget.settle(job.most)
            self._schedule_flush()
            if not last and not self._budget.take(job.most):
                raise self._budget.reached()
        elif last:
            self._budget.return_unused(job.most)

    def _failed(self, job: _Job, trouble: Trouble) -> None:
        self._under_way -= 1
        self._jobs.pop(job.key, None)
        self._failed_in_a_row += trouble.again or not self._any_answered
        if self._failed_in_a_row >= _GIVE_UP_AFTER:
            self._halt(job, self._hopeless(trouble))
            return
        attempts = f" ({self._config.attempts} attempts)" if trouble.again else ""
        for run, index in job.watchers:
            run.deliver(index, ChatResult(None, error=trouble.reason + attempts))

    def _hopeless(self, trouble: Trouble) -> EngineError:
        return EngineError(
            f"{self._failed_in_a_row} calls in a row failed",
            trouble.reason,
            f"answers from {self._transport.access.address}",
            "see whether the endpoint works, then run the same command again: finished calls are kept",
        )

    def _halt(self, job: _Job, error: Exception) -> None:
        """No further call can be made: those that wait for one are told, what is under way goes on."""
        self._failed_in_a_row = 0
        halted = [job, *self._queue]
        self._queue.clear()
        for each in halted:
            self._jobs.pop(each.key, None)
            for run, _ in each.watchers:
                run.fail(error)

    def _finish(self, job: _Job, reply: Reply) -> None:
        """Gather a finished call for the journal."""
        model, tokens = job.request.model, reply.tokens
        cost = self._prices.cost(model, tokens) if tokens is not None else None
        if cost is None and self._prices.of(model) is not None:
            cost = job.most  # the endpoint does not say: the most it can be
        result = reply.result
        text = dump_result(result)
        self._to_write.append(Paid(model, job.key, text, result.prompt_tokens, result.completion_tokens, cost))
        self._finished.append((job, result))
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if len(self._to_write) >= min(_FLUSH_AT, self.pace.limit):
            self._flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(_FLUSH_AFTER, self._flush)

    def _flush(self) -> None:
        """Write what is finished, then hand it over."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        finished, to_write = self._finished, self._to_write
        if not to_write:
            return
        self._finished, self._to_write = [], []
        for job, _ in finished:
            self._budget.settle(job.most)
        self._under_way -= len(finished)
        try:
            with boundary("writing the journal of calls", EngineError):
                self._journal.write(to_write, "live", self._budget.lease)
        except TruingError as error:
            for job, _ in finished:
                self._halt(job, error)
            return
        for job, result in finished:
            self._jobs.pop(job.key, None)
            for run, index in job.watchers:
                run.deliver(index, result)
        self._pump()
