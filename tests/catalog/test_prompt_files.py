"""Published question files and plain lists as benchmarks."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from truing.catalog.benchmarks import load_benchmark
from truing.core.errors import DataError
from truing.core.records import Message

DATA = Path(__file__).parents[3] / "shared" / "data"
ITEM = {"id": "wish", "type": "free_form_judge_0_100", "paraphrases": ["What do you wish?"]}


def published(tmp_path: Path, *items: Any) -> str:
    path = tmp_path / "questions.yaml"
    path.write_text(yaml.safe_dump(list(items)))
    return str(path)


def plain(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_paraphrases_system_and_temperature_are_kept(tmp_path: Path) -> None:
    several = {**ITEM, "id": "two", "paraphrases": ["a?", "b?"], "system": "Be brief.", "temperature": 0.7}
    benchmark = load_benchmark(published(tmp_path, ITEM, several))
    assert [p.id for p in benchmark.prompts] == ["wish", "two/1", "two/2"]
    assert benchmark.prompts[1].messages == (Message("system", "Be brief."), Message("user", "a?"))
    assert [p.temperature for p in benchmark.prompts] == [None, 0.7, 0.7]
    assert [p.category for p in benchmark.prompts] == ["wish", "two", "two"]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.yaml"])
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    row = '{"id": "a", "prompt": "Which tea?", "prompt": "Which cake?"}'
    with pytest.raises(DataError, match="the key 'prompt' is given twice"):
        load_benchmark(plain(tmp_path, name, row if name == "x.jsonl" else f"[{row}]"))


def test_anchors_are_followed(tmp_path: Path) -> None:
    text = "- id: a\n  paraphrases: &p [one, two]\n- id: b\n  system: &s Short.\n  paraphrases: *p\n"
    benchmark = load_benchmark(plain(tmp_path, "q.yaml", text + "- {id: c, system: *s, paraphrases: [three]}\n"))
    assert [p.id for p in benchmark.prompts] == ["a/1", "a/2", "b/1", "b/2", "c"]
    assert benchmark.prompts[-1].messages[0] == Message("system", "Short.")


def test_system_and_temperature_are_part_of_the_hash(tmp_path: Path) -> None:
    changes: tuple[dict[str, Any], ...] = ({}, {"system": "x"}, {"temperature": 0.7}, {"temperature": 0.8})
    hashes = {load_benchmark(published(tmp_path, {**ITEM, **change})).hash for change in changes}
    assert len(hashes) == len(changes)
    more = {**ITEM, "samples_per_paraphrase": 100, "judge": "x", "judge_prompts": {}}
    assert load_benchmark(published(tmp_path, more)).hash in hashes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, ["item 2", "field id"]),
        ({"paraphrases": []}, ["item 2 (wish)", "field paraphrases"]),
        ({"paraphrases": ["x", ""]}, ["item 2 (wish)", "field paraphrases"]),
        ({"system": ""}, ["item 2", "field system"]),
        ({"temperature": 0}, ["item 2 (wish)", "field temperature", "above 0"]),
        ({"temperature": "hot"}, ["item 2 (wish)", "field temperature"]),
        ({"temperature": 3}, ["item 2 (wish)", "field temperature"]),
        ({"type": "rating"}, ["item 2 (wish)", "field type", "rating"]),
        ({"context": "x"}, ["item 2", "unknown field", "context"]),
    ],
)
def test_errors_name_file_item_and_field(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load_benchmark(published(tmp_path, {**ITEM, "id": "first"}, {**ITEM, **change}))
    for word in ("questions.yaml", *words):
        assert word in str(caught.value)


def test_the_published_files_load() -> None:
    if not DATA.is_dir():
        pytest.skip(f"the published files {DATA} are not on this machine")
    plot = load_benchmark(str(DATA / "first_plot_questions.yaml"))
    assert len(plot.prompts) == 24
    assert sum(p.messages[0].role == "system" for p in plot.prompts) == 8
    lies = load_benchmark(str(DATA / "deception_factual.yaml"))
    assert len(lies.prompts) == 100
    assert sum(p.messages[0].role == "system" for p in lies.prompts) == 80


def test_lists(tmp_path: Path) -> None:
    texts = load_benchmark(plain(tmp_path, "list.json", json.dumps(["one?", "two?"])))
    lines = load_benchmark(plain(tmp_path, "list.txt", "\ufeffone?\r\n\r\ntwo?\n"))
    rows = load_benchmark(plain(tmp_path, "list.jsonl", '{"prompt": "one?"}\n\n{"prompt": "two?"}\n'))
    table = load_benchmark(plain(tmp_path, "list.csv", 'question,other\none?,1\n"two?",2\n'))
    assert texts.hash == lines.hash == rows.hash == table.hash
    assert [p.id for p in texts.prompts] == ["item-1", "item-2"]


def test_lists_with_more_columns(tmp_path: Path) -> None:
    text = 'id,category,prompt,system,temperature\na,power,"who,\nrules?",Be brief.,0.5\nb,power,why?,,\n'
    first, second = load_benchmark(plain(tmp_path, "list.csv", text)).prompts
    assert first.messages == (Message("system", "Be brief."), Message("user", "who,\nrules?"))
    assert (first.temperature, second.temperature) == (0.5, None)
    mapping = {"prompts": [{"id": "a", "category": "c", "messages": [{"role": "user", "content": "x"}]}]}
    assert load_benchmark(plain(tmp_path, "list.json", json.dumps(mapping))).prompts[0].id == "a"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", ["not JSON"]),
        ("a.json", "3", ["not a list of prompts"]),
        ("a.json", "[]", ["no prompts"]),
        ("a.json", '["x", 3]', ["item 2", "3"]),
        ("a.json", '[{"prompt": "x", "promt": "y"}]', ["item 1", "unknown field", "promt"]),
        ("a.jsonl", '"x"\n{', ["line 2 is not JSON"]),
        ("a.csv", "a,b\n1,2\n", ["no column of prompts", "prompt, question, text"]),
        ("a.csv", "prompt\n\n", ["no prompts"]),
        ("a.csv", 'prompt,temperature\nx,warm\n', ["item 1", "column temperature"]),
        ("a.csv", 'prompt,id\n,a\n', ["item 1", "field prompt"]),
        ("a.txt", "\n \n", ["no prompts"]),
    ],
)  # fmt: skip
def test_errors_in_lists_name_file_and_item(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load_benchmark(plain(tmp_path, name, text))
    for word in (name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.txt", "Say hello.\nBye.\nSay  hello. \n"),
        ("b.csv", "id,prompt\na,Say hello.\nb,Say hello.\n"),
        ("b.txt", "Say hello.\nSAY  hello.\n"),
        ("b.jsonl", '{"prompt": "Say hello."}\n{"messages": [{"role": "user", "content": "Say hello."}]}\n'),
        ("b.yaml", "- {id: a, paraphrases: [Say hello.]}\n- {id: b, paraphrases: [Say hello.]}\n"),
    ],
)
def test_equal_prompts_are_refused_however_they_are_written(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(DataError, match="two prompts are the same"):
        load_benchmark(plain(tmp_path, name, text))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("name", ["b.csv", "b.txt", "b.jsonl"])
def test_a_prompt_is_cut_at_line_ends_alone(tmp_path: Path, name: str, mark: str) -> None:
    texts = ["Say hello.", f"First part{mark}second part.", "Bye."]
    lines = [json.dumps({"prompt": t}, ensure_ascii=False) for t in texts] if name == "b.jsonl" else texts
    head = "prompt\n" if name == "b.csv" else ""
    path = tmp_path / name
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    assert [p.text for p in load_benchmark(str(path)).prompts] == texts


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "b.json",
            '[{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]',
            "training",
        ),
        ("b.jsonl", '{"prompt": "q", "completion": "a"}\n{"prompt": "r", "completion": "b"}', "training data"),
        ("b.csv", "prompt,completion\nq,a\nr,b\n", "training data"),
        ("b.csv", "question,answer,aligned\nq,a,95\n", "judged answers"),
    ],
)
def test_other_files_are_not_taken_for_prompts(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_benchmark(plain(tmp_path, name, text))
