"""The journal: every finished call, on disk before it counts, what all calls cost, and the caps on that.

One SQLite file (write-ahead log) for all processes of a study. A call is found by its key, so none that is in the
journal is paid for again. Two processes that begin one call at the same moment both pay: whoever shares work between
processes claims it first, as the store does. A process that is killed leaves whole transactions: a torn last one is
ignored by SQLite.

    calls    key, model, the result as JSON
    spent    per model and mode: calls, tokens, cost; calls that may have been paid for without an answer
    leases   what processes, batches and fine-tuning jobs may spend at the moment
    batches  those of the Batch API; see `truing.backends.endpoint.batches`

Invariants: `spent` and `calls` change in one transaction. Where there is a cap, a call starts only when its process
holds a lease for it (one call, and the most that it can cost); what is spent and what is leased never exceeds the caps.
A process that was killed leaves its lease: the calls under it may have been paid for, so they count as such. Leases of
batches and jobs outlive their process: the provider goes on with the work.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock, Timeout

from truing.core.errors import CapReached, StoreError, plural

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (key BLOB PRIMARY KEY, model TEXT NOT NULL, result TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    model TEXT, mode TEXT, calls INTEGER DEFAULT 0, unconfirmed INTEGER DEFAULT 0, unpriced INTEGER DEFAULT 0,
    prompt_tokens INTEGER DEFAULT 0, completion_tokens INTEGER DEFAULT 0, cost REAL DEFAULT 0,
    unconfirmed_cost REAL DEFAULT 0, PRIMARY KEY (model, mode));
CREATE TABLE IF NOT EXISTS leases (owner TEXT PRIMARY KEY, calls INTEGER, cost REAL);
CREATE TABLE IF NOT EXISTS batches (
    piece TEXT PRIMARY KEY, endpoint TEXT, model TEXT, file_id TEXT, batch_id TEXT, done INTEGER DEFAULT 0);
"""


@dataclass(frozen=True, slots=True)
class Paid:
    """One call to write down. Without a result it may have been paid for although no answer came."""

    model: str
    key: bytes = b""
    result: str | None = None
    """JSON of the result."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """Dollars; None if the price is unknown. Of a call without a result: the most it can have cost."""


@dataclass(frozen=True, slots=True)
class Account:
    """Sums over the calls to one model: a row of `spent`."""

    model: str
    mode: str
    """`live`, `batch` or `training` (where a call is a fine-tuning job, and its prompt tokens are those trained on)."""
    calls: int
    unconfirmed: int
    """Calls that may have been paid for although no answer came: timeouts, cut connections, damaged replies, and those
    under way when a process was killed (of these, only while a cap is set)."""
    unpriced: int
    """Calls whose cost is unknown."""
    prompt_tokens: int
    completion_tokens: int
    cost: float
    """Dollars for the calls whose price is known."""
    unconfirmed_cost: float
    """The most that the unconfirmed calls can have cost."""


_COLUMNS = [field.name for field in fields(Account)]
_ADD = (
    f"INSERT INTO spent ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _COLUMNS[2:])
)


_LASTING = ("batch-", "training-")
"""Beginnings of the owners of leases that outlive their process."""


class Journal:
    """The file; safe to use from several threads and processes.

    Args:
        path: The file; None keeps the journal in memory, for one object's life.
        max_calls: Most calls over the journal's life; None for no cap.
        max_cost: Most dollars over the journal's life; None for no cap.

    Raises:
        StoreError: The disk is full, or the file cannot be written or is damaged; so do all methods.
    """

    def __init__(self, path: Path | None, max_calls: int | None = None, max_cost: float | None = None) -> None:
        self.path, self._lock = path, RLock()
        self._caps, self._capped = (max_calls, max_cost), (max_calls, max_cost) != (None, None)
        self._owner = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._alive: FileLock | None = None
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path or ":memory:", timeout=120.0, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            with nullcontext() if path is None else FileLock(path.with_name(f"{path.name}.lock")):
                for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -16384"):
                    self._db.execute(f"PRAGMA {pragma}")
                with self.transaction() as db:
                    for statement in _SCHEMA.split(";"):
                        db.execute(statement)
            if self._capped and path is not None:
                self._alive = FileLock(self._lock_file(self._owner), thread_local=False)
                self._alive.acquire()
                self._count_the_dead()
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block's changes, or none; one inside another is a part of it. Other processes wait."""
        with self._lock:
            inner = self._db.in_transaction
            if inner:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise self._failure(error) from error
                raise

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Rows of a statement, which may also change something, in a transaction of its own."""
        with self._lock:
            try:
                return self._db.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise self._failure(error) from error

    def find(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The results, as JSON, of those calls that are finished."""
        found: dict[bytes, str] = {}
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            found |= dict(self.query(f"SELECT key, result FROM calls WHERE key IN ({','.join('?' * len(some))})", some))
        return found

    def write(
        self, paid: Sequence[Paid], mode: str, lease: tuple[str, int, float] | None = None, once: bool = False
    ) -> None:
        """Write calls and what they cost, and set what an owner still holds, in one transaction.

        Args:
            paid: The calls.
            mode: `live`, `batch` or `training`.
            lease: Owner, calls and dollars; no calls is no lease.
            once: A call that is there already was paid for once only (a batch that is read again).
        """
        with self.transaction() as db:
            rows = []
            for call in paid:
                done = call.result is not None
                if done:
                    cursor = db.execute(
                        "INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", (call.key, call.model, call.result)
                    )
                    if once and not cursor.rowcount:
                        continue
                cost = call.cost or 0.0
                counts = (done, not done, call.cost is None, call.prompt_tokens, call.completion_tokens)
                rows.append((call.model, mode, *counts, cost * done, cost * (not done)))
            db.executemany(_ADD, rows)
            if lease is not None:
                db.execute("DELETE FROM leases WHERE owner = ?", lease[:1])
                db.executemany("INSERT INTO leases VALUES (?, ?, ?)", [lease] if lease[1] else [])

    def accounts(self) -> list[Account]:
        """Sums over all calls, by model and mode."""
        return [Account(*row) for row in self.query(f"SELECT {', '.join(_COLUMNS)} FROM spent ORDER BY model, mode")]

    def take(self, most: Sequence[float], owner: str = "") -> int:
        """Lease calls that cost at most so many dollars each; the first n, for which there is room.

        Args:
            most: Dollars for each call; 0 where they are unknown.
            owner: A batch (`batch-...`) or job (`training-...`), which leases once, and whose lease ends with the
                `write` that sets it to nothing. Empty: this process, whose lease of a call ends with `end`.
        """
        if not (self._capped or owner):
            return len(most)
        with self.transaction():
            name = owner or self._owner
            held, cost = self._leased(name)
            if owner and held:
                return held
            able = self._room(most)
            self.write([], "", (name, held + able, cost + sum(most[:able])))
            return able

    def end(self, paid: Sequence[Paid], most: Sequence[float]) -> None:
        """Write live calls of this process, whose leases end; one without a `Paid` was not made, or not paid for."""
        with self.transaction():
            held, cost = self._leased(self._owner) if self._capped else (len(most), 0.0)
            self.write(paid, "live", (self._owner, held - len(most), max(0.0, cost - sum(most))))

    def reached(self) -> CapReached:
        """The error that says which cap is reached."""
        calls, cost = self._totals()
        caps = [] if self._caps[0] is None else [f"max_calls {self._caps[0]:,}"]
        caps += [] if self._caps[1] is None else [f"max_cost ${self._caps[1]:,.2f}"]
        return CapReached(
            "the study's cap on calls to endpoints is reached",
            f"{plural(calls, 'call')}, ${cost:,.4f} (finished, perhaps paid for, or under way)",
            " and ".join(caps),
            "what was finished is kept; raise the cap and run the same command again: only the rest is asked for",
        )

    def close(self) -> None:
        """Return what is leased and close the file."""
        with self._lock:
            if self._alive is not None:
                self.write([], "", (self._owner, 0, 0.0))
                self._alive.release()
                self._lock_file(self._owner).unlink(missing_ok=True)
                self._alive = None
            self._db.close()

    def _totals(self) -> tuple[int, float]:
        """Calls and dollars that count towards the caps: finished, perhaps paid for, or under way."""
        ((spent, cost),) = self.query("SELECT total(calls + unconfirmed), total(cost + unconfirmed_cost) FROM spent")
        ((leased, most),) = self.query("SELECT total(calls), total(cost) FROM leases")
        return int(spent + leased), cost + most

    def _leased(self, owner: str) -> tuple[int, float]:
        return next(iter(self.query("SELECT calls, cost FROM leases WHERE owner = ?", [owner])), (0, 0.0))

    def _room(self, most: Sequence[float]) -> int:
        """Number of calls, the first of some, for which the caps leave room; inside a transaction."""
        calls, cost = self._totals()
        max_calls, max_cost = self._caps
        able = len(most) if max_calls is None else max(0, min(len(most), max_calls - calls))
        if max_cost is None:
            return able
        totals = list(accumulate(most[:able], initial=cost))[1:]
        return sum(total <= max_cost for total in totals)

    def _count_the_dead(self) -> None:
        """Leases of processes that no longer live count as perhaps paid for."""
        for owner, calls, cost in self.query("SELECT owner, calls, cost FROM leases"):
            if owner == self._owner or owner.startswith(_LASTING):
                continue
            with suppress(Timeout), FileLock(self._lock_file(owner), timeout=0), self.transaction():
                if self._leased(owner)[0]:
                    lost = [Paid("(under way at a kill)", cost=cost / calls)] * calls
                    self.write(lost, "live", (owner, 0, 0.0))
                self._lock_file(owner).unlink(missing_ok=True)

    def _lock_file(self, owner: str) -> Path:
        assert self.path is not None  # else there is nobody to lock out
        folder = self.path.with_name(f"{self.path.name}.alive")
        folder.mkdir(exist_ok=True)
        return folder / f"{owner}.lock"

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(
            f"the journal of calls {self.path or 'in memory'} cannot be used",
            f"{type(error).__name__}: {error}",
            todo="free disk space or check permissions, then run the same command again: it goes on",
        )


def read_accounts(path: Path) -> list[Account]:
    """What is in a journal, sums over all calls by model and mode, without writing; nothing if there is none.

    Raises:
        StoreError: It is damaged.
    """
    if not path.is_file():
        return []
    # without a log beside it nobody has it open: then it needs no shared memory, and may lie where nobody can write
    how = "mode=ro" if path.with_name(f"{path.name}-wal").is_file() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, timeout=30.0)) as db:
            rows = db.execute(f"SELECT {', '.join(_COLUMNS)} FROM spent ORDER BY model, mode").fetchall()
    except sqlite3.Error as error:
        todo = "delete it and run again: finished calls are then paid for again"
        raise StoreError(f"{path} cannot be read", str(error), todo=todo) from error
    return [Account(*row) for row in rows]
