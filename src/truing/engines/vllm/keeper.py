"""Runs a command and ends it, with all that it started, when its own parent is gone.

    python keeper.py COMMAND...

Run as a file, with the standard library alone. The parent holds the other end of standard input: however it dies, the
pipe closes. On Linux the command is also ended when the keeper itself is killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

_GRACE = 10.0
"""Seconds between asking the command to end and killing it."""
_PR_SET_PDEATHSIG = 1


def _end_with_keeper() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_all(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _keep(command: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    # no other thread runs in this process, so the call between fork and exec is safe
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_keeper)
    while child.poll() is None and not asked:
        with suppress(InterruptedError):
            if select.select([0], [], [], 0.25)[0] and not os.read(0, 1):
                break  # the parent is gone, or has let go
    _signal_all(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)
    _signal_all(child.pid, signal.SIGKILL)  # what the command started and left behind
    return child.wait()


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1:]))
