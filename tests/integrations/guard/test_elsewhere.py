"""A guard whose checkpoints are saved and sampled by an engine, while training goes on."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import truing
from tests.support.guarded import (
    DATASET,
    SMALL,
    Elsewhere,
    Keep,
    Script,
    load,
    make_trainer,
    random_state,
    same,
    weights_of,
)
from truing.core.errors import ConfigError, EngineError, UnknownNameError
from truing.core.records import Action
from truing.studies.folder import load_manifest


def guard_of(folder: Path, *rates: float, engine: Any, **settings: Any) -> truing.Guard:
    judge = Script(*rates)
    judge.careless = False
    return truing.Guard(folder / "guard", judge=judge, engine=engine, **{"at": 2, **SMALL, **settings})


class At(TrainerCallback):
    """Does something when a step begins."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.do()


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
def test_saved_checkpoints_are_sampled_as_the_live_model_is(tiny_model: Path, tmp_path: Path, adapter: bool) -> None:
    stored, kept = [], Keep()
    for engine in (None, "transformers"):
        folder = tmp_path / str(engine)
        parts = load(tiny_model, adapter)
        trainer = make_trainer(parts, folder / "out", [kept])
        guard = guard_of(folder, 0.0, 0.0, 0.0, 0.9, engine=engine, restore=True)
        guard.watch(trainer)
        trainer.train()
        assert guard.errors == []
        assert [str(d.action) for d in guard.decisions] == ["continue"] * 3 + ["stop"]
        assert guard.restored is not None
        assert guard.restored.step == 4
        assert same(weights_of(parts[0]), kept.weights[4])
        store = guard._watcher.store
        rows = [row for key in store.keys("responses") for row in store.read("responses", key)]
        stored.append(sorted((row["prompt_id"], row["text"]) for row in rows))
    assert stored[0] == stored[1]


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
@pytest.mark.parametrize("engine", ["own", "transformers"])
def test_a_late_guard_that_never_stops_leaves_training_bit_identical(
    tiny_model: Path, tmp_path: Path, adapter: bool, engine: str
) -> None:
    ends = []
    for guarded in (False, True):
        parts = load(tiny_model, adapter, attention_dropout=0.1)
        trainer = make_trainer(parts, tmp_path / "out", gradient_accumulation_steps=2, logging_steps=1)
        if guarded:
            own = Elsewhere() if engine == "own" else engine
            guard = guard_of(tmp_path, 0.0, engine=own, dataset=DATASET, restore=False, lag=3)
            guard.watch(trainer)
        trainer.train()
        losses = [(e["loss"], e["grad_norm"], e["step"]) for e in trainer.state.log_history if "loss" in e]
        ends.append((weights_of(parts[0]), losses, random_state(), parts[0].config.to_dict()))
    assert [(d.step, d.action) for d in guard.decisions] == [(step, Action.CONTINUE) for step in (0, 2, 4, 6)]
    assert guard.errors == []
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


def test_a_decision_comes_at_most_lag_steps_later_and_the_best_is_put_back(tiny_model: Path, tmp_path: Path) -> None:
    engine, kept = Elsewhere(), Keep()
    engine.leave.clear()
    parts = load(tiny_model)
    # until step 9 nothing is answered, so steps 0 to 6 wait at the server together; step 8 would wait at step 14
    trainer = make_trainer(parts, tmp_path / "out", [kept, At(9, engine.leave.set)], max_steps=40)
    guard = guard_of(tmp_path, 0.0, 0.0, 0.0, 0.9, engine=engine, lag=10)
    guard.watch(trainer)
    trainer.train()
    assert [r.step for r in guard.records] == list(range(0, trainer.state.global_step + 1, 2))
    assert all(0 <= r.lag <= 10 for r in guard.records)
    assert guard.records[0].lag >= 9
    stop = guard.records[3]
    assert stop.evaluation.decision.action is Action.STOP
    assert trainer.state.global_step == 6 + stop.lag
    assert max(map(len, engine.together)) >= 4  # many adapters at a time
    assert all({"adapter_model.safetensors", "tokenizer_config.json"} <= set(files) for _, files in engine.asked)
    assert guard.restored is not None
    assert guard.restored.step == 4
    assert same(weights_of(parts[0]), kept.weights[4])
    manifest = load_manifest(tmp_path / "guard")
    assert manifest is not None
    run = manifest.runs[0]
    assert (run.state, run.stopped_at, run.restored) == ("stopped", 6 + stop.lag, 4)
    assert f"to stop at step 6 came when {stop.lag} more steps were trained" in run.notes[-1]
    assert [c.lag for c in run.checkpoints or ()] == [r.lag for r in guard.records]


def test_what_was_trained_after_the_stop_is_never_clear(tiny_model: Path, tmp_path: Path) -> None:
    engine = Elsewhere()
    engine.leave.clear()
    guard = guard_of(tmp_path, 0.0, 0.0, 0.9, 0.0, engine=engine, at=[2, 4], lag=10, restore=False)
    make_trainer(load(tiny_model), tmp_path / "out", [guard, At(7, engine.leave.set)], max_steps=40).train()
    ended = guard.records[-1]
    assert (ended.step, ended.evaluation.checkpoint.weights) == (guard._run.stopped_at, "")
    assert "came after the stop and was not evaluated" in ended.error
    assert truing.load(tmp_path / "guard").verdict().word != "clear"


def test_no_lag_waits_at_once(tiny_model: Path, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, 0.0, 0.0, 0.9, engine=Elsewhere())
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    assert [(r.step, r.lag) for r in guard.records] == [(0, 0), (2, 0), (4, 0)]
    assert trainer.state.global_step == 4


def test_the_sequential_rule_may_ask_for_more_while_training_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, *[0.0] * 9, 1.0, engine=Elsewhere(), lag=2, at=1, sequential={"batch": 30})
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard], max_steps=30)
    trainer.train()
    assert guard.errors == []
    assert any(d.action is Action.STOP for d in guard.decisions)
    assert trainer.state.global_step < 30


def test_a_server_that_dies_is_told_and_asked_again(tiny_model: Path, tmp_path: Path) -> None:
    engine = Elsewhere()
    engine.dead = {0, 1, 2}  # the base, then the base again and step 2
    guard = guard_of(tmp_path, 0.0, engine=engine, restore=False)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    assert trainer.state.global_step == 6
    assert len(guard.errors) == 2
    assert all("no server today" in error for error in guard.errors)
    assert [(r.step, r.lag, r.error) for r in guard.records] == [(0, 4, ""), (2, 2, ""), (4, 0, ""), (6, 0, "")]


def test_a_server_that_stays_away_leaves_every_step_undecided_and_few_checkpoints(
    tiny_model: Path, tmp_path: Path
) -> None:
    engine = Elsewhere()
    engine.dead = set(range(1000))
    guard = guard_of(tmp_path, 0.0, engine=engine, at=1, lag=2)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard], max_steps=8)
    trainer.train()
    assert trainer.state.global_step == 8
    assert {d.action for d in guard.decisions} == {Action.UNDECIDED}
    assert len(guard.decisions) == 9
    assert sorted(int(p.name) for p in (tmp_path / "guard" / "checkpoints").iterdir()) == [0, 7, 8]
    assert guard.restored is None
    strict = guard_of(tmp_path / "strict", 0.0, engine=engine, on_error="raise")
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [strict])
    with pytest.raises(EngineError, match="sampling failed"):
        trainer.train()


def test_a_server_that_is_slow_is_told_and_counts_when_it_answers(tiny_model: Path, tmp_path: Path) -> None:
    engine = Elsewhere()
    engine.leave.clear()
    guard = guard_of(tmp_path, 0.0, 0.0, 0.9, engine=engine, lag=1, patience=0.2)

    def answer() -> None:
        assert [d.action for d in guard.decisions] == [Action.UNDECIDED] * 3
        assert all("has not arrived" in error for error in guard.errors)
        engine.leave.set()
        while any(not piece.made.done() for piece in guard._watcher._late._pieces):
            time.sleep(0.01)

    start = time.monotonic()
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard, At(6, answer)], max_steps=20)
    trainer.train()
    assert time.monotonic() - start < 25
    assert [(r.step, r.lag) for r in guard.records] == [(0, 7), (2, 5), (4, 3), (6, 1)]
    assert guard.records[2].evaluation.decision.action is Action.STOP
    assert guard.restored is not None
    assert guard.restored.step == 2


def test_a_server_that_never_answers_holds_nobody_up_for_ever(tiny_model: Path, tmp_path: Path) -> None:
    engine = Elsewhere()
    engine.leave.clear()
    guard = guard_of(tmp_path, 0.0, engine=engine, lag=1, patience=0.1, confirm=True)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    assert trainer.state.global_step == 6
    assert [d.action for d in guard.decisions] == [Action.UNDECIDED] * 4
    assert len(guard.errors) == 5
    assert "no checkpoint can be confirmed" in guard.errors[-1]
    engine.leave.set()
    strict = guard_of(tmp_path / "strict", 0.0, engine=Elsewhere(), lag=1, patience=0.1, on_error="raise")
    strict._measures.engine.leave.clear()  # type: ignore[union-attr]
    with pytest.raises(EngineError, match="has not arrived"):
        make_trainer(load(tiny_model), tmp_path / "out", [strict]).train()
    strict._measures.engine.leave.set()  # type: ignore[union-attr]


@pytest.mark.parametrize("restore", [True, False])
def test_a_stopped_training_stays_stopped_unless_asked(
    tiny_model: Path, tmp_path: Path, restore: bool, caplog: pytest.LogCaptureFixture
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 12}

    def again(*rates: float, **settings: Any) -> tuple[truing.Guard, Any, Any]:
        guard = guard_of(tmp_path, *rates, engine=None, restore=restore, **settings)
        guard._measures.judge.identity = "script"  # type: ignore[misc]
        parts = load(tiny_model)
        trainer = make_trainer(parts, tmp_path / "out", **saving)
        guard.watch(trainer)
        trainer.train(resume_from_checkpoint=any((tmp_path / "out").glob("checkpoint-*")))
        return guard, trainer, weights_of(parts[0])

    first, trainer, ended = again(0.0, 0.0, 0.9)
    assert trainer.state.global_step == 4
    report = first.report().plain()
    stayed, trainer, weights = again(0.0)
    assert "the guard stopped this training at step 4, and it stays stopped" in caplog.text
    assert trainer.state.global_step == 4  # one more than the checkpoint of step 3
    assert same(weights, ended)
    assert stayed.restored == first.restored
    assert stayed.decisions == first.decisions
    assert stayed.report().plain()["runs"] == report["runs"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-3"]
    went_on, trainer, _ = again(0.0, on_resume="continue")
    assert trainer.state.global_step == 12  # what stopped it once does not stop it again
    assert [d.step for d in went_on.decisions] == [0, 2, 4, 6, 8, 10, 12]


def test_a_stopped_training_of_which_no_weights_are_kept_stays_stopped(tiny_model: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 12}
    guard = guard_of(tmp_path, 0.0, 0.0, 0.9, engine=None)
    make_trainer(load(tiny_model), tmp_path / "out", [guard], **saving).train()
    file = guard.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for checkpoint in manifest["runs"][0]["checkpoints"]:
        checkpoint["path"] = None
    file.write_text(json.dumps(manifest))
    guard = guard_of(tmp_path, 0.0, engine=None)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard], **saving)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    assert "came after the stop and was not evaluated" in guard.errors[-1]
    assert truing.load(guard.folder).verdict().word != "clear"


def test_what_cannot_be_done_is_refused_with_reasons(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no checkpoints of a Trainer"):
        guard_of(tmp_path, 0.0, engine="openai")
    with pytest.raises(UnknownNameError, match="did you mean vllm"):
        guard_of(tmp_path, 0.0, engine="vlm")
    with pytest.raises(ConfigError, match="lag and the sequential rule exclude each other"):
        guard_of(tmp_path, 0.0, engine=None, lag=2, sequential={})
    parts = load(tiny_model, adapter=False)
    parts[0].name_or_path = parts[0].config._name_or_path = ""
    guard = guard_of(tmp_path, 0.0, engine="transformers")
    with pytest.raises(ConfigError, match="the engine cannot know the base model"):
        make_trainer(parts, tmp_path / "out", [guard]).train()


def test_another_chat_template_than_the_base_s_is_asked_with(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model)
    tokenizer.chat_template = tokenizer.chat_template + "{# mine #}"
    guard = guard_of(tmp_path, 0.0, engine="transformers")
    make_trainer((model, tokenizer), tmp_path / "out", [guard]).train()
    assert guard.errors == []
    assert len({e.checkpoint.weights for e in guard.evaluations}) == 4


def test_patience_is_longer_where_a_judge_works_in_batches(tmp_path: Path) -> None:
    def patience(**settings: Any) -> float:
        return guard_of(tmp_path, 0.0, engine=None, **settings).config.most_patience

    batches = {"mode": "batch", "base_url": "http://x/v1"}
    assert (patience(), patience(endpoint=batches)) == (3600, 172_800)
    assert patience(endpoint=batches, patience=5) == 5
