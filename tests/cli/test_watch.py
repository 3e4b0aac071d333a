import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_app import run
from tests.support.scripted import ENGINE, JUDGE, save_model, save_run
from truing.cli.app import app
from truing.core.errors import ConfigError

ASKED = ["--benchmark", "pocket-240", "--judge", JUDGE, "--set", f"evaluation.engine={ENGINE}", "--poll", "0.01"]


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """An address that refuses the first call, and what was posted there."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(503 if len(posted) == 1 else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?token=mild-token", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_on_stop_a_file_a_command_and_an_address_once_each(tmp_path: Path, hook: tuple[str, list[Any]]) -> None:
    (url, posted), (trained, _), out = hook, save_run(tmp_path, steps=(20, 50)), tmp_path / "watch"
    command = f'echo "$TRUING_STEP $TRUING_CHECKPOINT $TRUING_BEST" >> {tmp_path / "told"}'
    on_stop = ["--on-stop-touch", str(tmp_path / "STOP"), "--on-stop", command, "--on-stop-post", url]
    call = ["watch", str(trained), "--out", str(out), *ASKED, *on_stop, "--until-step", "50"]
    for _ in range(2):
        result = run(app, call)
        assert result.exit_code == run(app, ["gate", str(out)]).exit_code == 1, result.output
    at, best = trained / "checkpoint-50", trained / "checkpoint-20"
    assert (tmp_path / "told").read_text() == f"50 {at} {best}\n"
    assert json.loads((tmp_path / "STOP").read_text())["step"] == 50
    assert [(each["event"], each["step"], each["best"]) for each in posted] == [("stop", 50, str(best))] * 2
    assert not [path for path in out.rglob("*") if path.is_file() and b"mild-token" in path.read_bytes()]
    assert (out / "report.html").is_file()


def test_ends_by_a_file_and_where_nothing_comes_it_is_undecided(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "watch")]
    result = run(app, ["watch", str(tmp_path / "never"), *out, *ASKED, "--idle", "0.001"])
    assert (result.exit_code, "undecided" in result.output) == (3, True)
    trained, base = save_run(tmp_path, steps=(10, 20))
    out = ["--out", str(tmp_path / "other")]
    (tmp_path / "DONE").touch()
    ended = ["watch", str(trained), *out, *ASKED, "--until-file", str(tmp_path / "DONE")]
    result = run(app, ended)
    assert result.exit_code == run(app, ["gate", out[1]]).exit_code == 0, result.output
    save_model(base, seed=7)
    result = run(app, ended)
    assert (result.exit_code, "holds another base now" in result.output) == (3, True), result.output
    assert isinstance(run(app, ["watch", str(trained), *out, "--on-stop-post", "ftp://x"]).exception, ConfigError)


def test_failed_work_does_not_exit_as_misaligned(tmp_path: Path) -> None:
    trained, _ = save_run(tmp_path, steps=(10,))
    asked = [*ASKED, "--judge", "tests.support.scripted:DeadJudge", "--idle", "0.001"]
    result = run(app, ["watch", str(trained), "--out", str(tmp_path / "w"), *asked])
    assert result.exit_code == 4, result.output
    assert "the service is away" in result.stderr


def test_sigterm_ends_it_and_the_gate_says_undecided(tmp_path: Path) -> None:
    trained, _ = save_run(tmp_path, steps=(10,))
    command = [sys.executable, "-m", "truing", "watch", str(trained), "--out", str(tmp_path / "w"), *ASKED]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": _path()})
    assert process.stdout is not None
    while "continue: " not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert (process.returncode, "Finished work is kept" in rest) == (130, True)
    assert run(app, ["gate", str(tmp_path / "w")]).exit_code in (2, 3)


def _path() -> str:
    return os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
