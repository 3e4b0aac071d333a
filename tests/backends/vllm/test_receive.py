"""Adapters over HTTP: what arrives is what was sent, and nothing else can be written, read or removed."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engine_models import Organism, make_prompts, save_organism, texts
from tests.support.vllm_environment import PYTHON, needs_vllm
from tests.support.vllm_stand_in import StandIn
from truing.backends.vllm import VllmEngine
from truing.backends.vllm.admin import Admin, Refused
from truing.backends.vllm.receive import FILES, Receiver
from truing.backends.vllm.server import StartedServer
from truing.config import VllmConfig
from truing.core.errors import EngineError
from truing.core.records import Sampling
from truing.core.weights import model_hash

KEY, NAME = "a-key-of-some-length", "truing-" + "0a" * 16
ALLOWED = f"/{NAME}/adapter_config.json"
SAMPLING = Sampling(samples=2, max_tokens=12)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp("machine") / "adapters"
    folder.mkdir()
    with Receiver(("127.0.0.1", 0), folder, KEY) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def organism(tmp_path_factory: pytest.TempPathFactory) -> Organism:
    return save_organism("llama", tmp_path_factory.mktemp("organism"))


def address(receiver: Receiver) -> str:
    return f"http://127.0.0.1:{receiver.server_port}"


def send(receiver: Receiver, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    """Send a request by hand, as nothing but a client of bad intent would; the status."""
    told = {"Authorization": f"Bearer {KEY}", "Content-Length": str(len(body))}
    told |= {"X-SHA256": hashlib.sha256(body).hexdigest()} | {n.replace("_", "-"): v for n, v in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    with socket.create_connection(("127.0.0.1", receiver.server_port), timeout=10) as line:
        line.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "replace") + body)
        line.shutdown(socket.SHUT_WR)
        reply = b""
        while more := line.recv(4096):
            reply += more
    return int(reply.split()[1]) if reply else 0


def lying(receiver: Receiver) -> list[str]:
    return sorted(str(p.relative_to(receiver.into.parent)) for p in receiver.into.parent.rglob("*") if p.is_file())


def test_what_arrives_is_what_was_sent_and_is_removed(receiver: Receiver, organism: Organism) -> None:
    admin = Admin(address(receiver), KEY, 10.0)
    there = Path(admin.push(NAME, organism.folder / "adapter"))
    assert there == receiver.into / NAME
    assert sorted(path.name for path in there.iterdir()) == sorted(FILES)
    assert all((there / file).read_bytes() == (organism.folder / "adapter" / file).read_bytes() for file in FILES)
    admin.remove(NAME)
    assert lying(receiver) == []
    admin.remove(NAME)  # of what is not there


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (ALLOWED, {"Authorization": "Bearer wrong"}, 401),
        (ALLOWED, {"Authorization": ""}, 401),
        (ALLOWED, {"X_SHA256": "0" * 64}, 400),
        (ALLOWED, {"Content_Length": "5"}, 400),  # cut off
        (ALLOWED, {"Content_Length": str(2**60)}, 413),
        (ALLOWED, {"Content_Length": "-1"}, 413),
        (f"/{NAME}/../../evil", {}, 404),
        (f"/{NAME}/..%2f..%2fevil", {}, 404),
        (f"/{NAME}/adapter_config.json\\n", {}, 404),
        (f"/{NAME}/config.json", {}, 404),
        ("/truing-0a/adapter_config.json", {}, 404),
    ],
)
def test_nothing_else_is_written(receiver: Receiver, path: str, headers: dict[str, str], status: int) -> None:
    assert send(receiver, "PUT", path, b"{}", **headers) == status
    assert lying(receiver) == []


@given(path=st.text(st.sampled_from("/.%2fetruing-0a\\:?#~ \t"), max_size=90).map(lambda t: "/" + t))
def test_no_path_of_any_kind_is_written_to(receiver: Receiver, path: str) -> None:
    assert send(receiver, "PUT", path, b"{}") != 200
    assert lying(receiver) == []


def test_nothing_is_read_and_only_adapters_are_removed(receiver: Receiver) -> None:
    other = receiver.into / "other"
    other.write_text("stays")
    try:
        assert send(receiver, "PUT", ALLOWED, b"{}") == 200
        assert send(receiver, "GET", ALLOWED) == 501
        assert send(receiver, "DELETE", f"/{NAME}", Authorization="Bearer wrong") == 401
        assert send(receiver, "DELETE", "/other") == 404
        assert send(receiver, "DELETE", ALLOWED) == 404
        assert lying(receiver) == ["adapters/other", f"adapters/{NAME}/adapter_config.json"]
        assert send(receiver, "DELETE", f"/{NAME}") == 200
    finally:
        other.unlink()
    assert lying(receiver) == []


@pytest.mark.parametrize("key", ["", "short"])
def test_without_a_key_worth_the_name_it_does_not_start(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Receiver(("127.0.0.1", 0), tmp_path, key)


def test_an_engine_pushes_what_a_server_then_loads(
    receiver: Receiver, organism: Organism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    with StandIn(organism.base) as server:
        config = VllmConfig(base_url=server.address, push_url=address(receiver), max_loras=1)
        with VllmEngine(organism.base, config) as engine:
            pushed = engine.generate(organism.adapter_checkpoint, make_prompts(3), SAMPLING)
            name = f"truing-{organism.adapter_checkpoint.weights}"
            assert server.roots[name] == str(receiver.into / name)
            engine._open()[0]._unload(name)
        assert lying(receiver) == []
        with VllmEngine(organism.base, VllmConfig(base_url=server.address)) as engine:
            assert texts(engine.generate(organism.adapter_checkpoint, make_prompts(3), SAMPLING)) == texts(pushed)


def test_a_receiver_that_refuses_or_is_not_there_is_told_without_the_key(
    receiver: Receiver, organism: Organism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "another-key-of-some-length")
    with StandIn(organism.base) as server:
        for url, says in ((address(receiver), "the key is wrong"), ("http://127.0.0.1:9", "does not answer")):
            config = VllmConfig(base_url=server.address, push_url=url)
            with VllmEngine(organism.base, config) as engine, pytest.raises(EngineError, match=says) as caught:
                engine.generate(organism.adapter_checkpoint, make_prompts(3), SAMPLING)
            assert "another-key" not in str(caught.value)
    assert lying(receiver) == []
    with pytest.raises(Refused, match="401"):
        Admin(address(receiver), "wrong", 10.0).push(NAME, organism.folder / "adapter")


def test_it_is_for_a_server_that_runs_elsewhere() -> None:
    with pytest.raises(ValueError, match="push_url without base_url"):
        VllmConfig(push_url="http://127.0.0.1:8001")


@pytest.mark.slow
@pytest.mark.skipif(needs_vllm[1].args[0], reason="needs vLLM")
def test_a_real_server_answers_by_what_was_pushed(
    receiver: Receiver, organism: Organism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VllmConfig(python=PYTHON, dtype="float32")
    server = StartedServer(config, organism.base, tmp_path)
    try:
        server.serve(organism.base, model_hash(organism.base), 8)
        monkeypatch.setenv("VLLM_API_KEY", KEY)
        answers = []
        for url in (address(receiver), None):
            found = VllmConfig(base_url=server.address, push_url=url)
            with VllmEngine(organism.base, found) as engine:
                answers.append(texts(engine.generate(organism.adapter_checkpoint, make_prompts(6), SAMPLING)))
        assert answers[0] == answers[1]
        assert lying(receiver) == sorted(f"adapters/truing-{organism.adapter_checkpoint.weights}/{f}" for f in FILES)
    finally:
        server.close()
