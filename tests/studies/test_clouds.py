"""Checkpoints and results at az:// and gs://, on servers that stand for these (see tests/support/clouds.py)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_watch import ASKED
from tests.support.clouds import CLOUDS, CloudServer
from tests.support.scripted import save_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PUT = """
import sys
from pathlib import Path
from truing.monitor.shared import look_at, put_object
for file in Path(sys.argv[1]).rglob("*.*"):
    put_object(sys.argv[2], file.relative_to(sys.argv[1]).as_posix(), file.read_bytes())
assert look_at(sys.argv[2], "checkpoint-50/adapter_config.json").mtime_ns
"""


@pytest.fixture(params=["az", "gs"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudServer]:
    if not CLOUDS[request.param]:
        pytest.skip(f"no server for {request.param}:// is installed (tests/support/clouds.py)")
    (tmp_path / "server").mkdir()
    server = CloudServer(request.param, tmp_path / "server")
    yield server
    server.close()


def test_checkpoints_are_watched_there_and_results_gated_from_there(server: CloudServer, tmp_path: Path) -> None:
    (run, _), url = save_run(tmp_path, steps=(20, 50)), f"{server.url}/study"
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **server.environment, "PYTHONPATH": paths}

    def on(machine: str, *words: str) -> tuple[int, str]:
        (tmp_path / machine).mkdir(exist_ok=True)
        command, given = [sys.executable, *words], {"cwd": tmp_path / machine, "env": environment}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **given)  # type: ignore[call-overload]
        return done.returncode, done.stdout + done.stderr

    code, said = on("training", "-c", PUT, str(run), f"{url}/run")
    assert code == 0, said
    ends = [*ASKED, "--until-step", "50"]
    touch = ["--on-stop-touch", f"{url}/STOP"]
    code, said = on("one", "-m", "truing", "watch", f"{url}/run", "--out", f"{url}/watch", *touch, *ends)
    assert code == 1, said
    assert on("here", "-m", "truing", "watch", str(run), "--out", "watch", *ends)[0] == 1
    there, here = on("other", "-m", "truing", "gate", f"{url}/watch"), on("here", "-m", "truing", "gate", "watch")
    assert there == here
    assert there[0] == 1
    code, said = on(
        "one", "-m", "truing", "watch", f"{url}/run", "--out", f"{url}/watch", "--until-file", f"{url}/STOP", *ASKED
    )
    assert code == 1, said
