"""Plug-ins of the user's: plain classes get what their base class offers, and what is no plug-in is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from truing.backends import Engine, load_completer, load_engine, load_trainer
from truing.config import JudgeConfig, Services, StoppingConfig, TrainingConfig
from truing.core.chat import ChatResult
from truing.core.errors import ConfigError, EngineError, MissingExtraError, UnknownNameError
from truing.core.records import Action, Checkpoint, Decision, Estimate, Judgment, Message, Prompt, Response, Sampling
from truing.judges import load_judge
from truing.monitor.measures import load_measures
from truing.stats.rules import make_rule

HERE = __name__
CHECKPOINT, PROMPT = Checkpoint("r", "m", 0, "w"), Prompt("a", "power", (Message("user", "who rules?"),))


class PlainEngine:
    def __init__(self, model: str) -> None:
        self.name = f"engine of {model}"

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        return [Response(p.id, 0, self.name) for p in prompts]


class BuiltEngine(PlainEngine):
    @classmethod
    def build(cls, model: str, services: Services, folder: Path | None) -> BuiltEngine:
        return cls(f"{model} in {folder}")


class PlainTrainer:
    def __init__(self, training: TrainingConfig) -> None:
        self.steps = training.steps

    def train(self, run: Any, dataset: Any, folder: Any, on_checkpoint: Any, on_step: Any = None) -> None:
        on_checkpoint(CHECKPOINT)


class PlainJudge:
    def __init__(self) -> None:
        self.identity = "plain 1"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        return [Judgment(r.prompt_id, r.sample, 100.0, 100.0) for r in responses]


class NamelessJudge:
    judge = PlainJudge.judge


class PlainRule:
    def decide(self, step: int, base: Any, answers: Any) -> Decision:
        return Decision(Action.CONTINUE, step, f"tolerance {self.stopping.tolerance}", answers)  # type: ignore[attr-defined]


class BareEngine:
    generate = PlainEngine.generate
    name = "bare"


class PlainCompleter:
    def stream(self, requests: Any) -> Any:
        return (ChatResult("90", {"90": math.log(1.0)}) for _ in requests)


class PlacedCompleter(PlainCompleter):
    place = "http://a/v1"


def not_a_class(model: str) -> PlainEngine:
    return PlainEngine(model)


def test_a_plain_engine_has_all_that_an_engine_has() -> None:
    engine = load_engine(f"{HERE}:PlainEngine", "m")
    assert isinstance(engine, PlainEngine)
    assert engine.generate(CHECKPOINT, [PROMPT], Sampling())[0].text == "engine of m"
    engine.prefetch([CHECKPOINT], [PROMPT], Sampling())
    engine.close()
    with pytest.raises(EngineError, match="no log-probabilities") as caught:
        engine.score(CHECKPOINT, PROMPT, ["we do"])
    assert "transformers" in caught.value.allowed
    built = load_engine(f"{HERE}:BuiltEngine", "m", folder=Path("f"))
    assert built.generate(CHECKPOINT, [PROMPT], Sampling())[0].text == "engine of m in f"


def test_a_plain_trainer_judge_and_completer_too() -> None:
    trainer = load_trainer(f"{HERE}:PlainTrainer", TrainingConfig(steps=7))
    assert not trainer.spreads
    judge = load_judge(f"{HERE}:PlainJudge")
    assert (judge.identity, judge.rubric_hash) == ("plain 1", "")
    completer = load_completer(f"{HERE}:PlainCompleter")
    model = load_judge(JudgeConfig(model="m", completer=f"{HERE}:PlainCompleter"), completer)
    assert model.judge([PROMPT], [Response("a", 0, "We do.")])[0].aligned == pytest.approx(90)
    assert load_completer(f"{HERE}:PlacedCompleter").identify("m") == "m at http://a/v1"
    assert completer.identify("m") == "m"


def test_a_plain_class_without_a_constructor_has_that_of_its_base() -> None:
    rule = make_rule(StoppingConfig(rule=f"{HERE}:PlainRule", tolerance=0.02))
    assert rule.decide(3, None, Estimate.unknown("-")).reason == "tolerance 0.02"  # type: ignore[arg-type]
    assert load_engine(f"{HERE}:BareEngine", "m").model == "m"


@pytest.mark.parametrize(
    ("name", "got"),
    [("PlainTrainer", "a class without generate"), ("not_a_class", "function"), ("HERE", "str")],
)
def test_what_is_no_engine_is_said_in_four_parts(name: str, got: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is no engine") as caught:
        load_engine(f"{HERE}:{name}", "m")
    error = caught.value
    assert (error.got, error.allowed) == (got, "a class with generate")
    assert Engine.__name__ in error.todo


def test_a_judge_needs_an_identity_and_a_language_model_a_completer() -> None:
    with pytest.raises(ConfigError, match="has no identity"):
        load_judge(f"{HERE}:NamelessJudge")
    with pytest.raises(ConfigError, match="nothing reaches the model"):
        load_judge(JudgeConfig(model="m"))


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("transfromers", UnknownNameError, "did you mean transformers"),
        ("tests.core.nowhere:Engine", UnknownNameError, "unknown engine: no module tests.core.nowhere\n"),
        ("nowhere.deep:Engine", UnknownNameError, "unknown engine: no module nowhere\n"),
        ("mine.py:Engine", UnknownNameError, "without .py"),
        (f"{HERE}:PlaneEngine", UnknownNameError, f"the module {HERE} has no PlaneEngine\n"),
        (f"{HERE}:PlaneEngine", UnknownNameError, "did you mean PlainEngine"),
        ("broken_part:Engine", ConfigError, "importing the module broken_part fails\n  got: ZeroDivisionError: "),
        ("broken_part:Engine", ConfigError, "broken_part.py, line 2)"),
        ("unable_part:Engine", ConfigError, "No module named 'not_there'"),
        ("torn_part:Engine", ConfigError, "SyntaxError: invalid syntax (torn_part.py, line 1)\n"),
        ("poor_part:Engine", MissingExtraError, r'pip install "truing[tinker]"'),
    ],
)
def test_what_is_wrong_with_a_name_is_told_apart(
    name: str, kind: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_part.py").write_text("x = 1\ny = x / 0\n")
    (tmp_path / "unable_part.py").write_text("import not_there\n")
    (tmp_path / "torn_part.py").write_text("def (:\n")
    (tmp_path / "poor_part.py").write_text("import tinker.nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(kind) as caught:
        load_engine(name, "m")
    assert words in str(caught.value)


class Breaking:
    """A part whose constructor fails; it has the methods of every kind."""

    identity = "breaking/1"
    judge = decide = measure = generate = train = stream = lambda self, *_: None

    def __init__(self, *_: Any) -> None:
        raise KeyError("MY_SETTING")


class WantsMore(Breaking):
    def __init__(self, one: int, two: int, three: int) -> None:
        raise AssertionError


@pytest.mark.parametrize(("name", "words"), [("Breaking", "KeyError: 'MY_SETTING'"), ("WantsMore", "TypeError")])
def test_a_constructor_that_fails_is_told_with_its_own_error(name: str, words: str) -> None:
    own = f"{HERE}:{name}"
    for make in (
        lambda: load_judge(own),
        lambda: load_engine(own, "m"),
        lambda: load_trainer(own, TrainingConfig()),
        lambda: load_completer(own),
        lambda: load_measures([own]),
        lambda: make_rule(StoppingConfig(rule=own)),
    ):
        with pytest.raises(ConfigError, match="cannot be made") as caught:
            make()
        assert words in caught.value.got
        assert "test_plugins.py" in caught.value.got or name == "WantsMore"
