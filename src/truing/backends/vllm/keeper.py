"""Runs a command and ends it, with all that it started, when its own parent is gone.

    python keeper.py COMMAND...

Run as a file, with the standard library alone. The parent holds the other end of standard input: however it dies, the
pipe closes. Keeper and command are one process group, named by the keeper's process: whoever sees the keeper dead can
end the rest. On Linux the command is also asked to end when the keeper itself is killed.
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


def _signal_all(number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(os.getpgrp(), number)


def _keep(command: list[str]) -> int:
    with suppress(PermissionError):  # it leads a session already
        os.setsid()  # so Ctrl-C is the parent's alone to answer
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    # no other thread runs in this process, so the call between fork and exec is safe
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_keeper)
    while child.poll() is None and not asked:
        with suppress(InterruptedError):
            if select.select([0], [], [], 0.25)[0] and not os.read(0, 1):
                break  # the parent is gone, or has let go
    _signal_all(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)
    _signal_all(signal.SIGKILL)  # what the command started and left behind, and the keeper itself
    return child.wait()


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1:]))
