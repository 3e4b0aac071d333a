from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import DataError
from truing.core.records import Action
from truing.report import render_report
from truing.report.nodes import readable
from truing.report.reading import read_document

DOCS = Path(__file__).parents[2] / "docs" / "analysis.md"


def example() -> dict[str, Any]:
    found = re.search(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_the_documented_example_is_read_and_rendered() -> None:
    document = read_document(example())
    assert document.runs[0].checkpoints[0].decision is Action.CONTINUE
    assert math.isnan(document.runs[0].checkpoints[0].task_score.value)
    assert document.runs[0].checkpoints[0].task_score.reason == "the dataset names no judge of its task"
    assert "llama-late" in render_report(example())


def test_every_field_of_the_example_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8").split("## A complete example", maxsplit=1)[0]
    loaded = example()
    run = loaded["runs"][0]
    checkpoint = run["checkpoints"][0]
    size = loaded["sizes"][0]
    parts = [loaded, loaded["study"], run, run["course"], run["separable"], checkpoint, checkpoint["em_rate"]]
    parts += [loaded[table][0] for table in ("seeds", "learning_rates", "sizes", "domains", "samples")]
    parts += [loaded["learning_rates"][0]["options"][0], size["models"][0], size["pearson"]]
    missing = {key for part in parts for key in part if f"`{key}`" not in text}
    assert not missing


def paths(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The place of every field that the schema demands."""
    found: list[tuple[str | int, ...]] = []
    if isinstance(value, dict) and at[-1:] not in {("config",), ("categories",)}:
        for key, inner in value.items():
            found += [(*at, key), *paths(inner, (*at, key))]
    elif isinstance(value, list) and value:
        found += paths(value[0], (*at, 0))
    return found


@pytest.mark.parametrize("path", paths(example()), ids=lambda path: ".".join(map(str, path)))
def test_a_missing_field_is_named(path: tuple[str | int, ...]) -> None:
    analysis = example()
    holder: Any = analysis
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    with pytest.raises(DataError, match=re.escape(str(path[-1]))):
        read_document(analysis)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda a: a.update(schema=1), "another schema"),
        (lambda a: a.update(runs={}), "at runs"),
        (lambda a: a["runs"][0].update(state="done"), r"runs\[0\].state"),
        (lambda a: a["runs"][0].update(seed=-1), r"runs\[0\].seed"),
        (lambda a: a["runs"][0].update(seed=True), r"runs\[0\].seed"),
        (lambda a: a["runs"][0].update(learning_rate="0.1"), r"runs\[0\].learning_rate"),
        (lambda a: a["runs"][0].update(parameters="7B"), r"runs\[0\].parameters"),
        (lambda a: a["runs"][0].update(course=None), r"runs\[0\].course"),
        (lambda a: a["runs"][0]["course"].update(order="late"), r"course.order"),
        (lambda a: a["runs"][0]["course"].update(onset={"low": 9, "high": 4}), r"course.onset"),
        (lambda a: a["runs"][0]["course"].update(convergence={"low": None, "high": 4}), r"course.convergence"),
        (lambda a: a["runs"][0]["separable"].update(answer="maybe"), r"separable.answer"),
        (lambda a: a["runs"][0].update(confirmed={"step": 1}), r"runs\[0\].confirmed.em_rate"),
        (lambda a: a["runs"][0]["checkpoints"][0].update(em_rate_if_missing=None), r"em_rate_if_missing"),
        (lambda a: a["study"].update(rule="sometimes"), r"study.rule"),
        (lambda a: a["seeds"][0].update(verdict="late"), r"seeds\[0\].verdict"),
        (lambda a: a["seeds"][0].update(versus_base=a["seeds"][0]["versus_base"] * 2), r"seeds\[0\].versus_base"),
        (lambda a: a["learning_rates"][0]["options"][0].update(pareto=1), r"options\[0\].pareto"),
        (lambda a: a["sizes"][0]["models"][0].update(parameters=0), r"models\[0\].parameters"),
        (lambda a: a["sizes"][0]["pearson"].update(without=[0.1]), r"pearson.without"),
        (lambda a: a.update(notes=[1]), r"notes\[0\]"),
        (lambda a: a["runs"][0].update(decision="maybe"), r"runs\[0\].decision"),
        (lambda a: a["runs"][0].update(base_em_rate=0.1), r"runs\[0\].base_em_rate"),
        (lambda a: a["runs"][0]["em_at_end"].update(value="5"), r"runs\[0\].em_at_end.value"),
        (lambda a: a["runs"][0]["checkpoints"][0].update(step=1.5), r"checkpoints\[0\].step"),
        (lambda a: a["samples"][0].update(answer=None), r"samples\[0\].answer"),
        (lambda a: a["samples"][0].update(misaligned="no"), r"samples\[0\].misaligned"),
        (lambda a: a.update(runs=a["runs"] * 2), "twice"),
    ],
)
def test_a_wrong_field_is_named(change: Callable[[dict[str, Any]], None], place: str) -> None:
    analysis = example()
    change(analysis)
    with pytest.raises(DataError, match=place):
        read_document(analysis)


def test_unknown_fields_are_passed_over() -> None:
    analysis = example()
    analysis["later"] = analysis["runs"][0]["later"] = 1
    read_document(analysis)


def test_numbers_that_are_not_finite_are_undefined() -> None:
    analysis = example()
    analysis["runs"][0]["em_at_end"]["value"] = math.inf
    assert math.isnan(read_document(analysis).runs[0].em_at_end.value)


def test_checkpoints_are_put_in_order() -> None:
    analysis = example()
    first = analysis["runs"][0]["checkpoints"][0]
    analysis["runs"][0]["checkpoints"] = [{**copy.deepcopy(first), "step": 4}, first]
    assert [c.step for c in read_document(analysis).runs[0].checkpoints] == [0, 4]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\r\nb\tc", "a\nb\tc"),
        ("nul\x00bell\x07", "nul⟨U+0000⟩bell⟨U+0007⟩"),
        ("\u202egnp.exe", "⟨U+202E⟩gnp.exe"),
        ("lone \ud800", "lone ⟨U+D800⟩"),
        ("zero\u200bwidth", "zero⟨U+200B⟩width"),
        ("z" + "\u0301" * 40, "z" + "\u0301" * 4),
        ("heart \u2764\ufe0f 👩\u200d🔬", "heart \u2764\ufe0f 👩\u200d🔬"),
    ],
)
def test_invisible_characters_are_shown(raw: str, shown: str) -> None:
    assert readable(raw) == shown
