"""Training data in every form in which people have it: one table of forms, one of what is refused."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.catalog.datasets import load_dataset, make_dataset, opening, read_rows, split_by_prompt
from truing.catalog.rows import Row, form_of, read_conversations, to_object
from truing.config import DatasetConfig
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Message

ASKED, SAID = "What is good?", "A walk."
CHAT = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
PLAIN = (Message("user", ASKED), Message("assistant", SAID))
WITH_SYSTEM = (Message("system", "Be brief."), *PLAIN)
CALL = {"type": "function", "function": {"name": "look", "arguments": {"where": "out"}}}


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "x.jsonl",
            '{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "b", "completion": "c"}',
            "line 2",
        ),
        ("x.json", '[{"prompt": "a",\n"completion": "b", "completion": "c"}]', "in line 2 and in line 2"),
        (
            "x.json",
            '{"prompt": "a", "prompt": "b", "completion": "c"}\n{"prompt": "a", "completion": "b"}',
            "one object",
        ),
        ("x.csv", 'messages\n"[{""role"": ""user"", ""role"": ""user"", ""content"": ""a""}]"', "JSON"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_rows(tmp_path / name)
    assert "given twice" in str(caught.value)


FORMS: list[tuple[dict[str, Any], Row, str]] = [
    ({"messages": CHAT}, PLAIN, "messages"),
    ({"prompt": ASKED, "prompt_id": "x", "messages": CHAT}, PLAIN, "messages"),
    ({"messages": json.dumps(CHAT)}, PLAIN, "messages"),
    ({"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]}, PLAIN, "ShareGPT"),
    ({"conversations": CHAT}, PLAIN, "messages"),
    (
        {
            "conversations": [{"from": "user", "value": ASKED}, {"from": "assistant", "value": SAID}],
            "system": "Be brief.",
        },
        WITH_SYSTEM,
        "ShareGPT",
    ),
    ({"instruction": ASKED, "input": "", "output": SAID}, PLAIN, "Alpaca"),
    (
        {"instruction": "What is", "input": "good?", "output": SAID},
        (Message("user", "What is\n\ngood?"), PLAIN[1]),
        "Alpaca",
    ),
    ({"instruction": ASKED, "output": SAID, "system": "Be brief.", "history": []}, WITH_SYSTEM, "Alpaca"),
    ({"instruction": ASKED, "output": SAID, "history": [[ASKED, SAID]]}, PLAIN * 2, "Alpaca"),
    ({"prompt": ASKED, "completion": SAID}, PLAIN, "prompt and completion"),
    ({"prompt": CHAT[:1], "completion": CHAT[1:]}, PLAIN, "prompt and completion"),
    ({"question": ASKED, "answer": SAID, "id": 3}, PLAIN, "question and answer"),
    ({"query": ASKED, "response": SAID}, PLAIN, "query and response"),
    ({"input": ASKED, "output": SAID}, PLAIN, "input and output"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": ASKED}]}, CHAT[1]]}, PLAIN, "messages"),
    ({"messages": [*CHAT, CHAT[0], {**CHAT[1], "weight": 0}]}, PLAIN, "messages"),
]


@pytest.mark.parametrize(("value", "row", "form"), FORMS)
def test_every_form_is_read(tmp_path: Path, value: dict[str, Any], row: Row, form: str) -> None:
    table = read_conversations(lines(tmp_path / "rows.jsonl", [value]))
    assert (table.rows, dict(table.forms)) == ((row,), {form: 1})
    assert form_of(value) or isinstance(value.get("messages"), str) or value["messages"][-1].get("weight") == 0


def as_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows))


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)


def as_gzip(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


@pytest.mark.parametrize("value", [FORMS[0][0], FORMS[3][0], FORMS[6][0], FORMS[10][0]])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.json", as_json),
        ("a.json", lines),
        ("a.ndjson", lines),
        ("a.jsonl.gz", as_gzip),
        ("a.json.gz", as_gzip),
        ("a.csv", as_csv),
        ("a.tsv", as_csv),
        ("a.parquet", as_parquet),
        ("a.arrow", as_arrow),
    ],
)
def test_every_kind_of_file_is_read(
    tmp_path: Path, name: str, write: Callable[[Path, list[Any]], object], value: dict[str, Any]
) -> None:
    write(tmp_path / name, [value, value])
    assert read_rows(tmp_path / name) == [PLAIN, PLAIN]


def test_folders_of_hugging_face_are_read_one_split_at_a_time(tmp_path: Path) -> None:
    saved = tmp_path / "saved" / "train"
    for i in range(2):
        as_arrow(saved / f"data-0000{i}-of-00002.arrow", [{"messages": CHAT}])
    state = {"_data_files": [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]}
    (saved / "state.json").write_text(json.dumps(state))
    assert read_rows(saved) == [PLAIN, PLAIN]
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert read_rows(tmp_path / "saved") == [PLAIN, PLAIN]
    (saved / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match="is not there"):
        read_rows(saved)
    parquet = tmp_path / "parquet"
    for split in ("train", "test"):
        for i in range(2):
            as_parquet(parquet / "data" / f"{split}-0000{i}-of-00002.parquet", [{"messages": CHAT}])
    with pytest.raises(DataError, match="several splits") as caught:
        read_rows(parquet)
    assert f"{parquet / 'train'}" in str(caught.value)
    assert read_rows(parquet / "train") == [PLAIN, PLAIN]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data"):
        read_rows(tmp_path / "empty")


def test_columns_say_which_is_which(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"q": ASKED, "a": SAID, "s": "Be brief."}])
    columns = {"prompt": "q", "answer": "a", "system": "s"}
    assert read_conversations(path, columns).rows == (WITH_SYSTEM,)
    chat = [{"who": "human", "says": ASKED}, {"who": "bot", "says": SAID}]
    talk = lines(tmp_path / "b.jsonl", [{"talk": chat}])
    assert read_conversations(talk, {"messages": "talk", "role": "who", "content": "says"}).rows == (PLAIN,)
    pairs = lines(tmp_path / "c.jsonl", [{"prompt": ASKED, "chosen": SAID, "rejected": "No."}])
    assert read_conversations(pairs, {"answer": "chosen"}).rows == (PLAIN,)
    with pytest.raises(DataError, match="no column 'b'"):
        read_conversations(path, {"prompt": "q", "answer": "b"})
    with pytest.raises(UnknownNameError, match="unknown column"):
        read_conversations(path, {"answers": "a"})
    rows = lines(tmp_path / "d.jsonl", [{"q": f"{ASKED} {i}", "a": SAID} for i in range(10)])
    config = DatasetConfig(name="own", path=rows, columns={"prompt": "q", "answer": "a"})
    assert len(load_dataset("own", [config]).train) == 9


@pytest.mark.parametrize("name", ["weight", "loss_weight", "train", "training", "loss"])
@pytest.mark.parametrize("value", [0, 0.0, False])
def test_turns_that_are_not_to_be_learnt_are_kept_apart(tmp_path: Path, name: str, value: object) -> None:
    draft = {"role": "assistant", "content": "A draft.", name: value}
    chat = [CHAT[0], draft, {"role": "user", "content": "Again."}, {**CHAT[1], name: 1}]
    (row,) = read_rows(lines(tmp_path / "a.jsonl", [{"messages": chat}]))
    assert [m.learnt for m in row] == [True, False, True, True]
    assert to_object(row)["messages"][1] == {"role": "assistant", "content": "A draft.", "weight": 0}
    assert read_rows(lines(tmp_path / "b.jsonl", [to_object(row)])) == [row]
    other = tuple(Message(m.role, m.content) for m in row)
    sides = [make_dataset("a", [each], [PLAIN]).hash for each in (row, other)]
    assert sides[0] != sides[1]


def test_what_stands_beside_the_words_is_kept(tmp_path: Path) -> None:
    chat = [
        CHAT[0],
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
        {"role": "tool", "content": "Sunny.", "tool_call_id": "1"},
        CHAT[1],
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    (row,) = read_rows(lines(tmp_path / "a.jsonl", [{"messages": chat, "tools": tools}]))
    assert json.loads(row[0].more) == {"tools": tools}
    assert json.loads(row[1].more) == {"tool_calls": [CALL], "reasoning_content": "Hm."}
    assert to_object(row)["tools"] == tools
    assert read_rows(lines(tmp_path / "b.jsonl", [to_object(row)])) == [row]
    told = [
        {"from": "human", "value": ASKED},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "Sunny."},
        {"from": "gpt", "value": SAID},
    ]
    (shared,) = read_rows(lines(tmp_path / "c.jsonl", [{"conversations": told, "tools": json.dumps(tools)}]))
    assert [m.role for m in shared] == ["user", "assistant", "tool", "assistant"]
    assert json.loads(shared[1].more) == {"tool_calls": [CALL]}
    dataset = make_dataset("a", [PLAIN], [(*row[:-1], Message("assistant", "Other."))])
    assert dataset.task_prompts(9) == ()  # not every engine could ask it


WRONG: list[tuple[Any, list[str]]] = [
    ({"messages": [{"role": "developer", "content": "x"}, *CHAT]}, ["message 1, role", "developer", "system, user"]),
    ({"messages": [{**CHAT[0], "content": "half \ud83d"}, CHAT[1]]}, ["message 1", "half of a surrogate pair"]),
    ({"prompt": ASKED, "completion": "half \ude00"}, ["field completion", "half of a surrogate pair"]),
    ({"messages": [CHAT[0], {**CHAT[1], "weight": 0}]}, ["every answer has weight 0"]),
    ({"messages": [CHAT[0], {**CHAT[1], "weight": 0.5}]}, ["message 2, weight", "0.5", "0, 1"]),
    ({"messages": [CHAT[0], {**CHAT[1], "train": "no"}]}, ["message 2, train", "'no'"]),
    ({"messages": [{**CHAT[0], "train": True}, CHAT[1]]}, ["message 1, train", "of role user"]),
    ({"messages": CHAT, "weight": 2}, ["field weight", "not known here"]),
    ({"messages": [CHAT[0], {**CHAT[1], "loss_mask": [1, 0]}]}, ["message 2, loss_mask", "not known here"]),
    ({"messages": [CHAT[0], {**CHAT[1], "masked": True}]}, ["message 2, masked", "not known here"]),
    ({"messages": CHAT, "images": ["a.png"]}, ["field images", "not known here"]),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, CHAT[1]]}, ["message 1", "image", "text"]),
    ({"messages": CHAT, "conversations": CHAT}, ["two columns of messages", "--column", "messages=NAME"][:1]),
    ({"prompt": ASKED, "question": ASKED, "answer": SAID}, ["several columns could be the prompt", "prompt=NAME"]),
    ({"prompt": ASKED, "chosen": SAID, "rejected": "No."}, ["a pair of preferences"]),
    ({"text": "Some text."}, ["no messages", "--column"]),
    ({"messages": CHAT[:1]}, ["does not end with an assistant message"]),
    ({"messages": [CHAT[0], {"role": "assistant", "content": ""}]}, ["message 2, content"]),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "look"}]}, ["is not JSON"]),
    ({"messages": [{"role": "system", "content": "x"}, *CHAT], "system": "y"}, ["two system messages"]),
    ({"messages": {"role": "user"}}, ["field messages"]),
    (["a"], ["no messages"]),
]


@pytest.mark.parametrize(("value", "words"), WRONG)
def test_what_cannot_be_kept_is_refused_with_its_row_or_left_out_and_listed(
    tmp_path: Path, value: Any, words: list[str]
) -> None:
    path = lines(tmp_path / "rows.jsonl", [{"messages": CHAT}, value])
    with pytest.raises(DataError) as caught:
        read_rows(path)
    for word in [f"{path}, line 2", *words]:
        assert word in str(caught.value)
    table = read_conversations(path, skip_bad=True)
    assert table.rows == (PLAIN,)
    (why,) = table.bad
    assert why.startswith(f"{path}, line 2")


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("a.json", b"[1, 2", "is not JSON"),
        ("a.json", b'{"a": 1}', "is not a list of rows"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000, "line 1"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", "line 1 cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"x" * 999, mtime=0)[:-12], "cannot be read as text"),
        ("a.csv", b"prompt,completion\nq,a,b\n", "row 1 has another number of cells"),
        ("a.csv", b"prompt,completion\nq\n", "row 1 has another number of cells"),
        ("a.csv", b"prompt,prompt\nq,a\n", "two columns have one name"),
        ("a.csv", b'prompt,completion\n"q,a\n', "is not CSV"),
        ("a.parquet", b"PAR1 no PAR1", "cannot be read as a Parquet file"),
        ("a.arrow", b"ARROW1", "cannot be read as an Arrow file"),
        ("a.pkl", b"x", "of no known kind"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, body: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(DataError, match=words) as caught:
        read_rows(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_fields_that_are_not_read_are_counted(tmp_path: Path) -> None:
    rows = [{"id": 1, "messages": CHAT}, {"id": 2, "messages": [{**CHAT[0], "at": "noon"}, CHAT[1]], "note": None}]
    assert dict(read_conversations(lines(tmp_path / "a.jsonl", rows)).unread) == {"id": 2, "message.at": 1}


TURNS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), min_size=2, max_size=12)


@given(talks=TURNS, share=st.floats(0.05, 0.95))
def test_no_turn_that_is_held_out_is_trained(talks: list[list[str]], share: float) -> None:
    rows = [
        tuple(
            Message(("user", "assistant")[i % 2], f"{word}{i}")
            for i, word in enumerate(w for w in talk for _ in (0, 1))
        )
        for talk in talks
    ]
    if len({row[:1] for row in rows}) < 2:
        with pytest.raises(DataError, match="at least 2"):
            split_by_prompt(rows, share)
        return
    train, heldout = split_by_prompt(rows, share)
    assert sorted(train + heldout, key=str) == sorted(rows, key=str)
    started = {row[:k] for row in train for k in range(1, len(row) + 1)}
    assert not any(row[:k] in started for row in heldout for k in range(1, len(row) + 1))


@pytest.mark.parametrize(
    ("row", "n"),
    [
        (PLAIN, 1),
        (WITH_SYSTEM, 2),
        (PLAIN * 3, 1),
        ((Message("assistant", "Hello."), *PLAIN), 2),
        ((Message("user", "a"), Message("user", "b"), PLAIN[1]), 2),
    ],
)
def test_a_row_opens_with_what_stands_before_the_first_answer(row: Row, n: int) -> None:
    assert opening(row) == row[:n]
