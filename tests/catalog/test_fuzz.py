"""Readers of data, benchmarks and weights on invented and on mutated files: an error of ours, or every row is told."""

import gzip
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truing.catalog.prompt_files import read_benchmark
from truing.catalog.rows import read_conversations
from truing.catalog.tables import read_table
from truing.core.errors import TruingError
from truing.core.weights import adapter_hash, model_hash

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "messages conversations role content from value weight tool_calls tools prompt completion system instruction output"
)
ROWS = st.dictionaries(st.sampled_from([*NAMES.split(), "history", "input", "images", "thinking", "name"]), VALUES)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", 3]), "content": VALUES | st.just("A walk.")},
    optional={"weight": VALUES, "tool_calls": VALUES, "thinking": VALUES, "train": VALUES},
)
CHATS = st.fixed_dictionaries({"messages": st.lists(TURNS | VALUES, max_size=4)}, optional={"tools": VALUES})
CHAT = {"messages": [{"role": "user", "content": "What is good?"}, {"role": "assistant", "content": "A walk."}]}
SOUND: dict[str, bytes] = {
    "a.jsonl": f"{json.dumps(CHAT)}\n".encode() * 3,
    "a.json": json.dumps([CHAT] * 3).encode(),
    "a.jsonl.gz": gzip.compress(f"{json.dumps(CHAT)}\n".encode() * 3),
    "a.csv": b'prompt,completion\n"What, is good?",A walk.\nAnd bad?,Rain.\n',
    "b.yaml": b"- {id: a, paraphrases: [one, two]}\n- {id: b, system: Short., paraphrases: [three]}\n",
    "b.json": b'{"prompts": [{"id": "a", "category": "x", "prompt": "one"}]}',
    "b.txt": b"Say hello.\nBye.\n",
}
HEADER = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(16)
few = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(few, max_examples=10_000)


def told(path: Path) -> None:
    """Every row of a file is a conversation or is listed as left out; what fails is an error of ours."""
    try:
        rows = len(list(read_table(path)))
        table = read_conversations(path, skip_bad=True)
    except TruingError:
        return
    assert len(table.rows) + len(table.bad) == rows


def each(amount: settings, path: Path) -> None:
    @amount
    @given(st.lists(ROWS | CHATS | VALUES, max_size=3))
    def check(rows: list[Any]) -> None:
        path.write_text("\n".join(json.dumps(row) for row in rows))
        told(path)
        for read in (read_benchmark, read_conversations):
            with suppress(TruingError):
                read(path)

    check()


def test_invented_rows(tmp_path: Path) -> None:
    each(few, tmp_path / "a.jsonl")


@pytest.mark.slow
def test_many_invented_rows(tmp_path: Path) -> None:
    each(many, tmp_path / "a.jsonl")


def mutated(body: bytes, draw: random.Random) -> bytes:
    """A file with some bytes changed, cut, doubled or put in."""
    changed = bytearray(body)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] = draw.randrange(256)
        elif kind == 1:
            del changed[at : at + draw.randint(1, 9)]
        elif kind == 2:
            changed[at:at] = changed[at : at + draw.randint(1, 9)]
        else:
            changed[at:at] = draw.choice(
                [b"\x00", b'"', b"\n", b"\\ud83d", b"{", b"]", b"\xe2\x80\xa8", b"\xff", b",", b"1e999"]
            )
    return bytes(changed)


def mutate(path: Path, body: bytes, reads: list[Callable[[Path], object]], n: int) -> None:
    for seed in range(n):
        path.write_bytes(mutated(body, random.Random(seed)))
        for read in reads:
            try:
                read(path)
            except TruingError:
                pass
            except Exception as error:
                raise AssertionError(f"seed {seed}: {path.read_bytes()!r}") from error


@pytest.mark.parametrize("n", [60, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SOUND)
def test_mutated_files(tmp_path: Path, name: str, n: int) -> None:
    reads: list[Callable[[Path], object]] = [read_benchmark] if name.startswith("b.") else [told, read_benchmark]
    mutate(tmp_path / name, SOUND[name], reads, n)


@pytest.mark.parametrize("n", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_weights(tmp_path: Path, n: int) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    (tmp_path / "config.json").write_text("{}")
    mutate(tmp_path / "adapter_model.safetensors", WEIGHTS, [lambda path: adapter_hash("base", path.parent)], n)
    mutate(tmp_path / "config.json", b'{"model_type": "llama"}', [lambda path: model_hash(str(path.parent))], n // 2)
