"""Nothing lost, nothing twice: broken endpoints, and processes killed in the middle."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.backends.conftest import CompleterOf, Server
from tests.support.chat_requests import requests
from truing.backends.openai import OpenAICompleter
from truing.config import EndpointConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("n", [400, pytest.param(24_000, marks=pytest.mark.slow)])
def test_seven_faults_at_five_percent_each(n: int, completer: CompleterOf, server: Server) -> None:
    server.set(faults=0.05, hang=2.0, latency=0.001)
    with completer(timeout=0.15, attempts=6, backoff=0.002) as broken:
        results = broken.complete(requests(n))
        missing = [i for i, result in enumerate(results) if result.error is not None]
        (account,) = broken.accounts()
    counts = server.counts()
    assert set(counts["seen"]) == {"sound", "storm", "error", "timeout", "truncated", "shape", "drip", "reset"}
    assert len(results) == n
    assert len(missing) < 0.05 * n  # 0.36 ** 6 of them, and more in storms
    assert all(results[i].text is None for i in missing)
    assert account.calls == n - len(missing)
    assert account.unconfirmed >= counts["seen"]["truncated"] + counts["seen"]["shape"]

    server.set(keep=True, faults=0.0)
    with completer() as mended:
        again = mended.complete(requests(n))  # only what is missing is asked for
        assert mended.accounts()[0].calls == n
    assert all(result.error is None for result in again)
    assert [r for i, r in enumerate(again) if i not in set(missing)] == [r for r in results if r.error is None]
    after = server.counts()
    assert after["different"] == n
    # an answer that was on its way when we lost patience was paid for; nothing else was
    assert after["paid"] - n <= account.unconfirmed


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills: int, server: Server, tmp_path: Path) -> None:
    """At most the calls under way at a kill are paid for twice."""
    concurrency, n = 8, 300 * kills
    server.set(latency=0.004)
    journal, rng = tmp_path / "calls.sqlite", random.Random(kills)
    for _ in range(kills):
        before = server.counts()["paid"]
        process = start(server.url, journal, n, concurrency)
        progress = rng.randrange(1, 250)
        while server.counts()["paid"] < before + progress:
            time.sleep(rng.uniform(0.0, 0.005))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    time.sleep(0.1)
    paid = server.counts()["paid"]
    written = sqlite3.connect(journal).execute("SELECT count(*) FROM calls").fetchone()[0]
    assert 0 <= paid - written <= kills * concurrency
    assert start(server.url, journal, n, concurrency).communicate()[0] == "finished 0\n"
    counts = server.counts()
    assert counts["different"] == n  # nothing lost
    assert counts["paid"] - n <= kills * concurrency  # nothing twice but what was under way
    with OpenAICompleter(EndpointConfig(base_url=server.url), journal) as after:
        assert after.accounts()[0].calls == n


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_in_batch_mode(kills: int, server: Server, tmp_path: Path) -> None:
    """A batch is never made twice."""
    server.set(batch_polls=12)
    journal, rng = tmp_path / "calls.sqlite", random.Random(kills)
    for _ in range(kills):
        process = start(server.url, journal, 300, 8, "batch")
        time.sleep(rng.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert start(server.url, journal, 300, 8, "batch").communicate()[0] == "finished 0\n"
    counts = server.counts()
    assert (counts["paid"], counts["different"], counts["batches"]) == (300, 300, 1)


def test_a_torn_tail_of_the_journal_is_ignored(completer: CompleterOf, server: Server, tmp_path: Path) -> None:
    """As after a power cut: the file's log ends in the middle of a transaction."""
    journal = tmp_path / "torn" / "calls.sqlite"
    process = start(server.url, journal, 200, 8, wait=False)
    time.sleep(1.5)
    process.kill()
    process.communicate()
    log = journal.with_name("calls.sqlite-wal")
    if log.is_file() and log.stat().st_size > 1000:
        os.truncate(log, log.stat().st_size - 700)
    with OpenAICompleter(EndpointConfig(base_url=server.url), journal) as after:
        assert all(r.error is None for r in after.complete(requests(200)))


def test_processes_share_the_caps(server: Server, tmp_path: Path) -> None:
    """Two at once, one journal: together they never make more calls than the cap."""
    code = (
        "import sys; from pathlib import Path; from truing.config import EndpointConfig\n"
        "from truing.backends.openai import OpenAICompleter; from truing.core.errors import CapReached\n"
        "from tests.support.chat_requests import requests\n"
        f"config = EndpointConfig(base_url={server.url!r}, max_calls=100, concurrency=8)\n"
        "c = OpenAICompleter(config, Path(sys.argv[1]))\n"
        "try: c.complete(requests(80, first=1000 * int(sys.argv[2])))\n"
        "except CapReached: pass\n"
        "c.close()"
    )
    server.set(latency=0.01)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "c.sqlite"), str(i)], cwd=ROOT, env=environment())
        for i in range(2)
    ]
    assert [p.wait() for p in processes] == [0, 0]
    assert 76 <= server.counts()["paid"] <= 100


def test_a_killed_processes_lease_counts_as_perhaps_paid(completer: CompleterOf, server: Server) -> None:
    with completer(max_calls=50) as first:
        first.complete(requests(5))
        journal = first.endpoint.journal
        journal.write([], "live", ("9-dead", 7, 0.0))
    with completer(max_calls=50) as second:
        second.complete(requests(10))
        lost = [a for a in second.accounts() if a.unconfirmed]
    assert [(a.model, a.unconfirmed) for a in lost] == [("(under way at a kill)", 7)]


def environment() -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI")}
    return {**own, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def start(
    url: str, journal: Path, n: int, concurrency: int, mode: str = "live", wait: bool = True
) -> subprocess.Popen[str]:
    """A judging process, once it has begun."""
    command = [sys.executable, "-m", "tests.support.judge_worker"]
    arguments = [url, str(journal), str(n), str(concurrency), mode]
    process = subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    if wait:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
    return process
