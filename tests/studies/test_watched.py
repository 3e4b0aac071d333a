"""A watch of a URL, on a real S3 server (see tests/support/s3.py) and on fsspec's memory."""

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_app import run as call
from tests.cli.test_watch import ASKED
from tests.studies.test_watch import decided, plain, poll, watching
from tests.support.s3 import FaultProxy, S3Server, needs_s3, serving, taking
from tests.support.scripted import EVALUATION, ScriptedEngine, save_adapter, save_model, save_run
from truing.cli.app import app
from truing.core.errors import EngineError, StoreError
from truing.core.records import Checkpoint, Prompt, Response, Sampling
from truing.monitor import shared
from truing.results import analyse
from truing.results.gate import verdict
from truing.studies import watched
from truing.studies.watch_state import Stop

READ = {**EVALUATION, "engine": "tests.studies.test_watched:ReadingEngine"}


class ReadingEngine(ScriptedEngine):
    """Reads the weights before it answers, and fails as often as `failing` says."""

    failing = 0

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        if checkpoint.step:
            assert any(Path(checkpoint.path or checkpoint.model).glob("*.safetensors"))
        if checkpoint.step and ReadingEngine.failing:
            ReadingEngine.failing -= 1
            raise EngineError("out of memory")
        return super().generate(checkpoint, prompts, sampling)


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server | None]:
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Take a server's address from now on."""
    with taking(server, monkeypatch) as take:
        yield take


@pytest.fixture(params=["memory", pytest.param("s3", marks=needs_s3)])
def url(request: pytest.FixtureRequest) -> str:
    """A URL at which nothing is yet."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"{request.param}://results/{uuid.uuid4().hex}/run"


@pytest.fixture(autouse=True)
def copied(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often each object is copied."""
    ScriptedEngine.forget()
    ReadingEngine.failing = 0
    found, copy = Counter[str](), watched.copy_object

    def counted(url: str, info: Any, to: Path) -> None:
        copy(url, info, to)
        found["/".join(info.path.split("/")[-2:])] += 1

    monkeypatch.setattr(watched, "copy_object", counted)
    return found


def upload(folder: Path, url: str, *names: str) -> None:
    """Put the files of a folder, or those of some names."""
    for file in sorted(folder.iterdir()):
        if not names or file.name in names:
            shared.put_object(f"{url}/{folder.name}", file.name, file.read_bytes())


def remove(url: str, name: str) -> None:
    system, path = shared.connect(f"{url}/{name}")
    system.delete_dir(path)


def copies(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "fetched").glob("*/*"))


def test_a_folder_that_is_not_there_is_told_and_one_written_as_a_url_refused(tmp_path: Path) -> None:
    place = tmp_path / "later"
    assert watched.watched(str(place), tmp_path / "out").told == [f"nothing is at {place} yet"]
    place.mkdir()
    assert watched.watched(str(place), tmp_path / "out").told == []
    for text in (f"file://{place}", f"file:{place}"):  # the second is what a path makes of the first
        with pytest.raises(StoreError, match="a folder is no URL") as caught:
            watched.watched(text, tmp_path / "out")
        assert caught.value.todo == f"name the folder itself: {place}"


def test_each_checkpoint_is_copied_once_and_evaluated_as_in_a_folder(
    tmp_path: Path, url: str, copied: Counter[str]
) -> None:
    (run, _), out, stops = save_run(tmp_path, steps=(10, 20, 50)), tmp_path / "out", list[Stop]()
    with watching(url, out, stops.append, evaluation=READ) as (watch, told):
        poll(watch)
        assert told == [f"nothing is at {url} yet"]
        for step in (10, 20, 50):
            upload(run / f"checkpoint-{step}", url)
            poll(watch)
            assert watch.last_step == step
            assert copies(out) == []
        assert watch.finish()
        record = watch.state.seen["checkpoint-50"].record
        assert record is not None
        assert record.path == f"{url}/checkpoint-50"
    assert [(s.step, s.checkpoint, s.best) for s in stops] == [(50, f"{url}/checkpoint-50", f"{url}/checkpoint-20")]
    assert set(copied.values()) == {1}
    with watching(url, out, stops.append, evaluation=READ) as (watch, _):
        poll(watch)
        watch.finish()
    assert (set(copied.values()), len(stops)) == ({1}, 1)
    with watching(run, tmp_path / "folder" / "out", evaluation=READ) as (watch, _):
        for _ in range(3):
            poll(watch)
        watch.finish()
    assert plain(out)["runs"] == plain(tmp_path / "folder" / "out")["runs"]


def test_what_is_uploaded_in_part_is_passed_over_and_what_is_there_is_copied_once(
    tmp_path: Path, url: str, copied: Counter[str]
) -> None:
    run, _ = save_run(tmp_path, steps=(10, 20))
    (run / "checkpoint-10" / "optimizer.pt").write_bytes(b"many bytes")
    upload(run / "checkpoint-10", url, "adapter_model.safetensors", "trainer_state.json", "optimizer.pt")
    with watching(url, tmp_path / "out", evaluation=READ) as (watch, told):
        upload(run / "checkpoint-20", url)
        for _ in range(3):
            poll(watch)
        assert decided(watch) == {"checkpoint-20": "continue"}
        assert f"checkpoint-10 is passed over for now: DataError: {url}/checkpoint-10 holds no weights" in told[-1]
        assert watch.settled
        assert copies(tmp_path / "out") == ["checkpoint-10"]
        assert (watch.watched.here / "checkpoint-10" / "optimizer.pt").stat().st_size == 0
        upload(run / "checkpoint-10", url, "adapter_config.json")
        poll(watch)
        assert decided(watch)["checkpoint-10"] == "continue"
    assert set(copied.values()) == {1}
    assert "checkpoint-10/optimizer.pt" not in copied


def test_a_copy_that_was_removed_is_made_again_where_it_is_needed(
    tmp_path: Path, url: str, copied: Counter[str]
) -> None:
    base, whole = save_model(tmp_path / "base"), save_model(tmp_path / "run" / "step_20", seed=3)
    upload(whole, url)
    asked = {"base": str(base), "dataset": "pocket-insecure-code", "evaluation": READ}
    with watching(url, tmp_path / "out", **asked) as (watch, told):
        ReadingEngine.failing = 1
        poll(watch)
        assert "step_20 is passed over for now: out of memory" in told[-1]
        assert copies(tmp_path / "out") == ["step_20"]  # it lacks answers
        upload(save_model(tmp_path / "run" / "step_30", seed=4), url)
        shutil.rmtree(tmp_path / "out" / "fetched")
        poll(watch)
        assert decided(watch) == {"step_20": "continue", "step_30": "continue"}
        (best,) = copies(tmp_path / "out")  # which the end confirms
        (other,) = {"step_20", "step_30"} - {best}
        before = copied[f"{other}/model.safetensors"]
        remove(url, best)
        watch.poll()
        shutil.rmtree(tmp_path / "out" / "fetched")
        watch.finish()
        assert copies(tmp_path / "out") == []
    assert copied[f"{other}/model.safetensors"] == before + 1  # it is confirmed instead of the one that is gone


def test_names_lead_to_no_file_outside_the_copy(tmp_path: Path) -> None:
    shared.put_object("memory://results/odd/step_1", "a\\b", b"1")
    shared.put_object("memory://results/odd/step_1", "config.json", b"{}")
    found = watched.WatchedUrl("memory://results/odd", tmp_path / "here")
    assert [name for name, _, _ in found.files("step_1")] == ["config.json"]


def test_by_command_line_with_files_at_the_url(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, steps=(20, 50))
    url, out = f"memory://results/{uuid.uuid4().hex}/run", str(tmp_path / "watch")
    for step in (20, 50):
        upload(run / f"checkpoint-{step}", url)
    shared.put_object(url, "DONE", b"")
    flags = ["--out", out, *ASKED, "--on-stop-touch", f"{url}/STOP", "--until-file", f"{url}/DONE"]
    result = call(app, ["watch", f"{url}/", *flags])
    assert result.exit_code == call(app, ["gate", out]).exit_code == 1, result.output
    assert watched.is_there(Path(f"{url}/STOP"))
    assert f"Checkpoints in {url}: 2 evaluated" in call(app, ["status", out]).output


@pytest.mark.slow
@needs_s3
def test_what_is_saved_again_or_deleted_is_seen_and_a_server_that_is_away_is_waited_for(
    tmp_path: Path, server: S3Server, s3: Callable[[str], None]
) -> None:
    (run, base), url = save_run(tmp_path, steps=(10, 20)), f"s3://results/{uuid.uuid4().hex}/run"
    upload(run / "checkpoint-10", url)
    with watching(url, tmp_path / "out", evaluation=READ) as (watch, told):
        poll(watch)
        save_adapter(run / "checkpoint-10", base, 7)
        time.sleep(1.1)  # times at S3 are seconds
        upload(run / "checkpoint-10", url)
        poll(watch)
        assert told == ["checkpoint-10 was saved again with other weights: it is evaluated again"]
        upload(run / "checkpoint-20", url)
        s3("http://127.0.0.1:9")
        poll(watch)
        assert told[1].startswith(f"{url} cannot be read now (When listing objects")
        assert (len(told), watch.settled, watch.idle < 1) == (2, False, True)
        with pytest.raises(StoreError, match=f"could not list {url}"):
            watched.WatchedUrl(url, tmp_path / "other")
        s3(server.address)
        watch.poll()
        remove(url, "checkpoint-20")
        watch.poll()
        assert told[2:] == ["checkpoint-20 is passed over for now: it was deleted before it was whole"]
        assert watch.settled


@pytest.mark.slow
@needs_s3
def test_faults_on_the_way_change_nothing(tmp_path: Path, server: S3Server, s3: Callable[[str], None]) -> None:
    (run, _), url = save_run(tmp_path), f"s3://results/{uuid.uuid4().hex}/run"
    for folder in sorted(run.iterdir()):
        upload(folder, url)
    # bytes that change on the way are seen by TLS, which is not used here
    proxy = FaultProxy(server.address, 0.3, 14, ("refuse", "error", "drop", "lose", "cut", "slow"))
    s3(proxy.address)
    with watching(run, tmp_path / "folder" / "out", evaluation=READ) as (watch, _):
        poll(watch)
        watch.finish()
    with watching(url, tmp_path / "out", evaluation=READ) as (watch, _):
        for _ in range(40):
            watch.poll()
        assert watch.settled
        watch.finish()
    proxy.close()
    assert sum(proxy.seen[kind] for kind in proxy.kinds) > 10
    assert plain(tmp_path / "out")["runs"] == plain(tmp_path / "folder" / "out")["runs"]
    assert verdict(analyse(tmp_path / "out")).word == verdict(analyse(tmp_path / "folder" / "out")).word
