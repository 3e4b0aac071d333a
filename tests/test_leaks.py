"""The check that nothing is left open, which every test here goes through; see `support/leaks.py`."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import serve_tinker
from tests.support import leaks
from tests.support.leaks import nothing_left
from truing.backends.tinker import client as tinkering
from truing.core.errors import TrainerError

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")


def thread() -> Callable[[], object]:
    end = threading.Event()
    left = threading.Thread(target=end.wait, name="left-over")
    left.start()
    return lambda: (end.set(), left.join())


def process() -> Callable[[], object]:
    child = subprocess.Popen([sys.executable, "-c", "input('left-over')"], stdin=subprocess.PIPE)
    return lambda: child.communicate(b"\n")


def connection() -> Callable[[], object]:
    left = socket.create_server(("127.0.0.1", 0))
    return left.close


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (thread, "thread Thread left-over"),
        pytest.param(process, "process .*left-over", marks=needs_proc),
        pytest.param(connection, "socket:.*127.0.0.1", marks=needs_proc),
    ],
)
def test_what_is_left_open_is_told(
    leave: Callable[[], Callable[[], object]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "PATIENCE", 0.05)
    monkeypatch.setattr(leaks, "_told", set())
    with pytest.raises(pytest.fail.Exception, match=f"it left open:\n  {words}"), nothing_left("it"):
        end = leave()
    end()


def test_what_ends_in_a_moment_is_not_left() -> None:
    with nothing_left("it"):
        threading.Timer(0.1, lambda: None).start()


def test_a_session_that_goes_on_is_told(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "PATIENCE", 0.05)
    monkeypatch.setattr(leaks, "_told", set())
    with serve_tinker(tiny_model):
        service = tinkering.open_service(TrainerError)
        with pytest.raises(pytest.fail.Exception, match="session_heartbeat"), nothing_left("it"):
            tinkering.offered_name(service, str(tiny_model), TrainerError)
        tinkering.close_service(service)


def test_nothing_goes_on_when_the_server_is_gone_first(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinkering, "_CLOSE", 0.5)
    with serve_tinker(tiny_model):
        service = tinkering.open_service(TrainerError)
        tinkering.offered_name(service, str(tiny_model), TrainerError)
    with nothing_left("it"):
        tinkering.close_service(service, "errored")
    state = random.getstate()
    threading.Event().wait(0.3)
    assert random.getstate() == state
