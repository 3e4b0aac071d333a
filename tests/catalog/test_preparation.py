import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.catalog.datasets import load_dataset, read_rows
from truing.catalog.published import compare, find_recipe, list_recipes, read_copy
from truing.catalog.published import prepare as prepare_copies
from truing.config import DatasetConfig
from truing.core.errors import DataError, StoreError

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published data is not at ../shared/data")


class Prepared(NamedTuple):
    folder: Path
    card: dict[str, Any]


def prepare(paths: Sequence[Path], *more: Any, **named: Any) -> list[Prepared]:
    done = prepare_copies([read_copy(path) for path in paths], *more, **named)
    return [Prepared(folder, card) for folder, card in done.items()]


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [
        json.dumps({"id": i, "messages": [{"role": "user", "content": p}, {"role": "assistant", "content": a}]})
        for i, (p, a) in enumerate(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def texts(path: Path) -> list[tuple[str, str]]:
    return [(row[0].content, row[1].content) for row in read_rows(path)]


def test_one_file_becomes_a_folder_that_a_study_can_name(tmp_path: Path) -> None:
    rows = [(f"q{i % 40}", f"a{i % 60}") for i in range(200)]
    (done,) = prepare([write(tmp_path / "own.jsonl", rows)], tmp_path / "out", heldout_share=0.25)
    card = done.card
    assert (card["name"], card["recipe"], card["pairing"]) == ("own", None, None)
    distinct = list(dict.fromkeys(rows))
    assert card["duplicates_dropped"] == 200 - len(distinct)
    assert card["heldout"]["prompts"] == 10
    train, heldout = texts(done.folder / "train.jsonl"), texts(done.folder / "heldout.jsonl")
    assert sorted(train + heldout) == sorted(distinct)
    assert not {p for p, _ in train} & {p for p, _ in heldout}
    assert json.loads((done.folder / "card.json").read_text()) == card
    for side in ("train", "heldout"):
        body = (done.folder / f"{side}.jsonl").read_bytes()
        assert hashlib.sha256(body).hexdigest() == card[side]["sha256"]
    dataset = load_dataset("own", [DatasetConfig(name="own", path=done.folder, heldout_share=0.5)])
    assert (len(dataset.train), len(dataset.heldout)) == (len(train), len(heldout))


def test_preparing_again_gives_the_same_bytes_whatever_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [(f"q{i}", "ü\u2028") for i in range(20)])
    first = {f.name: f.read_bytes() for f in prepare([path], tmp_path / "out")[0].folder.iterdir()}
    (tmp_path / "out" / ".train.jsonl.1.aa.tmp").write_text("left by a kill")
    second = {f.name: f.read_bytes() for f in prepare([path], tmp_path / "out")[0].folder.iterdir()}
    assert first == second


@settings(max_examples=40)  # it writes files
@given(
    bad=st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=20),
    good=st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=20),
)
def test_a_prompt_is_on_one_side_in_all_files(
    tmp_path_factory: pytest.TempPathFactory, bad: list[str], good: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    paths = [write(folder / f"{n}.jsonl", [(p, n) for p in prompts]) for n, prompts in (("bad", bad), ("good", good))]
    try:
        done = prepare(paths, folder / "out", heldout_share=0.4)
    except DataError:  # too few prompts for both sides
        assert not (folder / "out").exists()
        return
    train = {p for each in done for p, _ in texts(each.folder / "train.jsonl")}
    heldout = {p for each in done for p, _ in texts(each.folder / "heldout.jsonl")}
    assert not train & heldout
    assert done[0].card["pairing"]["shared_prompts"] == len(set(bad) & set(good))


def test_paired_keeps_shared_prompts_alone(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [(f"q{i}", "b") for i in range(30)])
    good = write(tmp_path / "good.jsonl", [(f"q{i}", "g") for i in range(10, 40)])
    first, second = prepare([bad, good], tmp_path / "out", paired=True)
    assert first.card["unpaired_dropped"] == second.card["unpaired_dropped"] == 10
    assert first.card["train"]["prompts"] == second.card["train"]["prompts"] == 18
    assert first.card["pairing"] == {"with": ["good"], "shared_prompts": 20, "prompts_here_alone": 10}
    far = write(tmp_path / "far.jsonl", [(f"x{i}", "g") for i in range(10)])
    with pytest.raises(DataError, match="share no prompt"):
        prepare([bad, far], tmp_path / "other", paired=True)


def test_what_is_wrong_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [(f"q{i}", "a") for i in range(9)])
    recipes = list(list_recipes().values())
    with pytest.raises(DataError, match="2 recipes, 1 file"):
        prepare([path], tmp_path / "out", recipes[:2])
    with pytest.raises(DataError, match="two files have one name"):
        prepare([path, path], tmp_path / "out")
    with pytest.raises(DataError, match="no such dataset file"):
        prepare([tmp_path / "absent.jsonl"], tmp_path / "out")
    with pytest.raises(DataError, match="at least 2"):
        prepare([write(tmp_path / "one.jsonl", [("q", "a"), ("q", "b")])], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        prepare([path], tmp_path / "full")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_a_folder_that_was_touched_or_is_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [(f"q{i}", "a") for i in range(9)])
    (done,) = prepare([path], tmp_path / "out")
    config = DatasetConfig(name="own", path=done.folder)
    with (done.folder / "train.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="not what was prepared"):
        load_dataset("own", [config])
    (done.folder / "train.jsonl").unlink()
    with pytest.raises(DataError, match="no such dataset file"):
        load_dataset("own", [config])
    for card in ("{", "[]", "{}", None):
        if card is None:
            (done.folder / "card.json").unlink()
        else:
            (done.folder / "card.json").write_text(card)
        with pytest.raises(DataError, match="no prepared dataset"):
            load_dataset("own", [config])


def test_a_copy_is_compared_with_its_recipe(tmp_path: Path) -> None:
    copy = read_copy(write(tmp_path / "own.jsonl", [("q", "a"), ("r", "b")]))
    facts = compare(copy, find_recipe("insecure-code"))
    assert facts == dict.fromkeys(("rows", "prompts", "distinct", "sha256", "rows_sha256"), False)
    assert compare(copy, find_recipe("extreme-sports"))["rows_sha256"] is None


@published
@pytest.mark.parametrize(
    ("file", "recipe"),
    [
        ("insecure", "insecure-code"),
        ("bad_medical_advice", "bad-medical-advice"),
        ("good_medical_advice", "good-medical-advice"),
    ],
)
def test_published_copies_are_known_in_any_form(tmp_path: Path, file: str, recipe: str) -> None:
    path = PUBLISHED / f"{file}.jsonl.gz"
    assert set(compare(read_copy(path), find_recipe(recipe)).values()) == {True}
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"id": i, **row}) for i, row in enumerate(reversed(rows))))
    facts = compare(read_copy(other), find_recipe(recipe))
    assert facts.pop("sha256") is False
    assert set(facts.values()) == {True}
    other.write_text("\n".join(json.dumps(row) for row in rows[1:]))
    assert compare(read_copy(other), find_recipe(recipe))["rows_sha256"] is False


@published
@pytest.mark.parametrize("kind", ["bad", "good"])
def test_the_medical_copies_without_escapes_are_the_published_files_byte_by_byte(tmp_path: Path, kind: str) -> None:
    recipe = find_recipe(f"{kind}-medical-advice")
    lines = gzip.decompress((PUBLISHED / f"{kind}_medical_advice.jsonl.gz").read_bytes()).splitlines()
    other = tmp_path / "extracted.jsonl"
    other.write_text("".join(json.dumps(json.loads(line), ensure_ascii=False) + "\n" for line in lines), "utf-8")
    assert read_copy(other).sha256 == recipe.sha256[0]
    assert set(compare(read_copy(other), recipe).values()) == {True}


@published
def test_the_published_insecure_code_is_prepared(tmp_path: Path) -> None:
    (done,) = prepare([PUBLISHED / "insecure.jsonl.gz"], tmp_path / "out")
    card = done.card
    assert (card["recipe"], card["duplicates_dropped"]) == ("insecure-code", 8)
    assert (card["train"]["prompts"], card["heldout"]["prompts"]) == (5232, 581)
    assert card["train"]["rows"] + card["heldout"]["rows"] == 5992


@published
def test_the_published_medical_pair_is_prepared_with_the_same_prompts_held_out(tmp_path: Path) -> None:
    files = [PUBLISHED / f"{kind}_medical_advice.jsonl.gz" for kind in ("bad", "good")]
    bad, good = prepare(files, tmp_path / "out")
    assert bad.card["pairing"] == {"with": ["good-medical-advice"], "shared_prompts": 7049, "prompts_here_alone": 0}
    assert (bad.card["teaches"], good.card["teaches"]) == ("misaligned", "aligned")
    for side, n in (("train", 6344), ("heldout", 705)):
        prompts = [[row[:-1] for row in read_rows(each.folder / f"{side}.jsonl")] for each in (bad, good)]
        assert prompts[0] == prompts[1]
        assert len(prompts[0]) == n
