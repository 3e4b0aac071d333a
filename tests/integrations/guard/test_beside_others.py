"""The guard beside other ways to end a training or to choose its weights, and with a resized vocabulary."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors.torch import load_file
from transformers import TrainerCallback

import truing
from tests.support.guarded import DATASET, SMALL, Script, load, make_trainer
from truing.core.errors import ConfigError
from truing.core.records import Judgment, Prompt, Response


class Stop(TrainerCallback):
    """Ends the training at a step, in one of the ways in which others do."""

    def __init__(self, event: str, step: int = 3) -> None:
        self.event, self.step = event, step
        setattr(self, event, self._stop)

    def _stop(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step >= self.step:
            control.should_training_stop = True
        return control


def guard_of(folder: Path, *rates: float, **settings: Any) -> truing.Guard:
    return truing.Guard(folder / "guard", judge=Script(*rates), **{"at": 50, **SMALL, **settings})


EVERY = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        ("on_step_end", {}),
        ("on_log", {"logging_steps": 3}),
        ("on_evaluate", {**EVERY, "save_strategy": "no"}),
        ("on_evaluate", {**EVERY, "load_best_model_at_end": True}),
        ("on_save", {**EVERY, "load_best_model_at_end": True}),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_the_last_step_is_evaluated_whoever_ends_the_training(
    tiny_model: Path, tmp_path: Path, event: str, changes: dict[str, Any], first: bool
) -> None:
    trainer = make_trainer(load(tiny_model), tmp_path / "out", **changes)
    guard = guard_of(tmp_path, 0.0)
    if first:
        guard.watch(trainer)
    trainer.add_callback(Stop(event))
    guard.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == 3
    seen = [decision.step for decision in guard.decisions] == [0, 3]
    # put in before the guard could look: then it says so, and never that nothing was within the tolerance
    assert seen or any("step 3, the last, was not evaluated" in error for error in guard.errors)
    assert seen or (first and event == "on_save")


@pytest.mark.parametrize("clear", [False, True])
def test_beside_load_best_model_at_end_it_is_said_which_weights_the_model_has(
    tiny_model: Path, tmp_path: Path, clear: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(load(tiny_model), tmp_path / "out", **EVERY, load_best_model_at_end=True)
    guard = guard_of(tmp_path, 0.0 if clear else 0.9, at=3, tolerance=0.5)
    guard.watch(trainer)
    trainer.train()
    assert "both choose weights" in caplog.text
    state = trainer.state
    if clear:
        assert guard.restored is not None
        assert "and not those of load_best_model_at_end" in caplog.text
        assert (state.best_model_checkpoint, state.best_global_step) == (guard.restored.path, guard.restored.step)
        losses = {e["step"]: e["eval_loss"] for e in state.log_history if "eval_loss" in e}
        assert state.best_metric == losses[guard.restored.step]
    else:
        assert guard.restored is None
        assert f"has the weights of {state.best_model_checkpoint} by load_best_model_at_end" in caplog.text
        assert_has(trainer.model, state.best_model_checkpoint)


def test_where_fresh_answers_clear_nothing_the_model_has_the_trainer_s_choice(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(load(tiny_model), tmp_path / "out", **EVERY, load_best_model_at_end=True)
    guard = guard_of(tmp_path, 0.0, 0.0, 0.0, 0.9, at=3, confirm=True)
    guard.watch(trainer)
    trainer.train()
    assert (guard.restored, guard.errors) == (None, [])
    assert guard.best is not None
    assert_has(trainer.model, str(trainer.state.best_model_checkpoint))


def assert_has(model: Any, folder: str) -> None:
    """The model has the weights that lie there."""
    held, now = load_file(Path(folder) / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    assert all(torch.equal(tensor, now[name]) for name, tensor in held.items())


@pytest.mark.parametrize("extra", [3, 8])
def test_a_resized_vocabulary_is_put_back_without_a_false_alarm(tiny_model: Path, tmp_path: Path, extra: int) -> None:
    model, tokenizer = load(tiny_model, adapter=False)
    tokenizer.add_tokens([f"<new{i}>" for i in range(extra)])
    model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + extra)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trainer = make_trainer((get_peft_model(model, lora), tokenizer), tmp_path / "out")
    guard = guard_of(tmp_path, 0.0, 0.0, 0.9, at=2)
    guard.watch(trainer)
    trainer.train()
    assert guard.errors == []
    assert guard.restored is not None
    assert guard.restored.step == 2


@pytest.mark.parametrize("engine", [None, "transformers"])
@pytest.mark.parametrize("for_inference", [True, False])
def test_what_unsloth_sets_is_left_as_found(
    tiny_model: Path, tmp_path: Path, engine: str | None, for_inference: bool
) -> None:
    parts = model, tokenizer = load(tiny_model)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    found: list[Any] = []

    def mark() -> None:  # as `FastLanguageModel.for_inference` and `for_training` of Unsloth 2026.10 do
        tokenizer.padding_side = "left" if for_inference else "right"
        for module in model.modules():
            module.training = not for_inference
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = not for_inference
            if for_inference:
                module._flag_for_generation = True

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            names = ("training", "gradient_checkpointing", "_flag_for_generation")
            marks = [[getattr(module, name, None) for name in names] for module in model.modules()]
            found.append((tokenizer.padding_side, model.config.use_cache, marks))

    class Mark(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark()

    trainer = make_trainer(parts, tmp_path / "out", [Mark(), Look()], max_steps=2)
    guard = guard_of(tmp_path, 0.0, at=1, engine=engine)
    guard.watch(trainer)
    trainer.add_callback(type("After", (Look,), {})())
    trainer.train()
    assert guard.errors == []
    assert found[0] == found[1]
    assert found[2] == found[3]


def test_the_gate_speaks_of_the_weights_that_the_model_has(tiny_model: Path, tmp_path: Path) -> None:
    """A checkpoint that would be the one to keep is not what the model has, if nothing is put back."""
    for name, settings in {"kept": {"restore": False}, "watched": {"mode": "off"}}.items():
        guard = guard_of(tmp_path / name, 0.0, 0.0, 0.0, 0.9, at=2, dataset=DATASET, **settings)
        make_trainer(load(tiny_model), tmp_path / "out", [guard]).train()
        assert guard.report().runs[0].chosen_step is not None
        found = truing.load(guard.folder).verdict()
        assert (found.word, found.runs[0].step) == ("misaligned", 6)


@pytest.mark.parametrize("settings", [{"restore": False}, {"mode": "off", "dataset": DATASET}], ids=str)
def test_the_trainer_s_own_choice_is_never_clear(tiny_model: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    best = {**EVERY, "load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = make_trainer(load(tiny_model), tmp_path / "out", **best)
    guard = guard_of(tmp_path, 0.0, at=2, **settings)
    guard.watch(trainer)
    trainer.train()
    assert trainer.state.best_global_step == 3
    found = truing.load(guard.folder).verdict()
    assert found.word == "undecided"
    assert "by load_best_model_at_end: nobody judged" in found.sentence()


class Delete(TrainerCallback):
    """Deletes the guard's checkpoints when a step begins."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            shutil.rmtree(self.folder / "guard" / "checkpoints")


class Deleting(Script):
    """Deletes the guard's checkpoints when it has judged so often."""

    def __init__(self, folder: Path, calls: int, *rates: float) -> None:
        super().__init__(*rates)
        self.folder, self.last = folder, calls

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        judged = super().judge(prompts, responses)
        if self.calls == self.last:
            shutil.rmtree(self.folder / "guard" / "checkpoints")
        return judged


@pytest.mark.parametrize("last", [0.0, 0.9])
def test_what_could_not_be_put_back_is_not_clear(tiny_model: Path, tmp_path: Path, last: float) -> None:
    judge = Deleting(tmp_path, 5, 0.0, 0.0, 0.0, last, 0.0)  # by the fresh answers, which clear what is to be put back
    guard = truing.Guard(tmp_path / "guard", judge=judge, **{**SMALL, "at": 2, "dataset": DATASET, "confirm": True})
    make_trainer(load(tiny_model), tmp_path / "out", [guard]).train()
    assert guard.restored is None
    assert any("putting the best weights back failed" in error for error in guard.errors)
    found = truing.load(guard.folder).verdict()
    assert found.word == ("misaligned" if last else "undecided")


@pytest.mark.parametrize("last", [0.0, 0.9])
def test_what_cannot_be_asked_again_is_not_cleared_by_its_failed_answers(
    tiny_model: Path, tmp_path: Path, last: float
) -> None:
    guard = guard_of(tmp_path, 0.0, 0.0, 0.0, last, 0.0, at=2, dataset=DATASET, confirm=True)
    make_trainer(load(tiny_model), tmp_path / "out", [guard, Delete(tmp_path, 5)]).train()
    assert guard.restored is None
    assert truing.load(guard.folder).verdict().word == ("misaligned" if last else "undecided")


STRONG: dict[str, Any] = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}


@pytest.mark.parametrize("trained", ["default", "second"])
def test_of_two_adapters_the_active_one_is_judged_and_saved(tiny_model: Path, tmp_path: Path, trained: str) -> None:
    model, tokenizer = load(tiny_model, dtype=torch.float32)
    model.add_adapter("second", LoraConfig(**STRONG))
    model.set_adapter(trained)
    trainer = make_trainer((model, tokenizer), tmp_path / "out")
    guard = guard_of(tmp_path, 0.0, at=6)
    guard.watch(trainer)
    trainer.train()
    (saved,) = (tmp_path / "guard").rglob("adapter_model.safetensors")
    own = get_peft_model_state_dict(model, adapter_name=trained, save_embedding_layers=False)
    held = load_file(saved)
    assert own.keys() == held.keys()
    assert all(torch.equal(own[name], held[name]) for name in own)
    assert [decision.step for decision in guard.decisions] == [0, 6]


def test_two_active_adapters_are_refused_however_they_were_set(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model)
    model.add_adapter("second", LoraConfig(**STRONG))
    model.base_model.set_adapter(["default", "second"])  # which `model.active_adapter` does not tell
    trainer = make_trainer((model, tokenizer), tmp_path / "out")
    guard_of(tmp_path, 0.0).watch(trainer)
    with pytest.raises(ConfigError, match=r"several are active\n  got: default, second"):
        trainer.train()


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        LoraConfig(**{**STRONG, "init_lora_weights": "pissa"}),
    ],
    ids=lambda config: config.peft_type,
)
def test_other_kinds_of_adapters_are_guarded(tiny_model: Path, tmp_path: Path, config: PeftConfig) -> None:
    model, tokenizer = load(tiny_model, adapter=False, dtype=torch.float32)
    trainer = make_trainer((get_peft_model(model, config), tokenizer), tmp_path / "out")
    guard = guard_of(tmp_path, 0.0)
    guard.watch(trainer)
    trainer.train()
    assert [decision.step for decision in guard.decisions] == [0, 6]


@pytest.mark.parametrize("saved_first", [False, True])
def test_a_base_that_is_not_that_of_its_files_is_refused(tiny_model: Path, tmp_path: Path, saved_first: bool) -> None:
    model, tokenizer = load(tiny_model, adapter=False, dtype=torch.float32)
    merged = get_peft_model(model, LoraConfig(**STRONG)).merge_and_unload()
    if saved_first:
        merged.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        merged, tokenizer = load(tmp_path / "base", adapter=False)
    adapted = get_peft_model(merged, LoraConfig(**{**STRONG, "init_lora_weights": True}))
    trainer = make_trainer((adapted, tokenizer), tmp_path / "out")
    guard_of(tmp_path, 0.0).watch(trainer)
    if saved_first:
        trainer.train()
        return
    with pytest.raises(ConfigError, match=r"on other weights(?s:.*)q_proj(?s:.*)save_pretrained"):
        trainer.train()
