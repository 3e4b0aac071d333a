"""How far long work is: who works reports, who shows listens.

    with listening(show):                        # the command line, a guard, a worker that sends on
        for answer in counted("judge", 480, answers): ...

Phases are `train` (steps), `sample` (answers) and `judge` (calls). Nobody listens unless asked; a report costs nothing
then. Reports come at most ten times a second, the last one of a phase always.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TextIO, TypeVar

T = TypeVar("T")
Shown = Literal["auto", "json", "quiet"]
"""`auto`: lines, on a terminal one that is written over; `json`: JSON Lines; `quiet`: nothing."""
_NAMES = {"train": "training", "sample": "sampling", "judge": "judging"}
_APART, _LINE_EVERY = 0.1, 30.0


@dataclass(frozen=True)
class Phase:
    """How far one piece of work is."""

    name: str
    """`train`, `sample` or `judge`."""
    done: int
    """Steps, answers or calls that are done."""
    owed: int
    """All of them, those that are done included."""
    seconds: float
    """Seconds since the first report of this piece of work."""
    begun: int = 0
    """How many were done at that first report."""

    @property
    def rate(self) -> float | None:
        """Done a second; None: not known yet."""
        return (self.done - self.begun) / self.seconds if self.seconds > 0 and self.done > self.begun else None

    @property
    def left(self) -> float | None:
        """Seconds until the end, if it goes on like this; None: not known yet."""
        return None if self.rate is None else (self.owed - self.done) / self.rate

    def words(self) -> str:
        """As a reader is told it: `judging 120/480, 6.0/s, 1:00 left`."""
        pace = "" if self.rate is None else f", {self.rate:.2g}/s" if self.rate < 10 else f", {self.rate:,.0f}/s"
        ends = "" if self.left is None else f", {int(self.left) // 60}:{int(self.left) % 60:02d} left"
        return f"{_NAMES.get(self.name, self.name)} {self.done:,}/{self.owed:,}{pace}{ends}"


@dataclass
class _Work:
    """A piece of work that is under way."""

    start: float
    begun: int
    owed: int
    done: int = 0
    handed: int = 0
    """Results that were handed on."""
    told: float = -_APART


_lock = threading.Lock()
_listeners: list[Callable[[Phase], None]] = []
_works: dict[str, _Work] = {}


@contextmanager
def listening(listener: Callable[[Phase], None]) -> Iterator[None]:
    """Call `listener` with the reports of this process, from whichever thread works."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        if not _listeners:  # of work that was given up midway nobody hears more
            with _lock:
                _works.clear()


def report(name: str, done: int, owed: int) -> None:
    """Tell those who listen that `done` of `owed` are done."""
    if not _listeners:
        return
    now = time.monotonic()
    with _lock:
        work = _works.get(name)
        if work is None or work.owed != owed or done == 0 or done < work.begun:  # another piece of work
            work = _works[name] = _Work(now, done, owed)
        if done < work.done or (now - work.told < _APART and done < owed):
            return
        work.done, work.told = done, now
        if done >= owed:
            del _works[name]
        phase = Phase(name, done, owed, now - work.start, work.begun)
    for listener in list(_listeners):
        listener(phase)


def counted(name: str, owed: int, results: Iterable[T]) -> Iterator[T]:
    """The same results, reported as they are handed on."""
    report(name, 0, owed)
    for done, each in enumerate(results, start=1):
        if work := _works.get(name):
            work.handed = done
        report(name, min(done, owed), owed)
        yield each


def ahead(name: str, more: int) -> None:
    """Tell that `more` results are there than have been handed on: of one who works in windows. Else nothing."""
    if work := _works.get(name):
        report(name, min(work.handed + more, work.owed - 1), work.owed)


class Lines:
    """Writes phases to a stream: on a terminal one line that is written over, else a line every 30 s at most.

    Without a `stream` they go to standard error.
    """

    def __init__(self, shown: Shown = "auto", stream: TextIO | None = None) -> None:
        self.shown, self.stream = shown, stream
        self._last = -math.inf

    def __call__(self, phase: Phase, where: str = "") -> None:
        """Show a phase of `where` (a run, a guard), or leave it out."""
        stream, now, end = self.stream or sys.stderr, time.monotonic(), phase.done >= phase.owed
        if self.shown == "quiet":
            return
        if self.shown == "auto" and stream.isatty():
            stream.write(f"\r\x1b[K{self._text(phase, where)}" + ("\r\x1b[K" if end else ""))
        elif now - self._last >= _LINE_EVERY if self.shown == "auto" else end or now - self._last >= 1:
            self._last = now
            stream.write(f"{self._text(phase, where)}\n")
        stream.flush()

    def _text(self, phase: Phase, where: str) -> str:
        if self.shown == "json":
            return json.dumps(as_object(phase, where))
        return f"{where}: {phase.words()}" if where else phase.words()


def as_object(phase: Phase, where: str) -> dict[str, Any]:
    """A phase as one object of JSON Lines: `event`, `where`, `phase`, `done`, `owed`, `seconds`, `rate`, `left`."""
    values = {name: getattr(phase, name) for name in ("done", "owed", "seconds", "rate", "left")}
    return {"event": "progress", "where": where, "phase": phase.name, **values}
