"""How many calls at a time, and how long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Pace", "backoff", "retry_after"]

_CUT = 0.7
_LONGEST_BACKOFF = 60.0
_LONGEST_RETRY_AFTER = 3600.0


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
        """A call was answered."""
        self._limit = min(float(self.most), self._limit + (1.0 if self._rising_fast else self._step / self._limit))

    def congested(self, started: float, now: float) -> None:
        """A call that started at `started` met congestion."""
        if started > self._last_cut:
            self._limit, self._last_cut, self._rising_fast = max(1.0, self._limit * _CUT), now, False


def backoff(attempt: int, base: float) -> float:
    """Seconds before attempt `attempt + 1`: doubling, with jitter between half of it and all of it."""
    return min(_LONGEST_BACKOFF, base * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return min(seconds, _LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(0.0, (date - (now or datetime.now(UTC))).total_seconds()), _LONGEST_RETRY_AFTER)
