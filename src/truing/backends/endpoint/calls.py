"""Live calls: paced, retried, written to the journal, and only then handed over.

    advance(run, requests) -> tasks, at most `pace.limit` have their turn -> attempts -> journal (a few at a time)

Everything here runs in one event loop. Of a kind of request that is new, two calls go first: what the endpoint refuses
in them is said otherwise (`Dialect`), and if it refuses both all the same, nothing more is asked. Invariants:
- A call holds its place among those under way until it is in the journal, so that a kill loses at most
  `concurrency` answers that were paid for.
- Equal requests under way are one call.
- A run's results come out in the order of its requests, whatever the order of the answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from truing.backends.endpoint.client import Endpoint
from truing.backends.endpoint.dialect import Dialect
from truing.backends.endpoint.faults import Trouble
from truing.backends.endpoint.journal import Paid
from truing.backends.endpoint.wire import Call, Reply, parse_reply
from truing.core.answers import is_final
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import EndpointError, EngineError, TruingError, boundary

logger = logging.getLogger(__name__)

_FLUSH_AFTER = 0.004
"""Seconds that finished calls are gathered before they are written."""
_HAND_OVER_AT, _HAND_OVER_AFTER = 64, 0.05
"""Results in order that are worth handing over at once, and seconds after which those that are there are."""
_GRACE = 2.0
"""Seconds that calls under way may take to finish when all is closed."""
_GIVE_UP_AFTER = 32
"""Calls that fail in a row before all stop."""
_CUT = 0.7
_TRIALS = 2
"""Calls of one kind that are made before it is known whether the endpoint takes them."""
_KNOCKS = 3
"""Attempts at an address where nobody has answered yet and the connection is refused."""


class Pace:
    """The number of calls that may be under way: rises by addition, falls by multiplication.

    Until the first sign of congestion it rises by one a call, which doubles it in every round trip; from then on by a
    32nd of its upper bound (at least one) a round trip. Congestion (429, 503, a timeout) cuts it at most once a round
    trip: a call that started before the last cut says nothing about the number after it.
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

    halts: int
    """Number of times that all had to stop before it began."""
    owed: deque[asyncio.Future[ChatResult]] = field(default_factory=deque)
    """Results that were asked for and not yet handed over."""


@dataclass(eq=False)
class _Kind:
    """Requests of one model that are said alike: with its probabilities or without, at one temperature."""

    dialect: Dialect = field(default_factory=Dialect)
    tried: bool = False
    """Whether a call has come to an end that does not say that the endpoint refuses how it is asked."""
    answered: bool = False
    refused: int = 0
    under_way: int = 0


class Caller:
    """Makes the calls of one process to one endpoint. Belongs to the endpoint's event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._journal, self._config = endpoint, endpoint.journal, endpoint.config
        self.pace = Pace(endpoint.config.concurrency)
        self.halts = 0
        """Number of times that no further call could be made."""
        self._error: Exception | None = None
        """The reason, the last time."""
        self._asked: dict[bytes, asyncio.Task[ChatResult]] = {}
        self._shared: set[bytes] = set()
        """Keys of those that are asked for more than once."""
        self._queue: deque[tuple[Call, asyncio.Future[None]]] = deque()
        """Calls that wait for their turn."""
        self._under_way = 0
        self._pumping = False
        self._to_write: list[tuple[Paid, float, asyncio.Future[None]]] = []
        """Calls that are over, the most that each could cost, and those who wait for it to be written."""
        self._failed_in_a_row, self._told = 0, False
        self._kinds: defaultdict[tuple[str, bool, float], _Kind] = defaultdict(_Kind)

    async def advance(self, run: Run, requests: Sequence[ChatRequest]) -> list[ChatResult]:
        """Feed further requests and wait for results: all that are ready, in order; none when all are out.

        Raises:
            TruingError: No further call can be made; everything that was finished has been handed over.
        """
        if run.halts == self.halts:
            self._feed(run, requests)
        if run.owed:
            await asyncio.wait([run.owed[min(len(run.owed), _HAND_OVER_AT) - 1]], timeout=_HAND_OVER_AFTER)
            await asyncio.wait([run.owed[0]])
        if run.halts != self.halts and run.owed:  # what is under way is paid for
            await asyncio.wait(run.owed)
        ready = []
        while run.owed and run.owed[0].done() and run.owed[0].exception() is None:
            ready.append(run.owed.popleft().result())
        if not ready and run.halts != self.halts and self._error is not None:
            raise self._error
        return ready

    async def close(self) -> None:
        """Begin no further call, wait a moment for those under way (they are paid for), write what is finished."""
        self._halt(EngineError("the connection to the endpoint was closed", todo="run the same command again"))
        if tasks := list(self._asked.values()):
            _, late = await asyncio.wait(tasks, timeout=_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._flush()

    async def forget(self, run: Run) -> None:
        """Drop what a run has not begun: nobody waits for it any more."""
        dropped = set(run.owed)
        for call, turn in self._queue:
            if call.key not in self._shared and self._asked[call.key] in dropped:
                turn.cancel()

    def _feed(self, run: Run, requests: Sequence[ChatRequest]) -> None:
        loop = asyncio.get_running_loop()
        for call, known in self._endpoint.calls(requests):
            if known is not None:
                run.owed.append(loop.create_future())
                run.owed[-1].set_result(known)
                continue
            if call.key in self._asked:
                self._shared.add(call.key)
            else:
                turn = loop.create_future()
                self._queue.append((call, turn))
                self._asked[call.key] = task = loop.create_task(self._answer(call, turn))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waits sees it
            run.owed.append(self._asked[call.key])
        self._pump()

    def _pump(self) -> None:
        """Give as many calls their turn as may be under way."""
        self._pumping = False
        while self._queue and self._queue[0][1].done():  # forgotten
            self._queue.popleft()
        first = self._able()
        if not first:
            return
        try:
            able = self._journal.take(first)
            if not able and not self._under_way:  # else what is under way may leave some room
                raise self._journal.reached()
        except TruingError as error:
            self._halt(error)
            return
        for _ in range(able):
            call, turn = self._queue.popleft()
            self._kind(call).under_way += 1
            turn.set_result(None)
        self._under_way += able

    def _able(self) -> list[float]:
        """The most that each of the calls can cost which may begin now; few of a kind that has not been tried."""
        begun: Counter[int] = Counter()
        first = []
        for call, _ in islice(self._queue, max(0, self.pace.limit - self._under_way)):
            kind = self._kind(call)
            if not kind.tried and kind.under_way + begun[id(kind)] >= _TRIALS:
                break
            begun[id(kind)] += 1
            first.append(call.most)
        return first

    def _kind(self, call: Call) -> _Kind:
        return self._kinds[call.request.model, call.request.top_logprobs > 0, call.request.temperature]

    async def _answer(self, call: Call, turn: asyncio.Future[None]) -> ChatResult:
        """The result of a call, once it has its turn."""
        try:
            await turn
            return await self._make(call)
        finally:
            del self._asked[call.key]
            self._shared.discard(call.key)

    async def _make(self, call: Call) -> ChatResult:
        """Make a call until it is answered or hopeless, and keep the books."""
        kind = self._kind(call)
        try:
            reply = await self._attempts(call, kind)
            self._failed_in_a_row, kind.answered, kind.tried = 0, True, True
            await self._write(call, reply)
            return reply.result
        except Trouble as trouble:
            if error := self._hopeless(call, kind, trouble):
                self._halt(error)
                raise error from None
            attempts = f" ({self._config.attempts} attempts)" if trouble.again else ""
            return ChatResult(None, error=trouble.reason + attempts)
        except Exception as error:
            self._halt(error)
            raise
        finally:
            self._under_way -= 1
            kind.under_way -= 1
            if not self._pumping:
                self._pumping = True
                asyncio.get_running_loop().call_soon(self._pump)

    def _hopeless(self, call: Call, kind: _Kind, trouble: Trouble) -> TruingError | None:
        """The error that ends all calls, where this trouble says that none will succeed."""
        model, address = call.request.model, self._endpoint.access.address
        if trouble.absent and not self._endpoint.answered:
            todo = "see whether it runs and the address is right, then run the same command again"
            return EngineError(f"nobody answers at {address}", trouble.reason, "an endpoint", todo)
        if trouble.refused and not kind.answered:
            kind.refused += 1
            if kind.refused >= _TRIALS:
                todo = "set the judge's `scores: text`" if "logprob" in trouble.reason else "fix what it names"
                what = f"the endpoint refuses what is asked of {model}, so nothing more was asked"
                return EndpointError(what, trouble.reason, "a request that it takes", todo)
        else:
            kind.tried = True
        self._failed_in_a_row += trouble.again or not (kind.answered or is_final(trouble.reason))
        if self._failed_in_a_row < _GIVE_UP_AFTER:
            return None
        return EngineError(
            f"{self._failed_in_a_row} calls in a row failed",
            trouble.reason,
            f"answers from {address}",
            "see whether the endpoint works, then run the same command again: finished calls are kept",
        )

    async def _attempts(self, call: Call, kind: _Kind) -> Reply:
        """The sound reply to a call, which has a lease; after an attempt that may be paid for it needs another."""
        number, leased = 0, True
        try:
            while True:
                number += 1
                try:
                    return await self._attempt(call, kind)
                except Trouble as trouble:
                    leased = not trouble.unconfirmed
                    if not leased:
                        self._write(call, None)
                    absent = trouble.absent and not self._endpoint.answered
                    most = min(_KNOCKS, self._config.attempts) if absent else self._config.attempts
                    if not trouble.again or number >= most:
                        raise
                    if not leased and not self._journal.take([call.most]):
                        raise self._journal.reached() from None
                    leased = True
                    await self._endpoint.pause(number, trouble)
        except BaseException:
            if leased:
                self._journal.end([], [call.most])
            raise

    def _said_otherwise(self, call: Call, kind: _Kind, dialect: Dialect, words: str) -> bool:
        """True if there is another way to say what was refused in these words."""
        if kind.dialect != dialect:  # learnt meanwhile by another call
            return True
        field = "" if self._config.max_tokens_field else self._endpoint.max_tokens_field
        if (found := dialect.after(words, call.request, field)) is None:
            return False
        kind.dialect, what = found
        logger.warning("%s: %s (the endpoint says: %s)", call.request.model, what, words)
        return True

    async def _attempt(self, call: Call, kind: _Kind) -> Reply:
        """The reply to one attempt, said otherwise if that is all that is refused; its outcome sets the pace."""
        started, dialect = time.monotonic(), kind.dialect
        content = dialect.say(call.content)

        async def ask() -> Reply:
            return parse_reply(await self._endpoint.chat(content), call.request.top_logprobs > 0)

        try:
            reply = await self._endpoint.attempt(ask, self._config.timeout)
        except Trouble as trouble:
            if trouble.refused and self._said_otherwise(call, kind, dialect, trouble.refused):
                return await self._attempt(call, kind)
            if trouble.congested:
                self.pace.congested(started, time.monotonic())
            if trouble.again and not (self._endpoint.answered or self._told):
                self._told = True
                logger.warning("no answer yet from the endpoint; trying again: %s", trouble.reason)
            raise
        except asyncio.CancelledError:
            raise Trouble("stopped", again=False, unconfirmed=True) from None
        self.pace.succeeded()
        return reply

    def _halt(self, error: Exception) -> None:
        """Tell those that wait for their turn that it will not come; what is under way goes on."""
        self._failed_in_a_row, self._error = 0, error
        self.halts += 1
        for _, turn in self._queue:
            if not turn.done():
                turn.set_exception(error)
        self._queue.clear()

    def _write(self, call: Call, reply: Reply | None) -> asyncio.Future[None]:
        """Gather what a call came to for the journal; done when it is there."""
        loop = asyncio.get_running_loop()
        if not self._to_write:
            loop.call_later(_FLUSH_AFTER, self._flush)
        written = loop.create_future()
        self._to_write.append((self._endpoint.paid(call, reply), call.most, written))
        return written

    def _flush(self) -> None:
        """Write what is finished."""
        some, self._to_write = self._to_write, []
        failure: TruingError | None = None
        try:
            with boundary("writing the journal of calls", EngineError):
                self._journal.end([paid for paid, _, _ in some], [most for _, most, _ in some])
        except TruingError as error:
            failure = error
        for _, _, written in some:
            if written.done():  # cancelled
                continue
            if failure is None:
                written.set_result(None)
            else:
                written.set_exception(failure)
                written.exception()  # seen: not all are waited for
