"""The journal: every finished call, on disk before it counts, and what all calls cost.

One SQLite file (write-ahead log) for all processes of a study. A call is found by its key, so none that is in the
journal is paid for again. Two processes that begin one call at the same moment both pay: whoever shares work between
processes claims it first, as the store does. A process that is killed leaves whole transactions: a torn last one is
ignored by SQLite.

    calls    key, model, the result as JSON
    spent    per model and mode: calls, tokens, cost; calls that may have been paid for without an answer
    leases   what processes and batches may spend at the moment; see `truing.backends.endpoint.budget`
    batches  those of the Batch API; see `truing.backends.endpoint.batches`

Invariant: `spent` and `calls` change in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from truing.core.errors import StoreError

__all__ = ["Account", "Journal", "Paid", "Totals", "set_lease", "totals", "write_paid"]

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
_ADD = """
INSERT INTO spent VALUES (:model, :mode, :calls, :unconfirmed, :unpriced, :prompt, :completion, :cost, :doubtful)
ON CONFLICT DO UPDATE SET calls = calls + :calls, unconfirmed = unconfirmed + :unconfirmed,
    unpriced = unpriced + :unpriced, prompt_tokens = prompt_tokens + :prompt,
    completion_tokens = completion_tokens + :completion, cost = cost + :cost,
    unconfirmed_cost = unconfirmed_cost + :doubtful
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
    """What the calls to one model came to."""

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


@dataclass(frozen=True, slots=True)
class Totals:
    """What counts towards the caps: calls finished, perhaps paid for, or under way."""

    calls: int
    cost: float


class Journal:
    """The file; safe to use from several threads and processes.

    Args:
        path: The file; None keeps the journal in memory, for one object's life.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = Lock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path or ":memory:", timeout=120.0, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            with nullcontext() if path is None else FileLock(path.with_name(f"{path.name}.lock")):
                self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error

    def _prepare(self) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -16384"):
            self._db.execute(f"PRAGMA {pragma}")
        with self.transaction() as db:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block's changes, or none. Other processes wait.

        Raises:
            StoreError: The disk is full, or the file cannot be written or is damaged.
        """
        with self._lock:
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

    def find(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The results, as JSON, of those calls that are finished."""
        found: dict[bytes, str] = {}
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            found |= dict(self.query(f"SELECT key, result FROM calls WHERE key IN ({','.join('?' * len(some))})", some))
        return found

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Rows of a query."""
        with self._lock:
            try:
                return self._db.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise self._failure(error) from error

    def write(self, paid: Sequence[Paid], mode: str, lease: tuple[str, int, float] | None = None) -> None:
        """Write finished calls and what they cost, and set what an owner still holds, in one transaction."""
        with self.transaction() as db:
            write_paid(db, paid, mode)
            if lease is not None:
                set_lease(db, *lease)

    def accounts(self) -> list[Account]:
        """What all calls came to, by model and mode."""
        columns = ", ".join(Account.__dataclass_fields__)
        return [Account(*row) for row in self.query(f"SELECT {columns} FROM spent ORDER BY model, mode")]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(
            f"the journal of calls {self.path or 'in memory'} cannot be used",
            f"{type(error).__name__}: {error}",
            todo="free disk space or check permissions, then run the same command again: it goes on",
        )


def write_paid(db: sqlite3.Connection, paid: Sequence[Paid], mode: str, only_new: bool = False) -> None:
    """Write calls and add them up, inside a transaction.

    Args:
        db: In a transaction.
        paid: The calls.
        mode: `live`, `batch` or `training`.
        only_new: Whether a call that is there already was paid for once only (a batch that is read again).
    """
    sums: dict[str, dict[str, Any]] = {}
    for call in paid:
        if call.result is not None:
            cursor = db.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", (call.key, call.model, call.result))
            if only_new and not cursor.rowcount:
                continue
        row = sums.setdefault(call.model, {"model": call.model, "mode": mode, **dict.fromkeys(_SUMS, 0)})
        row["calls" if call.result is not None else "unconfirmed"] += 1
        row["unpriced"] += call.cost is None
        row["prompt"] += call.prompt_tokens
        row["completion"] += call.completion_tokens
        row["cost" if call.result is not None else "doubtful"] += call.cost or 0.0
    db.executemany(_ADD, list(sums.values()))


_SUMS = ("calls", "unconfirmed", "unpriced", "prompt", "completion", "cost", "doubtful")


def set_lease(db: sqlite3.Connection, owner: str, calls: int, cost: float) -> None:
    """Set what an owner holds, inside a transaction; nothing held is no row."""
    if calls:
        db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (owner, calls, cost))
    else:
        db.execute("DELETE FROM leases WHERE owner = ?", (owner,))


def totals(db: sqlite3.Connection) -> Totals:
    """What counts towards the caps, inside a transaction."""
    spent = db.execute("SELECT total(calls + unconfirmed), total(cost + unconfirmed_cost) FROM spent").fetchone()
    leased = db.execute("SELECT total(calls), total(cost) FROM leases").fetchone()
    return Totals(int(spent[0] + leased[0]), spent[1] + leased[1])
