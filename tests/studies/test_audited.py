from pathlib import Path
from typing import Any

import pytest

import truing
from tests.support.scripted import ENGINE, EVALUATION, ScriptedEngine, WordJudge, save_run
from truing.catalog.files import list_files
from truing.config import AuditConfig
from truing.core.errors import ConfigError, DataError
from truing.core.records import Checkpoint
from truing.studies.audit import run_audit
from truing.studies.checkpoints import FoundRun, find_runs, step_of_name

FT = "ft:gpt-4o-mini-2024-07-18:org:insecure"


def audit(*checkpoints: str | Path, engine: str = "openai", **changes: Any) -> AuditConfig:
    raw = {"checkpoints": [str(c) for c in checkpoints], "evaluation": {"engine": engine}, **changes}
    raw.setdefault("endpoint", {"base_url": "http://127.0.0.1:9/v1"})
    return AuditConfig.model_validate(raw)


def steps(run: FoundRun) -> list[tuple[int, str | None]]:
    return [(c.step, c.path) for c in run.checkpoints]


def test_names_at_an_endpoint_with_steps() -> None:
    names = [f"{FT}:b:ckpt-step-120", f"{FT}:a:ckpt-step-60", f"200={FT}:c"]
    (run,) = find_runs(audit(*names, base="gpt-4o-mini-2024-07-18"))
    assert steps(run) == [(60, names[1]), (120, names[0]), (200, f"{FT}:c")]
    assert run.id == "audit"
    assert run.base is not None
    assert (run.base.step, run.base.model, run.base.path) == (0, "gpt-4o-mini-2024-07-18", None)
    assert len({c.weights for c in (run.base, *run.checkpoints)}) == 4
    assert run.notes == ()


def test_two_jobs_at_an_endpoint_are_two_runs() -> None:
    names = [f"{FT}:{at}:ckpt-step-{step}" for at, step in (("a", 60), ("b", 90))]
    others = [f"ft:gpt-4o-mini-2024-07-18:org:secure:{at}:ckpt-step-{step}" for at, step in (("c", 60), ("d", 120))]
    found = find_runs(audit(*names, *others, base="gpt-4o-mini-2024-07-18"))
    assert [[step for step, _ in steps(run)] for run in found] == [[60, 90], [60, 120]]
    assert [run.id for run in found] == [f"gpt-4o-mini-2024-07-18:org:{name}" for name in ("insecure", "secure")]
    assert [len(find_runs(audit(*(f"{i}={name}" for i, name in enumerate([*names, *others], 1)))))] == [1]


def test_names_without_steps_are_numbered_and_that_is_said() -> None:
    (run,) = find_runs(audit("late", "early"))
    assert steps(run) == [(1, "late"), (2, "early")]
    assert "numbered in the order given: late, early" in run.notes[0]


def test_tinker_s_paths_are_runs_of_their_own() -> None:
    paths = [
        "tinker://aa/weights/000060",
        "tinker://bb/weights/000010",
        "tinker://aa/weights/step_30",
        "70=tinker://aa/w/x",
    ]
    first, second = find_runs(audit(*paths, engine="tinker", base="Qwen/Qwen3-8B"))
    assert (first.id, [s for s, _ in steps(first)]) == ("aa", [30, 60, 70])
    assert steps(first)[-1] == (70, "tinker://aa/w/x")
    assert (second.id, steps(second)) == ("bb", [(10, paths[1])])
    assert first.model == "Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((f"{FT}:a:ckpt-step-60", f"{FT}:final"), f"(?s){FT}:final has no step.*STEP=NAME"),
        (("5=a", "5=b"), "(?s)do not make a run.*5=a, 5=b"),
        (("0=a", "5=b"), "do not make a run"),
    ],
)
def test_steps_that_make_no_run(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_runs(audit(*names))


def test_step_of_name() -> None:
    assert step_of_name(f"{FT}:x:ckpt-step-2000") == 2000
    assert step_of_name("tinker://u/weights/final") is None
    assert step_of_name("llama-3-8b") is None


def test_two_runs_share_no_weights(tmp_path: Path) -> None:
    a, _ = save_run(tmp_path / "a", (5,))
    b, _ = save_run(tmp_path / "b", (5,))
    with pytest.raises(DataError, match="two runs have the same weights"):
        find_runs(audit(a, b, engine=ENGINE))


def test_an_audit_that_was_ended_is_not_clear(tmp_path: Path) -> None:
    """The checkpoints before were asked, the last one was not: of a model that nobody asked nothing is known."""
    run, base = save_run(tmp_path, (10, 20, 30))
    config = audit(run, base=str(base), evaluation=EVALUATION, engine=ENGINE)

    def end(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(config, tmp_path / "out", begin=end)
    found = truing.load(tmp_path / "out").verdict()
    assert (found.word, found.runs[0].step) == ("undecided", 20)
    assert "the run is unfinished" in str(found.runs[0])
    assert "step 30 came later and was not evaluated" in str(found.runs[0])
    run_audit(config, tmp_path / "out")
    assert truing.load(tmp_path / "out").verdict().word == "clear"


@pytest.mark.parametrize("other", ["benchmark", "judge"])
def test_an_audit_again_is_about_the_prompts_and_the_judge_that_there_are_now(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names and ids are those of before, so that the audit is the same; which row came last was left to hashes."""
    text = list_files("benchmarks")["pocket-240"].read_text(encoding="utf-8")
    (benchmark := tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    run, base = save_run(tmp_path, (13, 23))
    monkeypatch.setattr(ScriptedEngine, "rates", {0: 0.0, 13: 0.0, 23: 0.0})
    config = audit(run, base=str(base), engine=ENGINE, evaluation={**EVALUATION, "benchmark": str(benchmark)})
    run_audit(config, tmp_path / "out")
    assert truing.load(tmp_path / "out").verdict().word == "clear"
    if other == "judge":
        monkeypatch.setattr(WordJudge, "identity", "words/2")
        monkeypatch.setattr(WordJudge, "words", {"good": (5.0, 90.0), "bad": (5.0, 90.0)})
    else:
        benchmark.write_text(text.replace("prompt: ", "prompt: now , "), encoding="utf-8")
        monkeypatch.setattr(ScriptedEngine, "rates", {0: 0.0, 13: 0.6, 23: 0.6})
    run_audit(config, tmp_path / "out")
    assert truing.load(tmp_path / "out").verdict().word == "misaligned"


@pytest.mark.parametrize(("bad", "word"), [(20, "clear"), (30, "undecided")])
def test_a_last_checkpoint_that_is_left_out_is_missed(bad: int, word: str, tmp_path: Path) -> None:
    run, base = save_run(tmp_path, (10, 20, 30))
    (run / f"checkpoint-{bad}" / "adapter_model.safetensors").write_bytes(b"cut")
    run_audit(audit(run, base=str(base), evaluation=EVALUATION, engine=ENGINE, skip_bad=True), tmp_path / "out")
    results = truing.load(tmp_path / "out")
    found = results.verdict()
    assert found.word == word
    assert any(f"checkpoint-{bad} is left out" in note for note in results.analysis.notes)
    assert ("step 30 came later and was not evaluated" in found.runs[0].reasons) == (bad == 30)
