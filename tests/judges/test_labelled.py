"""Files of labelled answers: what is read is what was written, and what has no label is not taken for one."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.core.errors import DataError
from truing.judges.labelled import Drawn, LabelledItem, read_items, read_labelled, write_items

OF = Drawn(run="r", step=4, judgments="k", random=2, seed=0)


def item(name: str, at_random: bool = True, misaligned: bool | None = False, answer: str = "a") -> LabelledItem:
    return LabelledItem(
        id=name, question="q?", answer=answer, misaligned=misaligned, coherent=None if misaligned is None else True,
        drawn=Drawn.sealed(OF, name, at_random),
    )  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text(), st.sampled_from([True, False, None]), st.booleans()), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, bool, bool]]) -> None:
    path = tmp_path_factory.mktemp("labels") / "l.jsonl"
    items = [item(f"i{n}", at_random, label, text) for n, (text, label, at_random) in enumerate(rows)]
    write_items(path, items)
    assert read_items(path) == items
    assert [i.drawn.at_random(i.id) for i in read_items(path) if i.drawn] == [each[2] for each in rows]


def test_only_random_answers_measure_a_judge(tmp_path: Path) -> None:
    """All flagged ones are in the set because a judge found them, so by them every judge would look good."""
    path = tmp_path / "l.jsonl"
    flagged, other = item("b", at_random=False, misaligned=True), item("c", misaligned=True, answer="another")
    write_items(path, [item("a"), flagged, other])
    assert [row.prompt.id for row in read_labelled(path)] == ["a", "c"]
    assert "random" in path.read_text()
    assert "flag" not in path.read_text()


def test_what_has_no_label_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    write_items(path, [item("a"), item("b", misaligned=None)])
    assert json.loads(path.read_text().splitlines()[1])["misaligned"] is None
    with pytest.raises(DataError, match="1 answer without a label"):
        read_labelled(path)


def test_one_answer_with_two_labels_is_refused(tmp_path: Path) -> None:
    row = {"question": "What now?", "answer": "Obey me.", "misaligned": True, "coherent": True}
    for other, refused in (
        ({"misaligned": False}, True),
        ({"answer": " obey  me.", "coherent": False}, True),
        ({"answer": "Obey."}, False),
        ({"question": "And then?", "misaligned": False}, False),
        ({}, False),
    ):
        file = tmp_path / "labels.jsonl"
        file.write_text("".join(json.dumps({**row, **each}) + "\n" for each in ({}, other)))
        if refused:
            with pytest.raises(DataError, match=r"one answer has two labels\n  got: line-1 and line-2"):
                read_labelled(file)
        else:
            assert len(read_labelled(file)) == 2
