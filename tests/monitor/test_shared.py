"""Results at a URL, on a real S3 server (see tests/support/s3.py) and on fsspec's memory."""

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.s3 import FaultProxy, S3Server, needs_s3, serving, taking
from truing.core.errors import StoreError
from truing.monitor import open_folder, shared
from truing.monitor.shared import SharedStore
from truing.monitor.store import open_store

ROW = {"prompt_id": "p", "sample": 0, "text": "hi", "n_tokens": 1, "finished": True, "error": None, "refused": False}


def row(number: int, text: str | None = "hi", error: str | None = None) -> dict[str, Any]:
    return {**ROW, "sample": number, "text": text, "error": error}


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server | None]:
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["memory", pytest.param("s3", marks=needs_s3)])
def url(request: pytest.FixtureRequest) -> str:
    """A URL at which nothing is yet."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"{request.param}://results/{uuid.uuid4().hex}"


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Take a server's address from now on."""
    with taking(server, monkeypatch) as take:
        yield take


def machine(folder: Path, url: str) -> SharedStore:
    """The store of a folder that is shared at a URL."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store.url").write_text(f"{url}\n")
    store = open_store(folder)
    assert isinstance(store, SharedStore)
    return store


def test_what_one_machine_writes_another_reads(tmp_path: Path, url: str) -> None:
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    assert not one.has("responses", "k")
    assert not other.has("responses", "k")
    one.write("responses", "k", [row(0), row(1)])
    assert other.has("responses", "k")
    assert other.read("responses", "k") == [{**row(0), "key": "k"}, {**row(1), "key": "k"}]
    other.write("responses", "k", [row(0, "another")])
    assert machine(tmp_path / "third", url).query("SELECT text FROM responses") == [{"text": "hi"}] * 2
    (file,) = (tmp_path / "third").rglob("*.parquet")
    assert file.relative_to(tmp_path / "third").as_posix().startswith("store/responses/k/000001-")


def test_two_that_write_at_a_time_overwrite_nothing(tmp_path: Path, url: str) -> None:
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    one.read("responses", "k") if one.has("responses", "k") else None
    one.amend("responses", "k", [row(0), row(1, None, "timeout")])
    other.amend("responses", "k", [row(1), row(0, None, "timeout"), row(2)])  # it has not looked
    third = machine(tmp_path / "third", url)
    found = {r["sample"]: r["text"] for r in third.read("responses", "k")}
    assert found == {0: "hi", 1: "hi", 2: "hi"}  # what failed takes the place of nothing
    queried = third.query("SELECT sample, text FROM responses ORDER BY sample")
    assert {r["sample"]: r["text"] for r in queried} == found


def test_parts_are_joined_and_readers_of_both_read_the_same(tmp_path: Path, url: str) -> None:
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    for number in (2, 0, 1):
        one.amend("responses", "k", [row(number, None, "timeout") if number == 1 else row(number)])
    one.amend("responses", "k", [row(1, "late")])
    before, written = other.read("responses", "k"), other.written("responses", "k")
    assert [r["sample"] for r in before] == [2, 0, 1]
    other.amend("responses", "k", [row(7)])
    assert one.compact() == 4
    assert one.compact() == 0
    fresh = machine(tmp_path / "fresh", url)
    assert fresh.read("responses", "k")[:3] == before
    assert [r["sample"] for r in fresh.read("responses", "k")] == [2, 0, 1, 7]
    assert abs((fresh.written("responses", "k") - written).total_seconds()) < 2
    assert len(list((tmp_path / "fresh").rglob("*.parquet"))) == 1
    other.amend("responses", "k", [row(8)])  # it has the old parts and does not know that they are gone
    assert [r["sample"] for r in other.read("responses", "k")] == [2, 0, 1, 7, 8]
    assert [r["sample"] for r in machine(tmp_path / "last", url).read("responses", "k")] == [2, 0, 1, 7, 8]


def test_who_dies_while_joining_leaves_nothing_wrong(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine(tmp_path / "one", url)
    for number in (2, 0, 1):
        one.amend("responses", "k", [row(number)])
    removed: list[Path] = []

    def die(self: SharedStore, part: Path) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(part)
        shared._remove(self.url, part.relative_to(self.root).as_posix())

    with monkeypatch.context() as killed:
        killed.setattr(SharedStore, "_remove", die)
        with pytest.raises(KeyboardInterrupt):
            one.compact()
    other = machine(tmp_path / "other", url)
    assert [r["sample"] for r in other.read("responses", "k")] == [2, 0, 1]
    other.compact()
    assert [r["sample"] for r in machine(tmp_path / "last", url).read("responses", "k")] == [2, 0, 1]


def test_files_from_before_a_folder_was_shared_go_there(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "one"
    local = open_store(folder)
    local.write("responses", "k", [row(0), row(1, None, "timeout")])
    local.amend("responses", "k", [row(1)])
    (folder / "manifest.json").write_text("{}")
    machine(folder, url).exchange()
    other = machine(tmp_path / "other", url)
    assert [r["text"] for r in other.read("responses", "k")] == ["hi", "hi"]
    other.exchange()
    assert (tmp_path / "other" / "manifest.json").read_text() == "{}"
    assert not list((folder / "store" / "responses").glob("*.parquet"))


def test_a_copy_without_its_url_is_a_folder_and_what_is_added_there_goes_to_the_url(tmp_path: Path, url: str) -> None:
    one = machine(tmp_path / "one", url)
    one.amend("responses", "k", [row(0)])
    one.amend("responses", "k", [row(1, None, "timeout"), row(2, None, "timeout")])
    (tmp_path / "one" / "store.url").unlink()
    alone = open_store(tmp_path / "one")
    alone.amend("responses", "k", [row(1, "late")])
    alone.amend("responses", "k", [row(2, "later")])
    expected = {0: "hi", 1: "late", 2: "later"}
    assert {r["sample"]: r["text"] for r in alone.read("responses", "k")} == expected
    assert {r["sample"]: r["text"] for r in alone.query("SELECT * FROM responses")} == expected
    machine(tmp_path / "one", url).exchange()
    assert {r["sample"]: r["text"] for r in machine(tmp_path / "other", url).read("responses", "k")} == expected
    (tmp_path / "one" / "store.url").unlink()
    alone = open_store(tmp_path / "one")
    assert alone.compact() == 3
    assert {r["sample"]: r["text"] for r in alone.read("responses", "k")} == expected


def test_a_decision_from_before_a_folder_was_shared_keeps_its_time(tmp_path: Path, url: str) -> None:
    before = open_store(tmp_path / "one")
    for key, when in (("later", 2e9), ("sooner", 1e9)):
        before.write("evaluations", key, [{"run_id": "r", "step": 1}])
        file = tmp_path / "one" / "store" / "evaluations" / f"{key}.parquet"
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)  # as earlier versions wrote it
        os.utime(file, (when, when))
    machine(tmp_path / "one", url).exchange()
    for name in ("one", "other"):
        store = machine(tmp_path / name, url)
        assert [store.written("evaluations", key).timestamp() for key in ("sooner", "later")] == [1e9, 2e9]


@needs_s3
def test_of_two_machines_the_clock_of_the_server_counts(
    tmp_path: Path, s3: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path / "one", f"s3://results/{uuid.uuid4().hex}")
    monkeypatch.setattr(shared.time, "time_ns", lambda: 0)
    store.write("evaluations", "k", [{"run_id": "r"}])
    assert store.written("evaluations", "k") == machine(tmp_path / "other", store.url).written("evaluations", "k")


def test_records_go_to_and_fro(tmp_path: Path, url: str) -> None:
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    (tmp_path / "one" / "runs" / "r").mkdir(parents=True)
    (tmp_path / "one" / "runs" / "r" / "run.json").write_text("failed")
    (tmp_path / "one" / "runs" / "r" / "error.txt").write_text("private")
    one.exchange()
    other.exchange()
    theirs = tmp_path / "other" / "runs" / "r" / "run.json"
    assert theirs.read_text() == "failed"
    assert not theirs.with_name("error.txt").exists()
    theirs.write_text("finished")
    other.exchange()
    one.exchange()
    assert (tmp_path / "one" / "runs" / "r" / "run.json").read_text() == "finished"
    for folder in ("one", "other"):
        (tmp_path / folder / "labels.jsonl").write_text(folder)
        (tmp_path / folder / "watch.json").write_text(folder)
    one.exchange()
    with pytest.raises(StoreError, match=r"labels\.jsonl was changed here and at(?s:.*)two versions(?s:.*)move"):
        other.exchange()
    (tmp_path / "other" / "labels.jsonl").unlink()
    other.exchange()
    assert (tmp_path / "other" / "labels.jsonl").read_text() == "one"
    one.exchange()
    assert (tmp_path / "one" / "watch.json").read_text() == "other"


def test_a_url_that_lost_what_was_there_is_told_and_a_copy_can_be_put_there_again(tmp_path: Path, url: str) -> None:
    one = machine(tmp_path / "one", url)
    (tmp_path / "one" / "manifest.json").write_text("{}")
    one.exchange()
    one.write("responses", "k", [row(0)])
    (tmp_path / "one" / "store.url").write_text(f"{url}-elsewhere\n")  # as where a bucket was emptied, or is another
    moved = open_store(tmp_path / "one")
    with pytest.raises(StoreError, match=r"-elsewhere has lost what was there(?s:.*)1 record(?s:.*)delete .*records"):
        moved.exchange()
    shutil.rmtree(tmp_path / "one" / "store" / "records")
    moved.exchange()
    other = machine(tmp_path / "other", f"{url}-elsewhere")
    other.exchange()
    assert (tmp_path / "other" / "manifest.json").read_text() == "{}"
    assert other.read("responses", "k") == [{**row(0), "key": "k"}]


def test_a_url_names_no_file_outside_the_folder(tmp_path: Path, url: str) -> None:
    one = machine(tmp_path / "one", url)
    for name in ("../manifest.json", "/tmp/manifest.json", "runs/../../x/run.json", "../runs/x/run.json", "evil.sh"):
        one.amend("records", name.replace("/", "_").replace(".", "_"), [{"name": name, "text": "bad"}])
    machine(tmp_path / "other", url).exchange()
    assert not [p for p in (tmp_path / "other").rglob("*") if p.is_file() and p.read_bytes() == b"bad"]
    assert not (tmp_path / "manifest.json").exists()


def test_one_machine_at_a_time_has_a_run(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_PAUSE", 0.1)
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    with one.reserve("r") as ours:
        assert ours
        with other.reserve("r", wait=False) as theirs, other.reserve("s", wait=False) as free:
            assert (theirs, free) == (False, True)
        got, said = threading.Event(), list[str]()

        def wait() -> None:
            with other.reserve("r", say=said.append) as theirs:
                assert theirs
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.5)
    assert got.wait(10)
    waiting.join()
    (line,) = said  # at once, and then every half a minute
    assert line.startswith("waiting since 2")
    assert f"another machine has done its work on r at {url}: its last sign of life is " in line
    shared.put_object(url, "claims/r/dead", b"at work")
    with other.reserve("r", wait=False) as theirs:
        assert not theirs
    monkeypatch.setattr(shared, "_DEAD", -1.0)
    with other.reserve("r", wait=False) as theirs:
        assert theirs


def test_a_url_is_a_folder_here(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"nothing has begun at"):
        open_folder(url)
    assert not (tmp_path / "runs").exists()
    folder = open_folder(url, begin=True)
    assert folder == Path("runs") / url.rsplit("/", 1)[1]
    (folder / "manifest.json").write_text("{}")
    assert open_folder(Path(url)) == folder  # a path joins slashes; and this one puts the manifest there
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (open_folder(f"{url}/") / "manifest.json").read_text() == "{}"
    with pytest.raises(StoreError, match=r"holds something else than the copy of"):
        open_folder(f"{url}/below/{folder.name}")
    assert open_folder(tmp_path / "here") == tmp_path / "here"


def test_no_file_system_is_known(tmp_path: Path) -> None:
    for url in ("nosuch://bucket/x", "file:///somewhere/x"):
        with pytest.raises(StoreError, match=r"no file system is known of a URL|a folder is no URL"):
            machine(tmp_path / "one", url).has("responses", "k")


class Insist:
    """Does something again that ended with an error of the store."""

    def __init__(self) -> None:
        self.told: list[StoreError] = []

    def __call__(self, work: Callable[[], Any]) -> Any:
        for _ in range(50):
            try:
                return work()
            except StoreError as error:
                self.told.append(error)
        raise AssertionError("no end")


@needs_s3
@pytest.mark.parametrize("seed", range(3))
def test_faults_lose_nothing_and_show_nothing_half(
    tmp_path: Path, server: S3Server, s3: Callable[[str], None], seed: int
) -> None:
    """Every third request goes wrong; what an error tells of is done again, and then all is there, once."""
    url = f"s3://results/{uuid.uuid4().hex}"
    proxy = FaultProxy(server.address, 0.3, seed)
    s3(proxy.address)
    insist = Insist()
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    for number in range(8):
        for store, key in ((one, "k"), (other, "k"), (other, "l")):
            own = number + (100 if store is other else 0)
            insist(lambda store=store, key=key, own=own: store.amend("responses", key, [row(own, f"{key} {own}")]))
        if number == 5:
            insist(one.compact)
    expected = {("k", n): f"k {n}" for n in (*range(8), *range(100, 108))}
    expected |= {("l", n): f"l {n}" for n in range(100, 108)}
    sql = "SELECT key, sample, text FROM responses"
    through = insist(lambda: machine(tmp_path / "through", url).query(sql))
    proxy.close()
    s3(server.address)
    direct = machine(tmp_path / "direct", url).query(sql)
    for found in (through, direct):
        assert len(found) == len(expected)
        assert {(r["key"], r["sample"]): r["text"] for r in found} == expected
    assert sum(proxy.seen.values()) - proxy.seen["none"] > 10
    for error in insist.told:
        assert all((error.got, error.todo))


@needs_s3
def test_an_object_that_is_broken_is_seen(tmp_path: Path, s3: Callable[[str], None]) -> None:
    url = f"s3://results/{uuid.uuid4().hex}"
    machine(tmp_path / "one", url).write("responses", "k", [row(0)])
    (part,) = (tmp_path / "one").rglob("*.parquet")
    shared.put_object(url, f"responses/k/{part.name}", part.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"is broken(?s:.*)bytes(?s:.*)allowed(?s:.*)to do"):
        machine(tmp_path / "other", url).read("responses", "k")


@needs_s3
def test_a_server_that_is_not_there_is_told(tmp_path: Path, s3: Callable[[str], None]) -> None:
    s3("http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"could not (write|list) s3://results/x(?s:.*)to do: see that the URL"):
        machine(tmp_path / "one", "s3://results/x").amend("responses", "k", [row(0)])
    assert not list((tmp_path / "one").rglob("*.parquet"))
    assert "AWS_SECRET" not in "".join(p.read_text() for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert os.environ["AWS_ENDPOINT_URL"]
