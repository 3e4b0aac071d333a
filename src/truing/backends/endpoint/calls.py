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
from itertools import islice

from truing.backends.endpoint.client import Endpoint
from truing.backends.endpoint.faults import Trouble
from truing.backends.endpoint.journal import Paid
from truing.backends.endpoint.wire import Call, Reply, parse_reply
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import EngineError, TruingError, boundary

__all__ = ["Caller", "Pace", "Run"]

_FLUSH_AFTER = 0.004
"""Seconds that finished calls are gathered before they are written."""
_FLUSH_AT = 64
_HAND_OVER_AT, _HAND_OVER_AFTER = 64, 0.05
"""Results in order that are worth handing over at once, and seconds after which those that are there are."""
_GRACE = 2.0
"""Seconds that calls under way may take to finish when all is closed."""
_GIVE_UP_AFTER = 32
"""Calls that fail in a row before all stop."""
_CUT = 0.7


class Pace:
    """The number of calls that may be under way: rises by addition, falls by multiplication.

    Until the first sign of congestion it rises by one a call, which doubles it in every round trip; from then on by a
    32nd of its upper bound (at least one) a round trip. Congestion (429, 503, a timeout) cuts it at most once a round
    trip: a call that started before the last cut says nothing about the number after it.

    Args:
        most: Upper bound.
        start: First value.
    """

    def __init__(self, most: int, start: int = 16) -> None:
        self.most, self._step = most, max(1.0, most / 32)
        self._limit = float(min(start, most))
        self._rising_fast = True
        self._last_cut = float("-inf")

    @property
    def limit(self) -> int:
        """Calls that may be under way now."""
        return int(self._limit)

    def succeeded(self) -> None:
        """Count a call that was answered."""
        self._limit = min(float(self.most), self._limit + (1.0 if self._rising_fast else self._step / self._limit))

    def congested(self, started: float, now: float) -> None:
        """Count a call that started at `started` and met congestion."""
        if started > self._last_cut:
            self._limit, self._last_cut, self._rising_fast = max(1.0, self._limit * _CUT), now, False


@dataclass(eq=False)
class Run:
    """The results of one sequence of requests, in order. Belongs to the loop of its caller."""

    owed: deque[ChatResult | _Asked] = field(default_factory=deque)
    """What was asked for and not yet handed over."""
    failure: Exception | None = None
    """Why no further call can be made."""


@dataclass(eq=False, slots=True)
class _Asked:
    """A call that is waited for."""

    call: Call
    outcome: asyncio.Future[ChatResult]
    """Cancelled if there is none, as the failure of the runs says."""
    runs: list[Run] = field(default_factory=list)


class Caller:
    """Makes the calls of one process to one endpoint. Belongs to the endpoint's event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._journal, self._config = endpoint, endpoint.journal, endpoint.config
        self.pace = Pace(endpoint.config.concurrency)
        self._queue: deque[_Asked] = deque()
        self._asked: dict[bytes, _Asked] = {}
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_write: list[tuple[Paid, float]] = []
        """What calls came to, and the most that they could."""
        self._finished: list[tuple[_Asked, ChatResult]] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._failed_in_a_row, self._any_answered = 0, False

    async def advance(self, run: Run, requests: Sequence[ChatRequest]) -> list[ChatResult]:
        """Feed further requests and wait for results: all that are ready, in order; none when all are out.

        Raises:
            TruingError: No further call can be made; everything that was finished has been handed over.
        """
        if run.failure is None:
            self._feed(run, requests)
        if run.owed:
            await _wait([run.owed[min(len(run.owed), _HAND_OVER_AT) - 1]], _HAND_OVER_AFTER)
            await _wait([run.owed[0]])
        if run.failure is not None:  # what is under way is paid for
            await _wait(run.owed)
        ready: list[ChatResult] = []
        while run.owed:
            first = run.owed[0]
            if isinstance(first, _Asked):
                if not first.outcome.done() or first.outcome.cancelled():
                    break
                first = first.outcome.result()
            ready.append(first)
            run.owed.popleft()
        if run.failure is not None and not ready:
            raise run.failure
        return ready

    async def close(self) -> None:
        """Begin no further call, wait a moment for those under way (they are paid for), write what is finished."""
        self._halt(EngineError("the connection to the endpoint was closed", todo="run the same command again"))
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._flush()

    async def forget(self, run: Run) -> None:
        """Drop what a run has not begun: nobody waits for it any more."""
        for asked in self._queue:
            asked.runs = [other for other in asked.runs if other is not run]
            if not asked.runs:
                del self._asked[asked.call.key]
        self._queue = deque(asked for asked in self._queue if asked.runs)

    def _feed(self, run: Run, requests: Sequence[ChatRequest]) -> None:
        for call, known in self._endpoint.calls(requests):
            if known is not None:
                run.owed.append(known)
                continue
            if (asked := self._asked.get(call.key)) is None:
                asked = self._asked[call.key] = _Asked(call, asyncio.get_running_loop().create_future())
                self._queue.append(asked)
            asked.runs.append(run)
            run.owed.append(asked)
        self._pump()

    def _pump(self) -> None:
        """Start as many calls as may be under way."""
        first = list(islice(self._queue, max(0, self.pace.limit - self._under_way)))
        if not first:
            return
        refused: TruingError | None = None
        try:
            able = self._journal.take([asked.call.most for asked in first])
            if not able and not self._under_way:  # else what is under way may leave some room
                refused = self._journal.reached()
        except TruingError as error:
            able, refused = 0, error
        for _ in range(able):
            self._under_way += 1
            task = asyncio.get_running_loop().create_task(self._see_through(self._queue.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if refused is not None:
            self._halt(refused)

    async def _see_through(self, asked: _Asked) -> None:
        """Make a call until it is answered or hopeless, and keep the books."""
        call = asked.call
        try:
            reply = await self._attempts(call)
            self._failed_in_a_row, self._any_answered = 0, True
            self._finished.append((asked, reply.result))
            self._write(call, reply)
            return
        except Trouble as trouble:
            self._failed_in_a_row += trouble.again or not self._any_answered
            if self._failed_in_a_row < _GIVE_UP_AFTER:
                attempts = f" ({self._config.attempts} attempts)" if trouble.again else ""
                del self._asked[call.key]
                asked.outcome.set_result(ChatResult(None, error=trouble.reason + attempts))
            else:
                self._halt(self._hopeless(trouble), asked)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  it goes to those who wait, whatever it is
            self._halt(error if isinstance(error, Exception) else EngineError("stopped", repr(error)), asked)
        self._under_way -= 1
        self._pump()

    async def _attempts(self, call: Call) -> Reply:
        """The sound reply to a call, which has a lease; after an attempt that may be paid for it needs another."""
        number, leased = 0, True
        try:
            while True:
                number += 1
                try:
                    return await self._attempt(call)
                except Trouble as trouble:
                    leased = not trouble.unconfirmed
                    if not leased:
                        self._write(call, None)
                    if not trouble.again or number >= self._config.attempts:
                        raise
                    if not leased and not self._journal.take([call.most]):
                        raise self._journal.reached() from None
                    leased = True
                    await self._endpoint.pause(number, trouble)
        except BaseException:
            if leased:
                self._journal.end([], [call.most])
            raise

    async def _attempt(self, call: Call) -> Reply:
        """The reply to one attempt; its outcome sets the pace."""
        started = time.monotonic()

        async def ask() -> Reply:
            return parse_reply(await self._endpoint.chat(call.content), call.request.top_logprobs > 0)

        try:
            reply = await self._endpoint.attempt(ask, self._config.timeout)
        except Trouble as trouble:
            if trouble.congested:
                self.pace.congested(started, time.monotonic())
            raise
        except asyncio.CancelledError:
            raise Trouble("stopped", again=False, unconfirmed=True) from None
        self.pace.succeeded()
        return reply

    def _hopeless(self, trouble: Trouble) -> EngineError:
        return EngineError(
            f"{self._failed_in_a_row} calls in a row failed",
            trouble.reason,
            f"answers from {self._endpoint.access.address}",
            "see whether the endpoint works, then run the same command again: finished calls are kept",
        )

    def _halt(self, error: Exception, *also: _Asked) -> None:
        """Tell those that wait for a call that was not begun that none will be; what is under way goes on."""
        self._failed_in_a_row = 0
        halted = [*also, *self._queue]
        self._queue.clear()
        for asked in halted:
            self._asked.pop(asked.call.key, None)
            for run in asked.runs:
                run.failure = run.failure or error
            asked.outcome.cancel()

    def _write(self, call: Call, reply: Reply | None) -> None:
        """Gather what a call came to for the journal."""
        self._to_write.append((self._endpoint.paid(call, reply), call.most))
        if len(self._to_write) >= min(_FLUSH_AT, self.pace.limit):
            self._flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(_FLUSH_AFTER, self._flush)

    def _flush(self) -> None:
        """Write what is finished, then hand it over."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        finished, to_write, self._finished, self._to_write = self._finished, self._to_write, [], []
        if not to_write:
            return
        self._under_way -= len(finished)
        try:
            with boundary("writing the journal of calls", EngineError):
                self._journal.end([paid for paid, _ in to_write], [most for _, most in to_write])
        except TruingError as error:
            self._halt(error, *(asked for asked, _ in finished))
            return
        for asked, result in finished:
            self._asked.pop(asked.call.key, None)
            asked.outcome.set_result(result)
        self._pump()


async def _wait(owed: Sequence[ChatResult | _Asked], timeout: float | None = None) -> None:
    """Wait until calls are over, one way or the other."""
    outcomes = [each.outcome for each in owed if isinstance(each, _Asked) and not each.outcome.done()]
    if outcomes:
        await asyncio.wait(outcomes, timeout=timeout)
