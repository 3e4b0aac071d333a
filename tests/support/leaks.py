"""What is open in this process: threads, tasks of the Tinker SDK's event loop, child processes and sockets.

Sockets and processes are read from /proc; where there is none (macOS), threads and tasks alone are seen. Threads of
libraries' own making in C, such as torch's, are not Python's and are not seen.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["nothing_left"]

PATIENCE = 20.0
"""Seconds in which what is about to end may do so; only what is left open in the end takes so long."""
THREADS = {
    "tqdm_monitor": "tqdm's one thread, which the first progress bar starts: it looks for bars that stand still",
}
"""Names of threads that stay by a library's design, and why; see also `_tinker_loop`."""
PROCESSES = {
    "from multiprocessing.resource_tracker import main": "one process, which `multiprocessing` starts and keeps",
}
"""What stands in the command of processes that stay by a library's design, and why."""


_told: set[Hashable] = set()
"""What a test has been failed for, which is no fault of its module's or the session's."""


@contextmanager
def nothing_left(where: str, forget: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Fails the test if something is open after the block that was not before it.

    `forget` drops what pytest alone still holds, such as logged errors: their frames keep the clients that met them.
    """
    before = set(_opened())
    yield
    left = _left(before)
    start, collections = time.monotonic(), 0
    while left and (passed := time.monotonic() - start) < PATIENCE:
        if passed >= 0.5 * collections:  # what is held by garbage alone, which what ends meanwhile makes more of
            forget()
            gc.collect()
            collections += 1
        time.sleep(0.01)
        left = _left(before)
    if left:
        _told.update(left)
        pytest.fail(f"{where} left open:\n  " + "\n  ".join(sorted(left.values())), pytrace=False)


def _left(before: set[Hashable]) -> dict[Hashable, str]:
    return {key: words for key, words in _opened().items() if key not in before and key not in _told}


def _opened() -> dict[Hashable, str]:
    """What is open, by something that nothing else is ever known by, and in words."""
    loops = _tinker_loop()
    known = {thread for thread, _ in loops}
    for _, loop in loops:  # the threads of a loop's own pool wait for work as long as it lives
        known |= set(getattr(loop._default_executor, "_threads", ()))  # type: ignore[attr-defined]
    found: dict[Hashable, str] = {
        thread: f"thread {type(thread).__qualname__} {thread.name}"
        for thread in threading.enumerate()
        if thread not in known and thread.name not in THREADS
    }
    for _, loop in loops:
        found |= {("task", id(task), task.get_name()): f"task {task!r}" for task in asyncio.all_tasks(loop)}
    if Path("/proc/self/fd").is_dir():
        found |= _children() | _sockets([loop for _, loop in loops])
    return found


def _tinker_loop() -> list[tuple[threading.Thread, asyncio.AbstractEventLoop]]:
    """The one thread with a loop that the Tinker SDK starts and never ends; without tasks it does nothing."""
    module = sys.modules.get("tinker.lib.internal_client_holder")
    if module is None:
        return []
    single = module._internal_client_holder_thread_singleton
    return [] if single._thread is None else [(single._thread, single._loop)]


def _children() -> dict[Hashable, str]:
    found: dict[Hashable, str] = {}
    for number in _processes():
        with suppress(OSError):
            fields = Path("/proc", number, "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                command = Path("/proc", number, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if not any(name in command for name in PROCESSES):
                    found["process", number, fields[19]] = f"process {number} ({fields[0]}) {command}"
    return found


def _processes() -> list[str]:
    """Numbers of processes, all children of this one among them; of these alone where the kernel lists them."""
    found: list[str] = []
    for task in os.listdir("/proc/self/task"):
        try:
            found += Path("/proc/self/task", task, "children").read_text().split()
        except FileNotFoundError:
            if Path("/proc/self/task", task).exists():
                return [name for name in os.listdir("/proc") if name.isdecimal()]
    return found


def _sockets(loops: list[asyncio.AbstractEventLoop]) -> dict[Hashable, str]:
    own = {end.fileno() for loop in loops for end in (loop._ssock, loop._csock)}  # type: ignore[attr-defined]
    found: dict[Hashable, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:") and int(name) not in own:
                found[target] = f"{target} {_ends(int(name))}"
    return found


def _ends(number: int) -> str:
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
        try:
            return f"{copy.getsockname()} to {copy.getpeername()}"
        except OSError:
            return f"{copy.getsockname()}, which listens or is not connected"
    return ""
