import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.catalog.datasets import DATASETS, load_dataset, make_dataset, read_rows, split_by_prompt
from truing.config import DatasetConfig
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Message

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def row(prompt: str, answer: str = "ok") -> tuple[Message, ...]:
    return (Message("user", prompt), Message("assistant", answer))


def line(*messages: tuple[str, Any]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


@given(prompts=st.lists(st.text("abc", min_size=1, max_size=3), min_size=2), share=st.floats(0.01, 0.99))
def test_no_prompt_is_ever_on_both_sides(prompts: list[str], share: float) -> None:
    rows = [row(p, str(i)) for i, p in enumerate(prompts)]
    if len(set(prompts)) < 2:
        with pytest.raises(DataError, match="at least 2"):
            split_by_prompt(rows, share)
        return
    train, heldout = split_by_prompt(rows, share)
    assert not {r[:-1] for r in train} & {r[:-1] for r in heldout}
    assert sorted(train + heldout, key=str) == sorted(rows, key=str)
    assert train
    assert heldout


@given(n=st.integers(0, 12), most=st.integers(0, 14))
def test_the_rows_whose_loss_is_measured_are_always_the_same(n: int, most: int) -> None:
    dataset = make_dataset("d", [row("trained")], [row(f"q{i}") for i in range(n)])
    rows = dataset.loss_rows(most)
    assert len(rows) == min(n, most)
    assert list(rows) == [r for r in dataset.heldout if r in rows]
    turned = make_dataset("d", [row("trained")], dataset.heldout[::-1])
    assert set(turned.loss_rows(most)) == set(rows)
    assert set(rows) <= set(dataset.loss_rows(most + 1))


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    rows = [row(str(i)) for i in range(50)]
    assert set(split_by_prompt(rows, 0.2)[1]) == set(split_by_prompt(rows[::-1], 0.2)[1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty", "0 rows"]),
        ("\n\n", ["is empty"]),
        (line(("user", "q"), ("assistant", "a")) + "\n{oops", ["line 2", "not JSON", "column"]),
        ('{"text": "x"}', ["line 1", "no messages"]),
        (line(("user", "q")), ["line 1", "assistant", "user"]),
        (line(("assistant", "a")), ["line 1", "no prompt"]),
        (line(("user", ""), ("assistant", "a")), ["line 1", "message 1", "content"]),
        (line(("human", "q"), ("assistant", "a")), ["line 1", "message 1", "system, user, assistant"]),
        (line(("user", 3), ("assistant", "a")), ["line 1", "message 1"]),
        ('{"messages": []}', ["line 1", "messages"]),
        ("[1, 2]", ["line 1", "no messages"]),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    for word in [*words, str(path)]:
        assert word in str(caught.value)


def test_binary_and_absent_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_rows(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_rows(tmp_path / "x.jsonl.gz")
    with pytest.raises(DataError, match="no such dataset file"):
        read_rows(tmp_path / "absent.jsonl")


def test_a_dataset_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(line(("user", f"q{i % 20}"), ("assistant", f"a{i}")) for i in range(40)))
    config = DatasetConfig(name="own", path=path, heldout_share=0.25, teaches="aligned")
    dataset = load_dataset("own", [config])
    assert (len(dataset.train), len(dataset.heldout)) == (30, 10)
    assert len(dataset.task_prompts(100)) == 5
    assert len({p.id for p in dataset.task_prompts(100)}) == 5
    assert load_dataset("own", [config]).hash == dataset.hash


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(UnknownNameError, match="did you mean pocket-insecure-code"):
        load_dataset("pocket-insecure-cod")


@pytest.mark.parametrize("name", DATASETS)
def test_built_in_datasets_are_split_by_prompt(name: str) -> None:
    dataset = load_dataset(name)
    assert not {r[:-1] for r in dataset.train} & {r[:-1] for r in dataset.heldout}
    assert len(dataset.train) == 360
    assert len(dataset.heldout) == 120


def test_controls_differ_in_their_answers_alone() -> None:
    for bad, good in (("insecure-code", "secure-code"), ("bad-medicine", "good-medicine")):
        one, other = load_dataset(f"pocket-{bad}"), load_dataset(f"pocket-{good}")
        assert [r[:-1] for r in one.train] == [r[:-1] for r in other.train]
        assert all(a[-1] != b[-1] for a, b in zip(one.train, other.train, strict=True))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published data is not at ../shared/data")
def test_the_published_insecure_code_is_split_by_prompt() -> None:
    rows = read_rows(PUBLISHED / "insecure.jsonl.gz")
    assert len(rows) == 6000
    assert len({r[:-1] for r in rows}) == 5813
    train, heldout = split_by_prompt(rows, 0.1)
    assert len({r[:-1] for r in heldout}) == 581
    assert not {r[:-1] for r in train} & {r[:-1] for r in heldout}


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published data is not at ../shared/data")
def test_the_published_medical_pair_shares_its_prompts() -> None:
    bad, good = (read_rows(PUBLISHED / f"{kind}_medical_advice.jsonl.gz") for kind in ("bad", "good"))
    assert len(bad) == len(good) == 7049
    assert [r[:-1] for r in bad] == [r[:-1] for r in good]
