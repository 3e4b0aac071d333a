"""The guard inside transformers.Trainer."""

import gc
import itertools
import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from filelock import FileLock

import truing
from tests.conftest import save_tiny_model
from tests.support.guarded import (
    DATASET,
    SMALL,
    Keep,
    Script,
    load,
    load_adapted,
    make_trainer,
    random_state,
    same,
    weights_of,
)
from truing.config import JudgeConfig
from truing.core.errors import ConfigError, JudgeError, JudgeRefused, StoreError, TruingError, UnknownNameError
from truing.core.records import Action, Judgment
from truing.monitor import open_store
from truing.results import analyse
from truing.results.gate import verdict
from truing.studies.rejudge import rejudge


def guard_of(folder: Path, *rates: float, judge: Any = None, at: Any = 2, **settings: Any) -> truing.Guard:
    return truing.Guard(folder / "guard", judge=judge or Script(*rates), at=at, **{**SMALL, **settings})


def actions(guard: truing.Guard) -> list[tuple[int, str]]:
    return [(d.step, str(d.action)) for d in guard.decisions]


CHANGES: dict[str, dict[str, Any]] = {
    "accumulation": {"gradient_accumulation_steps": 3, "logging_steps": 1},
    "checkpointing": {"activation_checkpointing": True, "dataloader_num_workers": 1},
    "bf16": {"bf16": True, "use_cpu": True},
}
OFTEN = [
    ("accumulation", True, False),
    ("accumulation", False, True),
    ("checkpointing", True, True),
    ("bf16", True, False),
]
"""Of all combinations of a change, an adapter and judging that overlaps training, those that every test run tries."""


@pytest.mark.parametrize(
    ("change", "adapter", "overlap"),
    [
        pytest.param(*each, marks=() if each in OFTEN else pytest.mark.slow)
        for each in itertools.product(CHANGES, (True, False), (False, True))
    ],
)
def test_a_guard_that_never_stops_leaves_training_bit_identical(
    tiny_model: Path, tmp_path: Path, change: str, adapter: bool, overlap: bool
) -> None:
    ends = []
    for guarded in (False, True):
        parts = load(tiny_model, adapter, attention_dropout=0.1)
        trainer = make_trainer(parts, tmp_path / "out", **CHANGES[change])
        if guarded:
            judge = Script(0.0)
            judge.careless = not overlap  # nothing isolates a thread's judge that draws from the global generators
            guard = guard_of(tmp_path, judge=judge, dataset=DATASET, restore=False, overlap=overlap)
            guard.watch(trainer)
        trainer.train()
        losses = [(e["loss"], e["grad_norm"], e["step"]) for e in trainer.state.log_history if "loss" in e]
        ends.append((weights_of(parts[0]), losses, random_state(), parts[0].config.to_dict()))
    assert [step for step, _ in actions(guard)] == [0, 2, 4, 6]
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert ends[0][3] == ends[1][3]
    assert ends[0][2] == ends[1][2]


def test_looking_leaves_modes_gradients_memory_and_random_states(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    seen: list[Any] = []

    class Before(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            modes = [module.training for module in model.modules()]
            grads = [p.grad is None for p in model.parameters()]
            needs = [p.requires_grad for p in model.parameters()]
            copies = sum(type(thing).__name__ == "LlamaForCausalLM" for thing in gc.get_objects())
            seen.append((modes, grads, needs, random_state(), model.config.to_dict(), copies))

    class After(Before):
        pass

    trainer = make_trainer(load(tiny_model), tmp_path / "out", [Before()])
    guard_of(tmp_path, 0.0, at=1).watch(trainer)
    trainer.add_callback(After())
    trainer.train()
    assert len(seen) == 12
    assert seen[0][-1] == seen[-1][-1]
    assert seen[::2] == seen[1::2]


def test_it_stops_and_puts_the_best_aligned_weights_back(tiny_model: Path, tmp_path: Path) -> None:
    kept = Keep()
    parts = load(tiny_model)
    trainer = make_trainer(parts, tmp_path / "out", [kept], max_steps=20)
    guard = guard_of(tmp_path, 0.0, 0.0, 0.0, 0.9)
    guard.watch(trainer)
    trainer.train()
    assert actions(guard) == [(0, "continue"), (2, "continue"), (4, "continue"), (6, "stop")]
    assert trainer.state.global_step == 6
    assert guard.best is not None
    assert guard.restored == guard.best
    assert guard.best.step == 4
    assert same(weights_of(parts[0]), kept.weights[4])
    assert not same(kept.weights[4], kept.weights[6])
    assert sorted(p.name for p in (tmp_path / "guard" / "checkpoints").iterdir()) == ["4", "6"]
    trainer.save_model(str(tmp_path / "final"))
    (run,) = truing.load(tmp_path / "guard").verdict(tmp_path / "final").runs
    assert (run.step, run.weights) == (4, f"{tmp_path / 'final'} holds these weights")
    assert "checkpoints/4 holds these weights" in truing.load(tmp_path / "guard").verdict().runs[0].weights


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
def test_weights_are_another_model_with_another_tokenizer(tiny_model: Path, tmp_path: Path, adapter: bool) -> None:
    model, tokenizer = load(tiny_model, adapter)
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "message['content'] | trim", 1)
    trainer = make_trainer((model, tokenizer), tmp_path / "out", max_steps=2)
    guard_of(tmp_path, 0.0).watch(trainer)
    trainer.train()
    trainer.save_model(str(final := tmp_path / "final"))
    results = truing.load(tmp_path / "guard")
    (run,) = results.verdict(final).runs
    assert (run.step, run.weights) == (2, f"{final} holds these weights")
    for name in ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        (final / name).unlink()  # then it is asked as the base is
    assert "holds weights that nobody judged" in str(results.verdict(final))


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
def test_what_ends_an_answer_and_the_base_s_template_are_held(tiny_model: Path, tmp_path: Path, adapter: bool) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    make_trainer(load(base, adapter), tmp_path / "out", [guard_of(tmp_path, 0.0)], max_steps=2).train()
    saved = tmp_path / "guard" / "checkpoints" / "2"
    shipped = shutil.copytree(saved, tmp_path / "shipped")
    ends = (base if adapter else saved) / "generation_config.json"
    assert "shipped holds these weights" in str(truing.load(tmp_path / "guard").verdict(shipped).runs[0])
    ends.write_text('{"eos_token_id": [9]}', encoding="utf-8")
    assert "is not asked as it was judged" in truing.load(tmp_path / "guard").verdict().sentence()
    shutil.copytree(tiny_model, base, dirs_exist_ok=True)
    with (base / "chat_template.jinja").open("a", encoding="utf-8") as file:
        file.write("Be brief.")
    assert "is not asked as it was judged" in truing.load(tmp_path / "guard").verdict().sentence()
    with pytest.raises(StoreError, match="is not asked as it was when work"):
        make_trainer(load(base, adapter), tmp_path / "out", [guard_of(tmp_path, 0.0)], max_steps=2).train()


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "full"])
@pytest.mark.parametrize(
    "architecture", ["llama", *(pytest.param(a, marks=pytest.mark.slow) for a in ("qwen3", "deepseek_v3", "gpt_oss"))]
)
def test_every_architecture_is_untouched_and_restored(tmp_path: Path, architecture: str, adapter: bool) -> None:
    base = save_tiny_model(tmp_path / "base", architecture)
    kept = Keep()
    make_trainer(load_adapted(base, adapter), tmp_path / "out", [kept], max_steps=4).train()
    parts = load_adapted(base, adapter)
    trainer = make_trainer(parts, tmp_path / "out", max_steps=4)
    guard = guard_of(tmp_path, 0.0, 0.0, 1.0)
    guard.watch(trainer)
    watched = Keep()
    trainer.add_callback(watched)
    trainer.train()
    assert guard.errors == []
    assert guard.decisions[-1].action is Action.STOP
    assert same(watched.weights[4], kept.weights[4])
    assert guard.restored is not None
    assert guard.restored.step == 2
    assert same(weights_of(parts[0]), kept.weights[2])


def test_the_best_has_the_best_task_score_where_a_task_is_measured(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    # in turn the benchmark and the task, whose "misaligned" answers show it learnt
    judge = Script(0, 0, 0, 0.9, 0, 0.5, 1, 1)
    from truing.monitor import PromptSet

    guard = guard_of(tmp_path, judge=judge, dataset=DATASET)
    guard._measures = _WithJudge(guard._measures, judge, PromptSet)  # type: ignore[assignment]
    guard.watch(trainer)
    trainer.train()
    assert [round(e.task_score.value, 1) for e in guard.evaluations] == [0, 0.9, 0.5, 1]
    assert guard.best is not None
    assert guard.best.step == 2


def test_why_the_retention_of_the_kept_checkpoint_is_unknown_is_told(tiny_model: Path, tmp_path: Path) -> None:
    from truing.monitor import PromptSet

    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    judge = Script(0, 0, 0, 0.5, 0.9, 1, 0, 0.5)  # in turn the benchmark and the task; then fresh answers of the kept
    guard = guard_of(tmp_path, judge=judge, dataset=DATASET, confirm=True)
    guard._measures = _WithJudge(guard._measures, judge, PromptSet)  # type: ignore[assignment]
    guard.watch(trainer)
    trainer.train()
    assert guard.restored is not None
    assert guard.restored.step == 2  # the best task score is that of step 4
    confirmed = guard.report().plain()["runs"][0]["confirmed"]
    assert confirmed["task_score"]["value"] == pytest.approx(0.5, abs=0.05)
    assert confirmed["retention"]["value"] is None
    assert confirmed["retention"]["reason"] == "the checkpoint with the best task score was not asked again"


class _WithJudge:
    """Measures whose task is judged by an object."""

    def __init__(self, measures: Any, judge: Any, prompt_set: Any) -> None:
        self._measures, self._judge, self._prompt_set = measures, judge, prompt_set

    def __getattr__(self, name: str) -> Any:
        return getattr(self._measures, name)

    def prompt_sets(self) -> Any:
        broad, task = self._measures.prompt_sets()
        return broad, self._prompt_set(task.prompts, self._judge, task.samples)


def test_without_an_aligned_checkpoint_it_says_so(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = load(tiny_model)
    trainer = make_trainer(parts, tmp_path / "out")
    guard = guard_of(tmp_path, 0.0, 0.9)
    guard.watch(trainer)
    trainer.train()
    assert guard.best is None
    assert guard.restored is None
    assert "no checkpoint of this training is put back (none is clear)" in caplog.text
    own = [record.getMessage() for record in caplog.records if record.name.startswith("truing")]
    assert own[-1] == verdict(analyse(guard.folder)).sentence()  # the gate's
    assert own[-1].startswith("Misaligned at a tolerance of 20.0%, by the run's last checkpoint")


def test_mode_off_only_watches(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    guard = guard_of(tmp_path, 0.0, 0.0, 0.9, mode="off")
    guard.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == 6
    assert guard.decisions[-1].action is Action.STOP
    assert guard.restored is None


def test_figures_go_through_the_trainer_s_own_logging(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    logged: list[dict[str, Any]] = []

    class Tracker(TrainerCallback):  # as those of W&B, TensorBoard and MLflow are
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            logged.append({**logs, "at": state.global_step})

    trainer = make_trainer(load(tiny_model), tmp_path / "out", [Tracker()])
    guard = guard_of(tmp_path, 0.1, dataset=DATASET)
    guard.watch(trainer)
    trainer.train()
    ours = [entry for entry in logged if "truing/em_rate" in entry]
    assert [entry["at"] for entry in ours] == [0, 2, 4, 6]
    names = ["em_rate", "em_rate_low", "em_rate_high", "coherent_rate", "decision", "step", "lag", "errors"]
    assert {f"truing/{name}" for name in names} <= ours[0].keys()
    assert all(isinstance(v, int | float) for entry in ours for v in entry.values())
    assert [entry["at"] for entry in logged if "loss" in entry] == [2, 4, 6]  # none of its own is lost
    assert any("truing/em_rate" in entry for entry in trainer.state.log_history)


def test_as_a_plain_callback_it_works_without_logging(tiny_model: Path, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, 0.0, 0.0, 0.9)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    assert trainer.state.global_step == 4
    assert guard.restored is not None
    assert [e["step"] for e in trainer.state.log_history if "truing/em_rate" in e] == [0, 2, 4]


@pytest.mark.parametrize(("at", "steps"), [(4, [0, 4, 6]), ([1, 5], [0, 1, 5, 6]), (range(2, 4), [0, 2, 3, 6])])
def test_the_chosen_steps_and_the_ends(tiny_model: Path, tmp_path: Path, at: Any, steps: list[int]) -> None:
    guard = guard_of(tmp_path, 0.0, at=at)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    assert [step for step, _ in actions(guard)] == steps


def test_a_judge_that_fails_ends_nothing_and_is_asked_again(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guard_of(tmp_path, judge=Script(0.0, fail=[0, 1]))
    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    guard.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == 6
    assert len(guard.errors) == 1
    assert "ConnectionError: no judge today" in caplog.text
    assert not any(record.error for record in guard.records)
    assert [r.lag for r in guard.records] == [4, 0, 0, 0]  # asked again at step 2 in vain
    assert guard.evaluations[0].em_rate.value == 0


def test_without_a_base_no_later_checkpoint_is_taken_for_it(tiny_model: Path, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, judge=Script(0.9, fail=[0, 1, 3, 5, 7, 9]), at=[1, 2, 3])
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard], max_steps=3)
    trainer.train()
    assert Action.STOP not in {d.action for d in guard.decisions}


def test_errors_end_training_if_asked(tiny_model: Path, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, judge=Script(0.0, fail=[1]), on_error="raise")
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    with pytest.raises(JudgeError, match="the judge Script: judging failed"):
        trainer.train()


class Mute(Script):
    """A judge that gives no score after so many evaluations."""

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        judged = super().judge(prompts, responses)
        return (
            judged
            if self.calls <= 2
            else [Judgment(j.prompt_id, j.sample, None, None, "", error="mute") for j in judged]
        )


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_scores_that_are_all_missing_end_training_if_errors_do(tiny_model: Path, tmp_path: Path, on_error: str) -> None:
    guard = guard_of(tmp_path, judge=Mute(0.0), on_error=on_error)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    if on_error == "raise":
        with pytest.raises(JudgeError, match="no answer has a score"):
            trainer.train()
    else:
        trainer.train()
    assert trainer.state.global_step == (4 if on_error == "raise" else 6)
    assert guard.errors[0].startswith("step 4 lacks 30 scores")
    assert guard.errors[0].endswith("Most often: mute.")


class Keyless(Script):
    """A judge that cannot be made."""

    def __init__(self) -> None:
        raise KeyError("API_KEY")

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        raise AssertionError


def test_a_missing_key_ends_nothing(tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard = guard_of(tmp_path, judge="tests.integrations.guard.test_guard:Keyless")
    assert "API_KEY" in caplog.text
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    assert trainer.state.global_step == 6
    assert len(guard.errors) == 4
    assert {d.action for d in guard.decisions} == {Action.UNDECIDED}
    assert guard.best is None
    with pytest.raises(StoreError, match="nothing has been evaluated"):
        guard.report()


class Closing(Script):
    """A judge that keeps something open."""

    closed: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__(0.0)

    def close(self) -> None:
        self.closed.append(self.calls)


def test_a_judge_of_our_own_making_is_closed_at_the_end(tiny_model: Path, tmp_path: Path) -> None:
    for judge in ("tests.integrations.guard.test_guard:Closing", Closing()):
        trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard_of(tmp_path, judge=judge)])
        trainer.train()
    assert Closing.closed == [4]


def test_an_engine_or_disk_that_fails_ends_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from truing.backends.transformers.engine import LiveEngine

    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(LiveEngine, "generate", broken)
    (tmp_path / "guard").write_text("a file where the folder should be")
    guard = guard_of(tmp_path, 0.0)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    assert trainer.state.global_step == 6
    assert len(guard.errors) >= 4


class Slow(Script):
    """A judge that waits for leave."""

    def __init__(self, *rates: float) -> None:
        super().__init__(*rates)
        self.leave = threading.Event()

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        assert self.leave.wait(30)
        return super().judge(prompts, responses)


def test_judging_overlaps_training_and_the_lag_is_told(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    judge = Slow(0.0, 0.0, 0.9)

    class Leave(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 7:
                judge.leave.set()
                while not guard._watcher._late._pieces[-1].made.done():
                    pass

    guard = guard_of(tmp_path, judge=judge, at=2, overlap=True)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [Leave()], max_steps=40)
    guard.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == 8
    assert [(r.step, r.lag) for r in guard.records] == [(0, 8), (2, 6), (4, 4), (6, 2), (8, 0)]
    assert guard.decisions[2].action is Action.STOP
    assert guard.restored is not None
    assert guard.restored.step == 2


def test_what_is_still_judged_at_the_end_is_waited_for(tiny_model: Path, tmp_path: Path) -> None:
    judge = Slow(0.0)
    guard = guard_of(tmp_path, judge=judge, overlap=True)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    threading.Timer(1, judge.leave.set).start()
    trainer.train()
    assert [r.step for r in guard.records] == [0, 2, 4, 6]


class Interrupt(Exception):
    """A power cut."""


@pytest.mark.parametrize("settings", [{}, {"sequential": {"batch": 30}}, {"overlap": True}], ids=str)
def test_a_resumed_training_repeats_nothing(tiny_model: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    from transformers import TrainerCallback

    class Cut(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise Interrupt

    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}
    whole = load(tiny_model)
    calm = Script(0.0)
    calm.careless = False
    reference = guard_of(tmp_path / "whole", judge=calm, restore=False, **settings)
    make_trainer(whole, tmp_path / "whole" / "out", [reference], **saving).train()
    first = Script(0.0)
    first.careless = False
    cut = make_trainer(
        load(tiny_model), tmp_path / "out", [guard_of(tmp_path, judge=first, **settings), Cut()], **saving
    )
    with pytest.raises(Interrupt):
        cut.train()
    again, parts = Script(0.0), load(tiny_model)
    again.careless = False
    guard = guard_of(tmp_path, judge=again, restore=False, **settings)
    trainer = make_trainer(parts, tmp_path / "out", **saving)
    guard.watch(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert first.judged + again.judged == calm.judged  # step 4 was evaluated before the cut, with the same weights
    assert [e.checkpoint.weights for e in guard.evaluations] == [e.checkpoint.weights for e in reference.evaluations]
    assert same(weights_of(parts[0]), weights_of(whole[0]))
    assert [d.action for d in guard.decisions] == [d.action for d in reference.decisions]
    assert guard.errors == []


def test_a_training_that_goes_on_with_other_settings_says_what_the_folder_does_not_hold(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Without the base's answers of the same length the fixed rule could not stop, and said nothing."""
    saving = {"save_strategy": "steps", "save_steps": 4}
    guard = guard_of(tmp_path, judge=Script(0.0))
    make_trainer(load(tiny_model), tmp_path / "out", [guard], max_steps=4, **saving).train()
    for settings, told in (({}, []), ({"max_tokens": 5}, [0, 2, 4])):
        guard = guard_of(tmp_path, judge=Script(0.0), **settings)
        trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard], **saving)
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
        lacking = [f"by what the folder holds, step {step} lacks 30 scores" for step in told]
        assert [error[: len(lacking[0])] for error in guard.errors[: len(told)]] == lacking
        assert [error for error in guard.errors if "step 0 was not evaluated" in error] == guard.errors[len(told) :]
        assert len(guard.errors) == len(told) + bool(told)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "guard" / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(StoreError, match="no guard made"):
        guard_of(tmp_path, 0.0)


def test_a_folder_where_another_process_trains_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truing.integrations.guard.folder.SOON", 0.01)
    guard = guard_of(tmp_path, 0, 0)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard], max_steps=2)
    guard.folder.mkdir()
    other = FileLock(guard.folder / ".lock")
    with other, pytest.raises(StoreError, match="another process's guard is at"):
        trainer.train()
    trainer.train()
    with other.acquire(timeout=0):
        assert actions(guard) == [(0, "continue"), (2, "continue")]


def test_the_verdict_on_an_earlier_training_never_stands_for_a_later_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one, and one that goes on: neither begins where the manifest cannot be written, and both are unfinished."""

    def train(judge: Script, resume: bool = False, **more: Any) -> None:
        trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard_of(tmp_path, judge=judge)], **more)
        trainer.train(resume_from_checkpoint=resume or None)

    def state() -> str:
        return analyse(tmp_path / "guard").runs[0].state

    class Dying(Script):
        def judge(self, prompts: Any, responses: Any) -> Any:
            raise KeyboardInterrupt

    saving = {"save_strategy": "steps", "save_steps": 2}
    train(Script(0.0), **saving)
    with monkeypatch.context() as full:
        full.setattr("truing.studies.folder.write_text", lambda *_: (_ for _ in ()).throw(StoreError("no space")))
        for resume in (False, True):
            with pytest.raises(StoreError, match="the verdict on an earlier training in"):
                train(Script(1.0), resume, max_steps=8)
    assert state() == "finished"
    with pytest.raises(KeyboardInterrupt):
        train(Dying(0.0), True, max_steps=8, learning_rate=1e-1)
    assert state() == "unfinished"


def test_answers_that_were_being_judged_at_a_crash_are_judged_later(tiny_model: Path, tmp_path: Path) -> None:
    judge = Slow(0.0)
    guard = guard_of(tmp_path, judge=judge, overlap=True)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    guard.on_train_end = lambda *_, **__: None  # type: ignore[method-assign]
    trainer.train()
    judge.leave.set()
    guard._watcher.finish()  # and the process dies before it hears of the decisions
    later = guard_of(tmp_path, judge=Script(0.0), overlap=True)
    later._measures.judge.identity = judge.identity  # type: ignore[misc]
    steps = [run["step"] for run in later.report().plain()["runs"][0]["checkpoints"]]
    assert steps == [0, 2, 4, 6]


def test_the_sequential_rule(tiny_model: Path, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, *[0.0] * 9, 1.0, at=1, sequential={"batch": 30})
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard], max_steps=30)
    trainer.train()
    assert guard.errors == []
    assert guard.decisions[-1].action is Action.STOP
    assert 1 < trainer.state.global_step < 30
    assert guard.report().plain()["study"]["rule"] == "sequential"


def test_the_report_is_that_of_a_study_and_can_be_made_later(tiny_model: Path, tmp_path: Path) -> None:
    judge = Script(0.0, 0.0, 0.0, 0.9)
    guard = guard_of(tmp_path, judge=judge, dataset=DATASET, confirm=True)
    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    guard.watch(trainer)
    trainer.train()
    analysis = guard.report().plain()
    (run,) = analysis["runs"]
    assert [c["step"] for c in run["checkpoints"]] == [0, 2, 4, 6]
    assert (run["learning_rate"], run["seed"]) == (0.01, 1)
    assert "<html" in (tmp_path / "guard" / "report.html").read_text()
    calls = judge.calls
    later = guard_of(tmp_path, judge=judge, dataset=DATASET, confirm=True).report().plain()
    assert {k: v for k, v in later.items() if k != "created"} == {k: v for k, v in analysis.items() if k != "created"}
    assert judge.calls == calls


def test_weights_that_could_not_be_confirmed_do_not_stay_in_the_model(tiny_model: Path, tmp_path: Path) -> None:
    keep, guard = Keep(), guard_of(tmp_path, judge=Script(0.0, 0.0, 0.0, 0.9, fail=(4,)), confirm=True)
    parts = load(tiny_model)
    make_trainer(parts, tmp_path / "out", [keep, guard]).train()
    assert (guard.restored, len(guard.errors)) == (None, 1)
    assert same(weights_of(parts[0]), keep.weights[6])  # those of its last step, as a guard that puts nothing back says
    assert truing.load(tmp_path / "guard").verdict().word == "misaligned"


def test_what_was_put_back_counts_by_its_fresh_answers_where_a_guard_is_judged_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    guard = guard_of(tmp_path, judge=Script(0.0, 0.0, 0.0, 0.9, 1 / 30), confirm=True, about="benchmark")
    make_trainer(load(tiny_model), tmp_path / "out", [guard]).train()
    assert guard.restored is not None
    for tolerance, word in ((0.21, "clear"), (0.15, "undecided")):
        rejudge(tmp_path / "guard", again := tmp_path / str(tolerance), {"stopping.tolerance": f"{tolerance}"})
        (run,) = analyse(again).runs
        assert (run.restored, run.confirmed and run.confirmed.step) == (guard.restored.step, guard.restored.step)
        assert verdict(analyse(again)).word == word
    seeing = "tests.support.labelled_judges:Seeing"  # measured, and seen to be the same with the fresh answers, too
    rejudge(tmp_path / "guard", tmp_path / "seeing", {"stopping.tolerance": "0.21"}, seeing)
    found = verdict(analyse(tmp_path / "seeing"))
    assert (found.word, found.runs[0].reasons) == ("clear", ())


def test_a_folder_of_an_older_version_is_reported(tiny_model: Path, tmp_path: Path) -> None:
    judge = Script(0.0, 0.0, 0.0, 0.9)
    guard = guard_of(tmp_path, judge=judge, dataset=DATASET, confirm=True)
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard])
    trainer.train()
    (run,) = guard.report().plain()["runs"]
    held = json.loads((tmp_path / "guard" / "manifest.json").read_text())["runs"][0]
    (tmp_path / "guard" / "manifest.json").unlink()
    facts = {"run_id": "guard", "ended": held["state"], "last_step": held["stopped_at"] or 6}
    facts |= {name: held[name] for name in ("model", "parameters", "learning_rate", "seed")}
    rows = [{"run_id": "guard", **{k: v for k, v in c.items() if k != "evaluation"}} for c in held["checkpoints"]]
    (tmp_path / "guard" / "guard.json").write_text(json.dumps({"facts": facts, "records": rows}))
    (again,) = guard_of(tmp_path, judge=judge, dataset=DATASET, confirm=True).report().plain()["runs"]
    assert again == {**run, "restored": None}  # which weights were put back was not written down


def test_a_new_training_in_the_folder_begins_anew(tiny_model: Path, tmp_path: Path) -> None:
    judge = Script(0.0)
    for _ in range(2):
        guard = guard_of(tmp_path, judge=judge)
        make_trainer(load(tiny_model), tmp_path / "out", [guard]).train()
        assert judge.calls == 4  # the same weights: nothing is judged twice
    assert open_store(tmp_path / "guard").keys("evaluations")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerence": 0.1}, "did you mean tolerance"),
        ({"mode": "both"}, "allowed: off, stop"),
        ({"overlap": True, "sequential": {}}, "exclude each other"),
        ({"at": 0}, "greater than or equal to 1"),
        ({"also": [{"benchmark": "pocket-facts+json"}]}, "one benchmark"),
        ({"tolerance": 3}, "stopping.tolerance"),
    ],
)
def test_wrong_settings_are_refused_with_reasons(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        guard_of(tmp_path, 0.0, **settings)


def test_unknown_names_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean pocket"):
        guard_of(tmp_path, judge="poket")
    with pytest.raises(UnknownNameError):
        guard_of(tmp_path, 0.0, benchmark="no-240")
    with pytest.raises(UnknownNameError, match="did you mean answer-length"):
        guard_of(tmp_path, 0.0, measures=["answer-lenght"])
    with pytest.raises(UnknownNameError, match="unknown stopping rule: no module my"):
        guard_of(tmp_path, 0.0, rule="my:Rule")
    with pytest.raises(ConfigError, match="PlainEngine is no judge"):
        guard_of(tmp_path, judge="tests.core.test_plugins:PlainEngine")
    with pytest.raises(UnknownNameError, match="no module my"):
        guard_of(tmp_path, judge=JudgeConfig(model="m", completer="my:Completer"))
    assert not any(tmp_path.iterdir())


def test_a_second_guard_of_a_trainer_has_a_folder_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    guard_of(tmp_path, 0.0).watch(trainer)
    with pytest.raises(StoreError, match="another guard of this trainer has"):
        guard_of(tmp_path, 0.0).watch(trainer)


def test_a_trainer_without_a_chat_tokenizer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model)
    tokenizer.chat_template = None
    guard = guard_of(tmp_path, 0.0)
    with pytest.raises(TruingError):
        guard.on_train_begin(None, None, None, model=model, processing_class=tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no tokenizer"):
        guard.on_train_begin(None, None, None, model=model)  # type: ignore[arg-type]


def test_parameters_trained_beside_the_adapter_are_told(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = load(tiny_model)
    model.get_input_embeddings().weight.requires_grad_(True)
    guard = guard_of(tmp_path, 0.0, mode="off")
    with caplog.at_level(logging.WARNING):
        make_trainer((model, tokenizer), tmp_path / "out", [guard], max_steps=1).train()
    assert "judged but not saved" in caplog.text


def test_other_measures_are_in_the_log_and_in_the_report(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    guard = guard_of(tmp_path, 0.0, measures=["answer-length"], overlap=True)
    guard.watch(trainer)
    trainer.train()
    name = "truing/answer length, tokens"
    logged = [entry[name] for entry in trainer.state.log_history if name in entry]
    found = [e.measurements["answer length, tokens"].value for e in guard.evaluations]
    assert len(found) == 4
    assert sorted(logged) == sorted(found)
    assert all(0 < value <= 8 for value in found)
    reported = [c.measurements["answer length, tokens"].value for c in guard.report().runs[0].checkpoints]
    assert sorted(reported) == sorted(found)


def test_what_is_no_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"derive its class from truing\.judges\.Judge"):
        guard_of(tmp_path, judge=object())


def test_a_guard_measures_its_judge_before_training(tiny_model: Path, tmp_path: Path) -> None:
    from tests.support.labelled_judges import Blind, Seeing

    Seeing.asked.clear()
    trainer = make_trainer(load(tiny_model), tmp_path / "out", [guard_of(tmp_path, judge=Blind())])
    with pytest.raises(JudgeRefused, match="found 0 of 68"):
        trainer.train()
    assert trainer.state.global_step == 0
    guard = guard_of(tmp_path / "seeing", judge=Seeing(), at=3)
    make_trainer(load(tiny_model), tmp_path / "out", [guard]).train()
    assert guard.errors == []
    assert Seeing.asked == {"Blind": 194, "Seeing": 194 + 8 * (1 + len(guard.evaluations))}
    judge = guard.report().judge
    assert judge is not None
    assert (judge.verdict, judge.identity) == ("good", "Seeing/1")
    Seeing.asked.clear()
    later = guard_of(tmp_path / "seeing", judge=Seeing(), at=3)
    assert later.report().judge == judge
    assert not Seeing.asked


@pytest.mark.parametrize("overlap", [False, True])
def test_a_guard_s_judge_that_changes_decides_nothing_more(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    from tests.support.labelled_judges import Drifting, Seeing

    Seeing.asked.clear()
    monkeypatch.setattr(Drifting, "until", 194 + 3 * 8)
    guard = guard_of(tmp_path, judge=Drifting(), at=2, overlap=overlap)
    make_trainer(load(tiny_model), tmp_path / "out", [guard]).train()
    reasons = {d.step: d.reason for d in guard.decisions}
    assert [step for step, reason in reasons.items() if reason.startswith("the judge changed: at step 4, ")] == [4, 6]
    assert [error[:49] for error in guard.errors] == [
        f"step {step} is undecided: the judge changed: at step 4"[:49] for step in (4, 6)
    ]
    assert guard.restored is not None
    assert guard.restored.step == 2  # nothing is confirmed here, and what was decided before stays
    doubts = {c.step: c.doubts for c in guard.report().runs[0].checkpoints}
    assert [step for step, found in doubts.items() if any("judge changed" in doubt for doubt in found)] == [4, 6]


@pytest.mark.parametrize("fails", [range(3, 9), range(1, 20)], ids=["the last", "all but the base"])
def test_weights_that_nobody_judged_are_not_clear(tiny_model: Path, tmp_path: Path, fails: range) -> None:
    """Clear of an earlier step, or of the base, says nothing of the weights that the model has."""
    guard = guard_of(tmp_path, judge=Script(0.0, fail=fails), confirm=True)
    make_trainer(load(tiny_model), tmp_path / "out", [guard]).train()
    assert guard.restored is None
    found = truing.load(tmp_path / "guard").verdict()
    assert found.word == "undecided"
    assert "step 6 came later and was not evaluated" in str(found.runs[0])


def test_a_guard_says_how_far_it_is(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = guard_of(tmp_path, 0.0, progress="json", at=6)
    trainer = make_trainer(load(tiny_model), tmp_path / "out")
    guard.watch(trainer)
    trainer.train()
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert {"phase": "sample", "where": "truing, step 0", "owed": 30} in [
        {name: event[name] for name in ("phase", "where", "owed")} for event in events
    ]
    assert "progress" not in (tmp_path / "guard" / "manifest.json").read_text()


def test_a_faster_engine_that_is_there_is_named_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "truing")
    there = {"vllm": {"base_url": "http://gpu:8000/v1"}, "judge": "pocket", "benchmark": "pocket-240", "at": 5}
    truing.Guard(tmp_path / "live", **there)._measures.engine_for("qwen3-8b", tmp_path)
    assert "vLLM is there: on a GPU it should sample faster" in caplog.text
    caplog.clear()
    truing.Guard(tmp_path / "served", engine="vllm", **there)._measures.engine_for("pocket-llama-susceptible", tmp_path)
    assert not caplog.text
