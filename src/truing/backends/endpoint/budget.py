"""The caps on calls and cost of a whole study, kept by all its processes together.

Before a call starts, its process holds a lease for it in the journal: one call, and the most that it can cost. What
is spent and what is leased never exceeds a cap. A process that was killed leaves its lease: the calls under it may
have been paid for, so they count as such (at most the calls under way and `_AHEAD` more).
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from truing.backends.endpoint.journal import Journal, Paid, set_lease, totals, write_paid
from truing.core.errors import CapReached

__all__ = ["LASTING", "Budget"]

LASTING = ("batch-", "training-")
"""How the owners of leases begin that outlive their process: the provider goes on with the work."""
_AHEAD = 16
"""Calls leased at a time, so that not every call asks the journal."""


class Budget:
    """One process's share of the caps.

    Args:
        journal: Shared with the other processes.
        max_calls: Most calls over the journal's life; None for no cap.
        max_cost: Most dollars over the journal's life; None for no cap.
    """

    def __init__(self, journal: Journal, max_calls: int | None, max_cost: float | None) -> None:
        self._journal, self._max_calls, self._max_cost = journal, max_calls, max_cost
        self.capped = max_calls is not None or max_cost is not None
        self._calls = self._free_calls = 0
        self._cost = self._free_cost = 0.0
        self._owner = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._alive: FileLock | None = None
        if self.capped and journal.path is not None:
            self._alive = FileLock(_lock_file(journal.path, self._owner), thread_local=False)
            self._alive.acquire()
            self._count_the_dead(journal.path)

    def take(self, most: float) -> bool:
        """Lease one call that costs at most so many dollars; False if a cap leaves no room for it."""
        if not self.capped:
            return True
        lacking = self._free_calls < 1 or (self._max_cost is not None and self._free_cost < most)
        if lacking and not self._extend(most):
            return False
        self._free_calls -= 1
        self._free_cost -= most
        return True

    def settle(self, most: float) -> None:
        """A call that was leased is over: what it came to is in the next `Journal.write` with `lease`."""
        if self.capped:
            self._calls -= 1
            self._cost -= most

    def return_unused(self, most: float) -> None:
        """A call that was leased was not made, or was not paid for."""
        if self.capped:
            self._free_calls += 1
            self._free_cost += most

    def give_back(self) -> None:
        """Return what is leased ahead, for other processes to use."""
        if self._free_calls:
            self._calls, self._cost = self._calls - self._free_calls, self._cost - self._free_cost
            self._free_calls, self._free_cost = 0, 0.0
            self._journal.write([], "live", self.lease)

    @property
    def lease(self) -> tuple[str, int, float] | None:
        """What this process holds, for `Journal.write`."""
        return (self._owner, self._calls, max(0.0, self._cost)) if self.capped else None

    def reserve(self, db: sqlite3.Connection, owner: str, calls: int, cost: float) -> int:
        """Lease up to `calls` calls that cost `cost` dollars each for another owner, inside a transaction; how many."""
        room_calls, room_cost = self._room(db)
        able = calls if not cost else int(min(calls, room_cost / cost))
        able = min(able, room_calls)
        set_lease(db, owner, able, able * cost)
        return able

    def reached(self) -> CapReached:
        """The error that says which cap is reached."""
        with self._journal.transaction() as db:
            now = totals(db)
        caps = [] if self._max_calls is None else [f"max_calls {self._max_calls:,}"]
        caps += [] if self._max_cost is None else [f"max_cost ${self._max_cost:,.2f}"]
        return CapReached(
            "the study's cap on calls to endpoints is reached",
            f"{now.calls:,} calls, ${now.cost:,.4f} (finished, perhaps paid for, or under way)",
            " and ".join(caps),
            "what was finished is kept; raise the cap and run the same command again: only the rest is asked for",
        )

    def close(self) -> None:
        """Return all that is held."""
        self.give_back()
        if self._alive is not None:
            self._alive.release()
            with suppress(OSError):
                Path(self._alive.lock_file).unlink()

    def _room(self, db: sqlite3.Connection) -> tuple[int, float]:
        now = totals(db)
        calls = 1 << 60 if self._max_calls is None else max(0, self._max_calls - now.calls)
        return calls, float("inf") if self._max_cost is None else max(0.0, self._max_cost - now.cost)

    def _extend(self, most: float) -> bool:
        """Lease some calls ahead; False if there is no room for one."""
        with self._journal.transaction() as db:
            room_calls, room_cost = self._room(db)
            lacking = 0.0 if self._max_cost is None else max(0.0, most - self._free_cost)
            if (self._free_calls < 1 and room_calls < 1) or lacking > room_cost:
                return False
            calls = min(_AHEAD, room_calls)
            cost = 0.0 if self._max_cost is None else min(room_cost, max(lacking, _AHEAD * most))
            set_lease(db, self._owner, self._calls + calls, self._cost + cost)
        self._calls, self._free_calls = self._calls + calls, self._free_calls + calls
        self._cost, self._free_cost = self._cost + cost, self._free_cost + cost
        return True

    def _count_the_dead(self, path: Path) -> None:
        """Leases of processes that no longer live count as perhaps paid for."""
        for owner, calls, cost in self._journal.query("SELECT owner, calls, cost FROM leases"):
            if owner == self._owner or owner.startswith(LASTING):
                continue
            lock = FileLock(_lock_file(path, owner), timeout=0)
            try:
                with lock, self._journal.transaction() as db:
                    if db.execute("DELETE FROM leases WHERE owner = ?", (owner,)).rowcount:
                        lost = [Paid("(under way at a kill)", cost=cost / calls)] * calls
                        write_paid(db, lost, "live")
            except Timeout:
                continue
            with suppress(OSError):
                Path(lock.lock_file).unlink()


def _lock_file(path: Path, owner: str) -> Path:
    folder = path.parent / f"{path.name}.alive"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{owner}.lock"
