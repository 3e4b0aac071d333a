"""A watch of a folder into which checkpoints come, whole or half, in any order, and go."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.scripted import EVALUATION, ScriptedEngine, WordJudge, save_adapter, save_model, save_run
from truing.config import AuditConfig
from truing.core.errors import DataError, StoreError, UnknownNameError
from truing.core.records import Decision, Estimate
from truing.monitor import open_store
from truing.report import write_report
from truing.results import analyse
from truing.results.gate import verdict
from truing.stats.rules import Answers, FixedRule
from truing.studies.audit import run_audit
from truing.studies.watch import Watch
from truing.studies.watch_state import Stop, load_watch

FIRST = 100


@contextmanager
def watching(
    run: Path | str, out: Path, *stops: Callable[[Stop], None], **changes: Any
) -> Iterator[tuple[Watch, list[str]]]:
    """A watch, and what it tells."""
    raw = {"name": out.name, "checkpoints": [str(run)], "evaluation": EVALUATION, **changes}
    told: list[str] = []
    on_stop = {f"action {i}": act for i, act in enumerate(stops)}
    watch = Watch(AuditConfig.model_validate(raw), out, on_stop, told.append)
    try:
        yield watch, told
    finally:
        watch.close()


def poll(watch: Watch) -> None:
    """As often as it takes to see that what is there does not change."""
    watch.poll()
    watch.poll()


def save(run: Path, step: int, base: Path) -> Path:
    folder = save_adapter(run / f"checkpoint-{step}", base, FIRST + step)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def decided(watch: Watch) -> dict[str, str]:
    return {name: seen.action for name, seen in watch.state.seen.items() if seen.state == "evaluated"}


def plain(out: Path) -> Any:
    """The analysis but for what may differ between a watch and an audit of the same checkpoints."""
    return {k: v for k, v in analyse(out).plain().items() if k not in ("study", "notes")}


@pytest.fixture(autouse=True)
def _forget() -> None:
    ScriptedEngine.forget()


def test_each_checkpoint_is_evaluated_as_it_comes_and_the_first_to_stop_is_acted_on_once(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=())
    stops: list[Stop] = []
    with watching(run, tmp_path / "out", stops.append) as (watch, told):
        poll(watch)  # the folder is not there yet
        for step in (10, 20, 50, 60):
            save(run, step, base)
            poll(watch)
            assert watch.last_step == step
        assert (watch.state.seen["checkpoint-50"].decided or 0) >= watch.state.seen["checkpoint-50"].saved
        assert watch.finish()
    assert [(s.step, s.checkpoint, s.best) for s in stops] == [
        (50, str(run / "checkpoint-50"), str(run / "checkpoint-20"))
    ]
    assert told == [f"nothing is at {run} yet", "on stop, action 0: done"]
    assert verdict(analyse(tmp_path / "out")).word == "misaligned"


def test_the_end_is_what_an_audit_of_the_folder_finds_whatever_the_order(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=())
    with watching(run, tmp_path / "out") as (watch, _):
        for step in (60, 10, 50, 20):
            save(run, step, base)
            poll(watch)
        watch.finish()
        decisions = decided(watch)
    config = watch.config.model_copy(update={"name": "audit"})
    run_audit(config, tmp_path / "audit")
    assert plain(tmp_path / "audit")["runs"][0]["em_at_end"] == plain(tmp_path / "out")["runs"][0]["em_at_end"]
    assert decisions == {f"checkpoint-{s}": "stop" if s >= 50 else "continue" for s in (10, 20, 50, 60)}
    ScriptedEngine.forget()
    run_audit(watch.config, tmp_path / "out")  # goes on in the same folder, and asks nothing
    assert ScriptedEngine.asked == []


class Looks(FixedRule):
    """Says at which of the run's decisions it stands."""

    def decide(self, step: int, base: Estimate | None, answers: Answers) -> Decision:
        return replace(super().decide(step, base, answers), reason=f"{self.look}: its look")


def test_each_decision_has_a_share_of_the_error_of_its_own_whatever_the_order(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=())
    with watching(run, tmp_path / "out", stopping={"rule": "tests.studies.test_watch:Looks"}) as (watch, _):
        for steps in ((60,), (10, 50), (20,)):
            for step in steps:
                save(run, step, base)
            poll(watch)
        save_adapter(run / "checkpoint-10", base, 7)
        poll(watch)
    rows = open_store(tmp_path / "out").query("SELECT step, reason FROM evaluations WHERE step > 0")
    looks = sorted((int(row["reason"].split(":")[0]), row["step"]) for row in rows)
    assert looks == [(1, 60), (2, 10), (3, 50), (4, 20), (5, 10)]


def test_begun_again_it_asks_and_does_nothing_twice(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=(10, 50))
    stops: list[Stop] = []
    with watching(run, tmp_path / "out", stops.append) as (watch, _):
        poll(watch)
    asked = list(ScriptedEngine.asked)
    shutil.rmtree(run / "checkpoint-10")  # as a Trainer with a limit does
    with watching(run, tmp_path / "out", stops.append) as (watch, told):
        watch.poll()
        assert ScriptedEngine.asked == asked
        save(run, 60, base)
        poll(watch)
        assert watch.finish()
    assert [step for step, _ in ScriptedEngine.asked] == [*(step for step, _ in asked), 60]
    assert len(stops) == 1
    assert told == []
    steps = [c["step"] for c in plain(tmp_path / "out")["runs"][0]["checkpoints"]]
    assert steps == [0, 10, 50, 60]


def test_an_action_that_fails_is_tried_again_and_one_that_was_cut_short_is_not(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, steps=(50,))
    fails = [True, True, False]

    def flaky(stop: Stop) -> None:
        if fails and fails.pop(0):
            raise OSError("no network")

    def killed(stop: Stop) -> None:
        raise KeyboardInterrupt

    with watching(run, tmp_path / "out", flaky) as (watch, told):
        poll(watch)
        watch.poll()
        watch.poll()
        assert [line.partition(": ")[2] for line in told] == ["failed and is tried again: OSError: no network", "done"]
    run, _ = save_run(tmp_path / "b", steps=(50,))
    with watching(run, tmp_path / "b" / "out", killed) as (watch, _), pytest.raises(KeyboardInterrupt):
        poll(watch)
    with watching(run, tmp_path / "b" / "out", killed) as (watch, told):
        poll(watch)
    assert told == ["action 0 on stop was begun, and the process ended before it was known how it went: not done again"]


HALF: dict[str, Callable[[Path], Any]] = {
    "no weights yet": lambda at: (at / "adapter_model.safetensors").unlink(),
    "half a file": lambda at: _cut(at / "adapter_model.safetensors"),
    "no config yet": lambda at: (at / "adapter_config.json").unlink(),
    "half a config": lambda at: _cut(at / "adapter_config.json"),
    "no state yet": lambda at: ((at / "optimizer.pt").touch(), (at / "trainer_state.json").unlink()),
    "half a state": lambda at: _cut(at / "trainer_state.json"),
    "of another step": lambda at: (at / "trainer_state.json").write_text('{"global_step": 99}'),
    "an odd index": lambda at: (at / "model.safetensors.index.json").write_text('{"weight_map": 1}'),
    "pickled": lambda at: (at / "adapter_model.safetensors").rename(at / "adapter_model.bin"),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def test_checkpoints_that_are_not_whole_are_told_once_and_taken_up_when_they_are(tmp_path: Path) -> None:
    steps = [10 + i for i in range(len(HALF))]
    run, base = save_run(tmp_path, steps=(5, *steps))
    for step, breaking in zip(steps, HALF.values(), strict=True):
        breaking(run / f"checkpoint-{step}")
    with watching(run, tmp_path / "out") as (watch, told):
        poll(watch)
        poll(watch)
        assert decided(watch) == {"checkpoint-5": "continue"}
        assert [line.partition(" is passed over for now: ")[0] for line in told] == [f"checkpoint-{s}" for s in steps]
        assert watch.settled
        for step in steps:
            (run / f"checkpoint-{step}" / "model.safetensors.index.json").unlink(missing_ok=True)
            save(run, step, base)
        poll(watch)
        assert decided(watch) == {f"checkpoint-{step}": "continue" for step in (5, *steps)}


def test_shards_are_whole_when_all_are_there_with_their_index(tmp_path: Path) -> None:
    whole = save_model(tmp_path / "whole")
    (whole / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in names:
        save_file({name: np.zeros(2, dtype=np.float32)}, whole / name)
    index = whole / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: name for name in names}}))
    run, at = tmp_path / "run", tmp_path / "run" / "step_20"
    with watching(run, tmp_path / "out") as (watch, _):
        for name in ("config.json", "tokenizer_config.json", names[0], names[1]):
            at.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / name, at)
            poll(watch)
            assert watch.state.seen["step_20"].state == "not whole"
        shutil.copy(index, at)
        watch.poll()
        assert not watch.settled
        watch.poll()
        assert decided(watch) == {"step_20": "continue"}


def test_epochs_are_steps_from_one_on_also_if_the_first_comes_last(tmp_path: Path) -> None:
    run = tmp_path / "run"
    base = save_model(tmp_path / "base")
    with watching(run, tmp_path / "out", base=str(base)) as (watch, _):
        for epoch in (1, 0):
            save_model(run / f"epoch_{epoch}", seed=epoch + 1)
            poll(watch)
        watch.finish()
        write_report(tmp_path / "out")
    (table,) = plain(tmp_path / "out")["runs"]
    assert [c["step"] for c in table["checkpoints"]] == [0, 1, 2]
    assert "step 1 here is epoch 0" in " ".join(analyse(tmp_path / "out").notes)


@pytest.mark.parametrize("error", [FileNotFoundError, UnknownNameError])  # of an adapter, of full weights
def test_what_is_deleted_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    run, base = save_run(tmp_path, steps=(10, 20))
    generate = ScriptedEngine.generate

    def deleting(self: ScriptedEngine, checkpoint: Any, *args: Any) -> Any:
        if checkpoint.step in (20, 30):
            shutil.rmtree(str(checkpoint.path), ignore_errors=True)
        if checkpoint.step == 30:
            raise error(str(checkpoint.path))
        return generate(self, checkpoint, *args)

    monkeypatch.setattr(ScriptedEngine, "generate", deleting)
    with watching(run, tmp_path / "out") as (watch, told):
        poll(watch)
        assert told == ["checkpoint-20 was deleted while it was evaluated"]
        save(run, 30, base)
        poll(watch)
        assert "checkpoint-30 is passed over for now: it was deleted before it was evaluated" in told[-1]
        save(run, 40, base)
        watch.poll()
        shutil.rmtree(run / "checkpoint-40")
        poll(watch)
        assert told[-1] == "checkpoint-40 is passed over for now: it was deleted before it was whole"
        assert watch.settled
        watch.finish()
    (found,) = verdict(analyse(tmp_path / "out")).runs
    assert found.word == "undecided"
    assert "step 40 came later and was not evaluated" in found.reasons


@pytest.mark.parametrize("changes", [True, False])
def test_what_fails_while_a_checkpoint_changes_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    run, _ = save_run(tmp_path, steps=(10, 20))
    generate, failed = ScriptedEngine.generate, list[int]()

    def failing(self: ScriptedEngine, checkpoint: Any, *args: Any) -> Any:
        if checkpoint.step == 20 and not failed:
            failed.append(20)
            if changes:
                (run / "checkpoint-10" / "README.md").write_text("half of it is deleted, say")
            raise StoreError("it is not asked as it was", "its tokenizer changed")
        return generate(self, checkpoint, *args)

    monkeypatch.setattr(ScriptedEngine, "generate", failing)
    with watching(run, tmp_path / "out") as (watch, told):
        if not changes:
            with pytest.raises(StoreError):
                poll(watch)
            return
        poll(watch)
        poll(watch)
        assert decided(watch) == {"checkpoint-10": "continue", "checkpoint-20": "continue"}
    assert [line.partition(":")[0] for line in told] == ["looked at again, for a checkpoint changed meanwhile"]


def test_weights_that_are_saved_again_are_evaluated_again(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=(10,))
    with watching(run, tmp_path / "out") as (watch, told):
        poll(watch)
        n = len(ScriptedEngine.asked)
        (run / "checkpoint-10" / "README.md").write_text("the same weights")
        poll(watch)
        assert (len(ScriptedEngine.asked), told) == (n, [])
        save_adapter(run / "checkpoint-10", base, 7)
        poll(watch)
        assert len(ScriptedEngine.asked) == n + 1
        assert told == ["checkpoint-10 was saved again with other weights: it is evaluated again"]


def test_a_last_checkpoint_that_never_became_whole_leaves_the_end_undecided(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, steps=(10, 20))
    _cut(run / "checkpoint-20" / "adapter_model.safetensors")
    with watching(run, tmp_path / "out") as (watch, _told):
        poll(watch)
        watch.finish()
    (found,) = verdict(analyse(tmp_path / "out")).runs
    assert (found.word, found.reasons) == ("undecided", ("step 20 came later and was not evaluated",))
    with watching(run, tmp_path / "out") as (watch, _told):
        shutil.rmtree(run / "checkpoint-20")  # as the message says
        poll(watch)
        watch.finish()
    assert verdict(analyse(tmp_path / "out")).word == "clear"


def test_a_folder_that_is_renamed_once_it_is_whole_is_the_same_checkpoint(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=())
    with watching(run, tmp_path / "out") as (watch, told):
        save_adapter(run / "checkpoint-10.part", base, FIRST)
        poll(watch)
        n = len(ScriptedEngine.asked)
        (run / "checkpoint-10.part").rename(run / "checkpoint-10")
        poll(watch)
        assert (decided(watch), len(ScriptedEngine.asked)) == ({"checkpoint-10": "continue"}, n)
        save_adapter(run / "checkpoint-10", base, 50)
        poll(watch)
    assert told[1:] == ["checkpoint-10 was saved again with other weights: it is evaluated again"]


@pytest.mark.parametrize("by_watch", [True, False])
def test_models_beside_the_checkpoints_and_weights_beside_theirs_are_told(tmp_path: Path, by_watch: bool) -> None:
    run, base = save_run(tmp_path, steps=(10,))
    for folder in (run, run / "final"):
        save_adapter(folder, base, 7)
    shutil.copy(base / "model.safetensors", run / "checkpoint-10")
    (run / "checkpoint-10" / "s").mkdir()
    (run / "checkpoint-10" / "s" / ".metadata").touch()
    with watching(run, tmp_path / "out") as (watch, _):
        config = watch.config
        if by_watch:
            poll(watch)
            watch.finish()
    if not by_watch:
        run_audit(config, tmp_path / "out")
    told = " ".join(analyse(tmp_path / "out").notes)
    assert "holds adapter_model.safetensors, which is asked, and model.safetensors, shards in s, which may be" in told
    assert "final" in told
    assert f"the model in {run} itself" in told


def test_scores_that_come_later_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, base = save_run(tmp_path, steps=(10,))
    stops: list[Stop] = []
    with watching(run, tmp_path / "out", stops.append) as (watch, _):
        poll(watch)
        for step, word in ((20, "continue"), (50, "stop")):
            save(run, step, base)
            WordJudge.failing = 240
            poll(watch)
            assert decided(watch)[f"checkpoint-{step}"] == "undecided"
            assert not stops
            monkeypatch.setattr(watch, "_again", 0.0)  # ten minutes later
            watch.poll()
            assert decided(watch)[f"checkpoint-{step}"] == word
        assert [stop.step for stop in stops] == [50]


def test_what_is_wrong_with_the_first_is_an_error_and_with_a_later_one_is_passed_over(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_adapter(run / "checkpoint-10", "nowhere-model", 1)
    with watching(run, tmp_path / "out") as (watch, _), pytest.raises(DataError, match="is not here"):
        poll(watch)
    run, _ = save_run(tmp_path / "b", steps=(10,))
    save_adapter(run / "checkpoint-20", "nowhere-model", 1)
    with watching(run, tmp_path / "b" / "out") as (watch, told):
        poll(watch)
        assert decided(watch) == {"checkpoint-10": "continue"}
        assert "is not here" in told[0]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"could not write .*out"), watching(tmp_path / "run", tmp_path / "file/out"):
        pass


def test_one_process_watches_by_a_folder_and_its_memory_can_be_lost(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, steps=(10,))
    out = tmp_path / "out"
    with watching(run, out) as (watch, _):
        poll(watch)
        with pytest.raises(StoreError, match="another process is at work"), watching(run, out):
            pass
    n = len(ScriptedEngine.asked)
    (out / "watch.json").write_text("{")
    with pytest.raises(StoreError, match="delete that file"), watching(run, out):
        pass
    (out / "watch.json").unlink()
    with watching(run, out) as (watch, _):
        poll(watch)
    assert len(ScriptedEngine.asked) == n
    state = load_watch(out)
    assert state is not None
    assert state.seen["checkpoint-10"].action == "continue"
