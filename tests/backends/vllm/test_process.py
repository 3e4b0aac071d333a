"""What a process started, ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from truing.backends.vllm import keeper
from truing.backends.vllm.admin import Admin
from truing.backends.vllm.process import Installation, ServerProcess, free_port, server_environment
from truing.config import VllmConfig
from truing.core.errors import EngineError

KEEPER = str(keeper.__file__)
CHILD = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
keeper = subprocess.Popen([sys.executable, "-I", {KEEPER!r}, sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE)
time.sleep(60)
"""
STUBBORN = f"""#!{sys.executable}
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())

signal.signal(signal.SIGTERM, signal.SIG_IGN)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
"""A server that does not end when it is asked to, as vLLM does not while calls wait and its engine is gone."""


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_ends_with_its_parent_however_that_dies(number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert all(running(pid) for pid in pids)
    os.kill(parent.pid, number)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    installation = Installation(Path(sys.executable), "none", cpu=False)  # this environment has no vLLM
    process = ServerProcess(installation, ["--model", "x"], 9, tmp_path / "log")
    with pytest.raises(EngineError, match="did not start") as caught:
        process.start(Admin("http://127.0.0.1:9/v1", "", 5.0), dict(os.environ), VllmConfig().start_timeout)
    assert "No module named" in caught.value.got
    assert not process.alive


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_a_stubborn_server_ends_with_its_keeper(tmp_path: Path) -> None:
    interpreter, port = tmp_path / "python", free_port()
    interpreter.write_text(STUBBORN)
    interpreter.chmod(0o755)
    process = ServerProcess(Installation(interpreter, "none", cpu=False), [], port, tmp_path / "log")
    process.start(Admin(f"http://127.0.0.1:{port}/v1", "", 5.0), dict(os.environ), 60)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        server = int(answer.read())
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while running(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not process.alive
    process.stop()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_a_server_that_nobody_holds_any_more_ends(tmp_path: Path) -> None:
    interpreter, port = tmp_path / "python", free_port()
    interpreter.write_text(STUBBORN.replace("signal.signal(", "("))
    interpreter.chmod(0o755)
    process = ServerProcess(Installation(interpreter, "none", cpu=False), [], port, tmp_path / "log")
    process.start(Admin(f"http://127.0.0.1:{port}/v1", "", 5.0), dict(os.environ), 60)
    keeper = process.pid
    assert keeper is not None
    assert running(keeper)
    del process
    assert not running(keeper)


def test_a_server_is_no_process_of_the_training_that_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID FSDP_VERSION"
    kept = {"CUDA_VISIBLE_DEVICES": "3", "VLLM_PORT": "1", "HOME": "/h"}
    for name, value in {**dict.fromkeys(told.split(), "1"), "ACCELERATE_USE_FSDP": "true", **kept}.items():
        monkeypatch.setenv(name, value)
    given = server_environment(local=True, own=True)
    assert not {*told.split(), "ACCELERATE_USE_FSDP"} & given.keys()
    assert kept.items() <= given.items()
