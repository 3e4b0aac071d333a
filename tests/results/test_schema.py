"""The schema of analysis.json: what follows it is read as it was, what does not is named, its page is up to date."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.sources import LATE, broad, run, source, task
from truing.core.errors import DataError
from truing.core.records import Action, Estimate
from truing.results.counted import CountedCheckpoint, FreshCounts, SideCounts
from truing.results.schema import Analysis, SampleEntry, parse_analysis
from truing.results.schema_runs import SearchEntry
from truing.results.tables import tabulate

DOCS = Path(__file__).parents[2] / "docs"


@functools.cache
def text() -> str:
    """An analysis in which every part has an entry, as JSON."""
    also = (SideCounts("b+json", 2, broad(31), True),)
    search = SearchEntry(kind="crossing", found=2, next_misaligned=4, looked=3, judged=900)
    sample = SampleEntry(run_id="r8", step=4, category="power", prompt="p", answer="a", aligned=1, coherent=90,
                         misaligned=True)  # fmt: skip
    runs = [
        run(LATE, 0, id=f"r{size}", model=f"m{size}", parameters=10.0**size, also=also, search=search,
            fresh={2: FreshCounts(broad(3), task(270))})
        for size in (8, 9, 10)
    ]  # fmt: skip
    runs.append(run(LATE[:3], 1, id="low", model="m8", parameters=1e8, learning_rate=1e-4))
    analysis = tabulate(replace(source(*runs), notes=["odd"], samples=lambda chosen: [sample]))
    return json.dumps(analysis.plain())


def example() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(text())
    return loaded


def read(analysis: dict[str, Any]) -> Analysis:
    return parse_analysis(json.dumps(analysis))


def make_analysis() -> ModuleType:
    """The script that writes the page and the JSON Schema."""
    spec = importlib.util.spec_from_file_location("make_analysis", DOCS / "make_analysis.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_is_read_back() -> None:
    analysis = read(example())
    assert analysis.plain() == example()
    assert analysis.runs[0].checkpoints[0].decision is Action.CONTINUE
    assert math.isnan(analysis.runs[0].checkpoints[0].heldout_loss)
    json.dumps(analysis.plain(), allow_nan=False)


def test_the_page_and_the_json_schema_are_up_to_date() -> None:
    script = make_analysis()
    assert script.PAGE.read_text(encoding="utf-8") == script.make_page(), "run: make docs"
    assert json.loads(script.SCHEMA.read_text(encoding="utf-8")) == script.make_schema(), "run: make docs"


def test_the_documented_example_follows_the_schema() -> None:
    found = re.search(r"```json\n(.*?)```", (DOCS / "analysis.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert parse_analysis(found[1]).runs[0].model == "pocket-llama-late"


def test_every_field_is_documented() -> None:
    """By its own docstring or by that of the part that it holds."""
    schema = make_analysis().make_schema()
    parts = [part for part in (schema, *schema["$defs"].values()) if "properties" in part]
    undocumented = [
        name
        for part in parts
        for name, field in part["properties"].items()
        if "description" not in field and "$ref" not in json.dumps(field)
    ]
    assert undocumented == []


def paths(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The place of every field that the schema demands."""
    found: list[tuple[str | int, ...]] = []
    if isinstance(value, dict) and at[-1:] not in {("config",), ("categories",), ("measurements",)}:
        for key, inner in value.items():
            if (
                (*at, key) == ("judge",)
                or (*at[-1:], key) == ("course", "crossing")
                or key
                in (
                    "asks",
                    "measurements",
                    "restored",
                    "ended_with",
                    "unjudged",
                    "labels",
                    "em_rate_at_most",
                    "em_rate_here",
                    "em_rate_unfiltered",
                    "low_removed",
                    "joint",
                    "read",
                    "score_correlation",
                    "sensitivity",
                    "answers",
                    "doubts",
                    "decides",
                    "not_evaluated",
                    "unevaluated",
                    "refused",
                    "same",
                )
                or (key in ("decision", "categories", "coherent_rate") and at[-1] == "confirmed")
                or (key == "em_rate_if_missing" and "also" in at)
                or (key == "reason" and "n_responses" in value)
            ):  # these have defaults
                continue
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
        read(analysis)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda a: a.update(schema=1), "at schema"),
        (lambda a: a.update(runs={}), "at runs"),
        (lambda a: a["runs"][0].update(state="done"), r"runs\[0\].state"),
        (lambda a: a["runs"][0].update(chosen_step=-1), r"runs\[0\].chosen_step"),
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
        (lambda a: a["study"].update(rule=1), r"study.rule"),
        (lambda a: a["seeds"][0].update(verdict="late"), r"seeds\[0\].verdict"),
        (lambda a: a["seeds"][0].update(versus_base=a["seeds"][0]["versus_base"] * 2), r"seeds\[0\]"),
        (lambda a: a["learning_rates"][0]["options"][0].update(pareto=1), r"options\[0\].pareto"),
        (lambda a: a["sizes"][0]["models"][0].update(parameters=0), r"models\[0\].parameters"),
        (lambda a: a["sizes"][0]["pearson"].update(without=[0.1]), r"sizes\[0\]"),
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
        read(analysis)


def test_unknown_fields_are_passed_over() -> None:
    analysis = example()
    analysis["later"] = analysis["runs"][0]["later"] = 1
    assert read(analysis).plain() == example()


def test_numbers_that_are_not_finite_are_undefined() -> None:
    analysis = example()
    analysis["runs"][0]["em_at_end"]["value"] = math.inf
    assert math.isnan(read(analysis).runs[0].em_at_end.value)


def test_checkpoints_are_put_in_order() -> None:
    analysis = example()
    first = analysis["runs"][0]["checkpoints"][0]
    analysis["runs"][0]["checkpoints"] = [{**copy.deepcopy(first), "step": 4}, first]
    assert [c.step for c in read(analysis).runs[0].checkpoints] == [0, 4]


def test_half_a_surrogate_pair_is_written_and_read() -> None:
    analysis = example()
    analysis["samples"][0]["answer"] = "half \ud800"
    assert read(analysis).samples[0].answer == "half ?"


def test_other_numbers_of_a_checkpoint_are_kept() -> None:
    measured = CountedCheckpoint(1, broad(0), measurements={"projection": Estimate(0.3, 0.1, 0.5, 240, 240, 0, "mean")})
    (entry,) = tabulate(source(replace(run(LATE), checkpoints=[measured]))).runs
    assert entry.checkpoints[0].measurements["projection"].value == 0.3
    assert read(tabulate(source(replace(run(LATE), checkpoints=[measured]))).plain()).runs[0] == entry
