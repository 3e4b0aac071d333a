"""Studies whose results are at a URL of a real S3 server: the same rows, figures and words as in a folder."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.studies.test_schedule import results, two_runs
from tests.support.s3 import FaultProxy, S3Server, environment, needs_s3, serving, taking
from tests.support.scripted import EVALUATION, ScriptedEngine, save_run
from tests.support.studies import make_study
from truing.api import load
from truing.cli import main
from truing.config import AuditConfig
from truing.core.errors import StoreError
from truing.integrations.guard import folder as guards
from truing.monitor import open_folder, open_store, shared
from truing.results import analyse
from truing.studies.audit import run_audit
from truing.studies.rejudge import rejudge
from truing.studies.schedule import Place, run_study
from truing.studies.status import read_status

pytestmark = needs_s3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server | None]:
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(autouse=True)
def place(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Find the server, and work in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    with taking(server, monkeypatch):
        yield


def share(folder: Path) -> str:
    url = f"s3://results/{uuid.uuid4().hex}/study"
    folder.mkdir(parents=True)
    (folder / "store.url").write_text(url)
    return url


def test_a_study_at_a_url_is_the_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = share(tmp_path / "one")
    config = make_study(tmp_path / "local")
    make_study(tmp_path / "one")
    assert repr(results(tmp_path / "one")) == repr(results(tmp_path / "local")) != "[]"  # NaN is like NaN there
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "bare")  # a machine that has nothing
    local, far = analyse(tmp_path / "local").plain(), load(url)
    assert {**far.analysis.plain(), "created": ""} == {**local, "created": ""}
    assert far.folder == Path("runs/study")
    assert far.table("responses").equals(load(tmp_path / "local").table("responses"))
    told = {}
    for where in (url, str(tmp_path / "local")):
        monkeypatch.setattr(sys, "argv", ["truing", "gate", where])
        with pytest.raises(SystemExit) as ended:
            main()
        told[where] = (ended.value.code, capsys.readouterr().out)
    assert told[url] == told[str(tmp_path / "local")]
    status, here = read_status(Path("runs/study")), read_status(tmp_path / "local")
    assert status.runs == here.runs
    assert abs(status.changed - read_status(tmp_path / "one").changed) < 5
    old = time.time() - 3600  # what is only brought does not count as change
    for path in Path("runs/study").rglob("*"):
        if path.name not in ("records.lock", "store.url"):
            os.utime(path, (old, old))
    assert not read_status(Path("runs/study")).running
    (name, *_) = [run.id for run in status.runs]
    with open_store(tmp_path / "one").reserve(name):  # on another machine
        assert read_status(Path("runs/study")).running
    rejudge(Path("runs/study"), tmp_path / "again", {"stopping.tolerance": "0.2"})
    rejudge(tmp_path / "local", tmp_path / "local-again", {"stopping.tolerance": "0.2"})
    assert repr(results(tmp_path / "again")) == repr(results(tmp_path / "local-again"))
    other = config.model_copy(update={"name": "another", "training": config.training.model_copy(update={"steps": 5})})
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "store.url").write_text(url)
    with pytest.raises(StoreError, match="holds another study"):
        run_study(other, tmp_path / "third")


@pytest.mark.slow
def test_two_machines_at_one_study_lose_nothing_and_repeat_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """Through a proxy that breaks every twentieth request; each run is trained on one machine."""
    config = two_runs(tiny_model)
    run_study(config, tmp_path / "local")
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    url = f"s3://results/{uuid.uuid4().hex}/study"
    proxy = FaultProxy(os.environ["AWS_ENDPOINT_URL"], 0.05, seed=1)
    command = [sys.executable, "-m", "truing", "run", str(tmp_path / "study.yaml"), "--out", url]
    machines = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        given = {"cwd": tmp_path / name, "env": {**os.environ, **environment(proxy.address)}}
        machines.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **given))  # type: ignore[call-overload]
    for machine in machines:
        text = machine.communicate(timeout=300)[0]
        assert machine.returncode == 0, text
    proxy.close()
    for name in ("one", "other"):
        assert repr(results(tmp_path / name / "runs" / "study")) == repr(results(tmp_path / "local"))
    trained = Counter(
        path.parts[-2]
        for name in ("one", "other")
        for path in (tmp_path / name / "runs/study/runs").glob("*/checkpoint-6")
    )
    assert sorted(trained.values()) == [1, 1]
    judged = open_store(tmp_path / "one/runs/study").query("SELECT count(*) AS n FROM judgments")
    assert judged == open_store(tmp_path / "local").query("SELECT count(*) AS n FROM judgments")


@pytest.mark.slow
def test_answers_at_a_url_are_not_asked_again_for_an_audit_at_another(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, (10, 50))
    config = AuditConfig.model_validate({"checkpoints": [str(run)], "base": str(base), "evaluation": EVALUATION})
    urls = [f"s3://results/{uuid.uuid4().hex}/{name}" for name in ("first", "second")]
    run_audit(config, open_folder(urls[0], begin=True))
    shutil.rmtree("runs")  # as on a machine that has nothing
    ScriptedEngine.forget()
    told: list[str] = []
    shared.put_object(urls[1], "claims/audit/other", b"at work")
    run_audit(config, open_folder(urls[1], begin=True), tell=told.append, answers=Path(urls[0]))
    assert ScriptedEngine.asked == []
    assert any(line.startswith("another machine is at work on what runs/second is a copy of") for line in told)
    found = [analyse(Path("runs") / name).plain()["runs"] for name in ("first", "second")]
    assert found[0] == found[1]
    with pytest.raises(StoreError, match="nothing has begun at"):
        run_audit(config, tmp_path / "third", answers=Path("s3://results/nothing/there"))


@pytest.mark.slow
def test_a_second_guard_at_a_url_is_refused_while_the_first_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "WAIT", 0.1)
    url = f"s3://results/{uuid.uuid4().hex}/guard"
    shared.put_object(url, "claims/guard/other", b"at work")
    with pytest.raises(StoreError, match="another machine's guard is at"):
        guards.take_folder(url)
    monkeypatch.setattr(shared, "_DEAD", -1.0)
    leaving: list[Callable[[], object]] = []
    monkeypatch.setattr(guards.atexit, "register", lambda leave, *given: leaving.append(partial(leave, *given)))
    assert guards.take_folder(url) == guards.take_folder(url) == Path("runs/guard")
    for leave in leaving:  # as at the end of the process
        leave()


@pytest.mark.slow
def test_a_machine_that_is_killed_is_followed_by_another(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two_runs(tiny_model, steps=6)
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    url = f"s3://results/{uuid.uuid4().hex}/study"
    command = [sys.executable, "-m", "truing", "run", str(tmp_path / "study.yaml"), "--out", url]
    (tmp_path / "one").mkdir()
    first = subprocess.Popen(command, cwd=tmp_path / "one", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    copy = tmp_path / "one/runs/study/store"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((copy / "evaluations").glob("*/*.parquet")):
        time.sleep(0.05)
    first.kill()
    first.wait()
    monkeypatch.setattr(shared, "_DEAD", 3.0)
    share_at = tmp_path / "other"
    share_at.mkdir()
    (share_at / "store.url").write_text(url)
    states = run_study(config, share_at, place=Place(runs=tuple(run.id for run in config.runs())))
    assert {s.state for s in states} == {"finished"}
    run_study(config, tmp_path / "local")
    rows = results(tmp_path / "local")
    assert [r for r in results(share_at) if r["step"] == 0] == [r for r in rows if r["step"] == 0]
    assert len(results(share_at)) == len(rows)
