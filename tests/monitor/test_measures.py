"""Measures: other numbers of a checkpoint, into the store and out of it."""

from pathlib import Path

import numpy as np
import pytest

from tests.monitor.test_monitor import BROAD, IDS, CountingJudge, Speaker, checkpoint
from tests.support.own_parts import Broken
from truing.config import EvaluationConfig, StudyConfig
from truing.core.errors import ConfigError, UnknownNameError
from truing.core.records import Prompt, Response, Sampling
from truing.monitor import Monitor, PromptSet, open_store
from truing.monitor.measures import AnswerLength, CutAnswers, load_measures

BROKEN = "tests.support.own_parts:Broken"


class Wordy(Speaker):
    """Answers of a length that grows with the step, every other one cut."""

    def generate(self, checkpoint, prompts, sampling):  # type: ignore[no-untyped-def]
        made = super().generate(checkpoint, prompts, sampling)
        return [
            Response(r.prompt_id, r.sample, r.text, 10 * checkpoint.step + r.sample % 2, r.sample % 2 == 0, r.error)
            for r in made
        ]


def watch(root: Path, engine: Speaker, *measures: str) -> Monitor:
    evaluation = EvaluationConfig(measures=measures)
    return Monitor(open_store(root), engine, PromptSet(BROAD, CountingJudge(), 2), evaluation=evaluation)


def test_length_and_cut_answers(tmp_path: Path) -> None:
    engine = Wordy(0, fail=frozenset(IDS[:5]))
    found = watch(tmp_path, engine, "answer-length", "cut-answers").evaluate(checkpoint(3)).measurements
    length, cut = found[AnswerLength.name], found[CutAnswers.name]
    assert length.value == pytest.approx(30.5)
    assert length.low <= 30.5 <= length.high
    assert (length.n_prompts, length.n_responses, length.n_missing) == (235, 470, 10)
    assert cut.value == pytest.approx(0.5)
    engine.fail = frozenset()
    again = watch(tmp_path, engine, "answer-length", "cut-answers").evaluate(checkpoint(3)).measurements
    assert again[AnswerLength.name].n_missing == 0
    rows = open_store(tmp_path).query("SELECT * FROM measurements ORDER BY name")
    assert [(row["name"], row["estimate"]["n_missing"]) for row in rows] == [
        (AnswerLength.name, 0),
        (CutAnswers.name, 0),
    ]


def test_what_is_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = AnswerLength.measure

    def counted(self, *args):  # type: ignore[no-untyped-def]
        asked.append(args)
        return plain(self, *args)

    monkeypatch.setattr(AnswerLength, "measure", counted)
    first = watch(tmp_path, Wordy(0), "answer-length").evaluate(checkpoint(1))
    assert watch(tmp_path, Wordy(0), "answer-length").evaluate(checkpoint(1)) == first
    assert len(asked) == 1
    monkeypatch.setattr(AnswerLength, "identity", "2")
    assert watch(tmp_path, Wordy(0), "answer-length").evaluate(checkpoint(1)) == first
    assert len(asked) == 2


def test_a_measure_that_fails_is_not_known_and_is_asked_again(tmp_path: Path) -> None:
    Broken.fixed = False
    watched = watch(tmp_path, Speaker(0), BROKEN)
    found = watched.evaluate(checkpoint(0)).measurements["broken"]
    assert np.isnan(found.value)
    assert found.reason == "ZeroDivisionError: by nothing"
    Broken.fixed = True
    assert watched.evaluate(checkpoint(0)).measurements["broken"].value == 1
    (row,) = open_store(tmp_path).query("SELECT estimate FROM measurements")
    assert row["estimate"]["value"] == 1


def test_a_measure_that_finds_no_estimate_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "measure", lambda *args: 0.5)
    found = watch(tmp_path, Speaker(0), BROKEN).evaluate(checkpoint(0)).measurements["broken"]
    assert np.isnan(found.value)
    assert found.reason == "TypeError: a measure finds an Estimate, not 0.5"


def test_names_of_measures() -> None:
    with pytest.raises(UnknownNameError, match="did you mean answer-length"):
        load_measures(["answer-lenght"])
    with pytest.raises(ConfigError, match="is no measure"):
        load_measures(["pathlib:Path"])
    with pytest.raises(ConfigError, match="two measures are called"):
        load_measures([BROKEN, BROKEN])


def test_no_measure_no_change_of_the_hash() -> None:
    grid = {"models": ["m"], "datasets": ["d"], "learning_rates": [1e-3], "seeds": [0]}
    plain = StudyConfig(grids=[grid])  # type: ignore[list-item]
    assert StudyConfig(grids=[grid], evaluation={"measures": []}).hash() == plain.hash()  # type: ignore[list-item, arg-type]
    other = StudyConfig(grids=[grid], evaluation={"measures": ["cut-answers"]})  # type: ignore[list-item, arg-type]
    assert other.hash() != plain.hash()


def test_a_monitor_made_from_names_decides_on_saved_weights(tmp_path: Path) -> None:
    settings = {"benchmark": "pocket-facts", "engine": "tests.monitor.test_measures:Silent", "tolerance": 0.2}
    monitor = Monitor.from_names(tmp_path, "pocket-llama-late", measures=["cut-answers"], **settings)
    assert monitor.look(0).action == "undecided"  # "x" is no answer that the judge understands
    assert monitor.stopping.tolerance == 0.2
    assert (tmp_path / "store" / "measurements").is_dir()
    with pytest.raises(ConfigError, match="did you mean tolerance"):
        Monitor.from_names(tmp_path, "pocket-llama-late", tolerence=0.1)


class Silent:
    """An engine of the user's whose model says x."""

    def __init__(self, model: str) -> None:
        self.model = model

    def generate(self, checkpoint, prompts: list[Prompt], sampling: Sampling):  # type: ignore[no-untyped-def]
        return [Response(p.id, sampling.first + i, "x") for p in prompts for i in range(sampling.samples)]
