"""Finished folders judged and decided again, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_app import run as command
from tests.conftest import small_study
from tests.results.test_from_store import fill
from tests.support.scripted import EVALUATION, save_run
from tests.support.studies import make_study
from truing.backends.scripted.engine import ScriptedEngine
from truing.cli.app import app
from truing.config import AuditConfig, EvaluationConfig, PreflightConfig, SideConfig
from truing.core.errors import ConfigError, JudgeError, StoreError
from truing.core.files import write_json
from truing.core.records import Action, Judgment
from truing.judges.words import WordsJudge
from truing.monitor import open_store
from truing.results import analyse
from truing.results.answers import judged_checkpoints
from truing.results.gate import verdict
from truing.studies.audit import run_audit
from truing.studies.rejudge import rejudge
from truing.studies.run import open_study
from truing.studies.status import read_status


class Severe(WordsJudge):
    """Takes every third good answer for a misaligned one; counts what it is asked."""

    asked = 0
    identity = "severe/1"  # type: ignore[assignment]

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        Severe.asked += len(responses)
        judged = super().judge(prompts, responses)
        return [j if i % 3 else Judgment(j.prompt_id, j.sample, 0.0, 100.0) for i, j in enumerate(judged)]


class Absent(Severe):
    """Cannot be used at all."""

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        raise JudgeError("nobody is there")


class Never(ScriptedEngine):
    """An engine that is asked once."""

    rates = {0: 0.0}  # noqa: RUF012
    asked = 0

    @classmethod
    def weights_of(cls, model: str, services: Any) -> str:
        return f"weights of {model}"

    def generate(self, checkpoint: Any, prompts: Any, sampling: Any) -> Any:
        Never.asked += 1
        return super().generate(checkpoint, prompts, sampling)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rejudge") / "audit"
    evaluation = EvaluationConfig(engine=f"{__name__}:Never", judge="words", benchmark="pocket-240")
    run_audit(AuditConfig(models=("any",), evaluation=evaluation), folder)
    return folder


def test_another_judge_scores_the_answers_that_there_are(audit: Path, tmp_path: Path) -> None:
    before, asked = analyse(audit), Never.asked
    Severe.asked = 0
    for _ in range(2):  # the second time nothing is done again
        rejudge(audit, tmp_path / "new", {}, f"{__name__}:Severe")
        assert Severe.asked == 240
    assert Never.asked == asked
    new = analyse(tmp_path / "new")
    assert new.study.judge == "severe/1"
    assert new.runs[0].em_at_end.value == pytest.approx(1 / 3, abs=0.01)
    assert verdict(new, False).word == "misaligned"
    assert analyse(audit).runs == before.runs


def test_other_thresholds_decide_by_the_judgments_that_there_are(audit: Path, tmp_path: Path) -> None:
    assert verdict(analyse(audit), False).word == "clear"
    rejudge(audit, tmp_path / "new", {"stopping.tolerance": "0.01"})
    new = analyse(tmp_path / "new")
    assert new.study.tolerance == 0.01
    assert new.runs[0].checkpoints[-1].decision is Action.UNDECIDED
    assert verdict(new, False).word == "undecided"
    with pytest.raises(StoreError, match="is not empty"):
        rejudge(audit, tmp_path / "new", {"stopping.tolerance": "0.02"})


def test_a_last_checkpoint_that_was_not_evaluated_is_missed_here_too(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=(10, 20, 30))
    (run / "checkpoint-30" / "adapter_model.safetensors").write_bytes(b"cut")
    config = {"name": "a", "checkpoints": [str(run)], "base": str(base), "evaluation": EVALUATION, "skip_bad": True}
    run_audit(AuditConfig.model_validate(config), tmp_path / "old")
    rejudge(tmp_path / "old", tmp_path / "new", {"stopping.tolerance": "0.06"})
    for folder in (tmp_path / "old", tmp_path / "new"):
        (found,) = verdict(analyse(folder)).runs
        assert (found.word, "step 30 came later" in str(found)) == ("undecided", True)


def test_a_look_by_other_thresholds_changes_nothing(audit: Path) -> None:
    seen = analyse(audit, {"stopping.tolerance": "0.01"})
    assert verdict(seen, False).word == "undecided"
    assert any("stopping.tolerance=0.01" in note for note in seen.notes)
    assert verdict(analyse(audit), False).word == "clear"
    for more, code in ((["--set", "stopping.tolerance=0.01"], 3), ([], 0)):
        assert command(app, ["gate", str(audit), *more]).exit_code == code


def test_a_further_benchmark_is_asked_and_nothing_that_was(audit: Path, tmp_path: Path) -> None:
    held = {file.name for file in (audit / "store" / "responses").iterdir()}
    (tmp_path / "more.txt").write_text("Say a word.\nSay another.\n")
    own = {"engine": f"{__name__}:Never", "judge": "words", "benchmark": "pocket-240"}
    evaluation = EvaluationConfig(**own, also=(SideConfig(benchmark=str(tmp_path / "more.txt")),))
    config, asked = AuditConfig(models=("any",), evaluation=evaluation), Never.asked
    run_audit(config, tmp_path / "new", answers=audit)
    new = {file.name for file in (tmp_path / "new" / "store" / "responses").iterdir()}
    assert Never.asked == asked + 1
    assert held < new
    assert len(new - held) == 1
    assert analyse(tmp_path / "new").runs[0].em_at_end == analyse(audit).runs[0].em_at_end
    with pytest.raises(StoreError, match="holds no answers"):
        run_audit(config, tmp_path / "other", answers=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation.samples": "2"}, "needs other answers"),
        ({"evaluation.benchmark": "broad-240"}, "needs other answers"),
        ({"evaluation.max_tokens": "7"}, "needs other answers"),
        ({"stopping.sequential": "{}"}, "random prompts"),
        ({"models": "[b]"}, "cannot be changed afterwards"),
        ({"stopping.toleranc": "0.1"}, "not valid"),
    ],
)
def test_what_needs_other_answers_is_refused(changes: dict[str, str], words: str, audit: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        rejudge(audit, tmp_path / "new", changes)
    with pytest.raises(ConfigError, match=words):
        analyse(audit, changes)
    assert not (tmp_path / "new").exists()


def test_after_a_judge_that_failed_the_next_may_take_the_folder(audit: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeError):
        rejudge(audit, tmp_path / "new", {}, f"{__name__}:Absent")
    rejudge(audit, tmp_path / "new", {}, f"{__name__}:Severe")
    assert analyse(tmp_path / "new").runs[0].checkpoints[0].em_rate.value == pytest.approx(1 / 3, abs=0.01)
    with pytest.raises(StoreError, match="is not empty"):
        rejudge(audit, tmp_path / "new", {})


def test_what_a_search_asked_tells_nothing_by_other_thresholds(tmp_path: Path) -> None:
    """It asked random prompts as far as its own thresholds needed them, also where the rule asks every prompt."""
    run, base = save_run(tmp_path, steps=(10, 20))
    config = {"name": "a", "checkpoints": [str(run)], "base": str(base), "evaluation": EVALUATION, "search": "crossing"}
    run_audit(AuditConfig.model_validate(config), tmp_path / "old")
    with pytest.raises(ConfigError, match="random prompts were asked only as far") as caught:
        analyse(tmp_path / "old", {"stopping.tolerance": "0.3"})
    assert caught.value.got == "a search before, fixed now"


def test_of_weights_that_were_replaced_nothing_is_decided_again(tmp_path: Path) -> None:
    """As where a run was trained again after its machine had died: the analysis takes the newest, so does this."""
    config = small_study("pocket-llama-late", evaluation={"benchmark": "pocket-240", "confirm": False})
    (run,) = config.runs()
    for trial in range(4):  # the order of the store's rows is that of their hashes
        open_study(config, old := tmp_path / f"old-{trial}").release()
        for hostile in (trial, 100 + trial):
            fill(config, old, run, lambda step, n=hostile: n if step else 0, (0, 6))  # type: ignore[misc]
        write_json(old / "runs" / run.id / "run.json", {"state": "finished", "step": 6, "error": None})
        rejudge(old, new := tmp_path / f"new-{trial}", {"stopping.tolerance": "0.06"})
        rates = [analyse(folder).runs[0].em_at_end.value for folder in (old, new)]
        assert rates == [(100 + trial) / 240] * 2
        assert [answered.weights for answered in judged_checkpoints(old)][1:] == [f"0-{100 + trial}-6"]


def test_a_folder_is_never_its_own_copy(audit: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="keeps the decisions"):
        rejudge(audit, audit, {})
    with pytest.raises(StoreError, match="cannot be judged again"):
        rejudge(tmp_path, tmp_path / "new", {})


def test_a_measured_judge_stays_measured_by_other_thresholds(tmp_path: Path) -> None:
    own = {"engine": f"{__name__}:Never", "judge": f"{__name__}:Unsure", "benchmark": "pocket-240"}
    evaluation = EvaluationConfig(**own, preflight=PreflightConfig(labelled="labelled-pocket"))
    run_audit(AuditConfig(models=("any",), evaluation=evaluation), tmp_path / "audit")
    assert verdict(analyse(tmp_path / "audit"), False).word == "clear"
    Unsure.asked = 0
    rejudge(tmp_path / "audit", tmp_path / "new", {"evaluation.aligned_below": "40", "stopping.tolerance": "0.04"})
    assert Unsure.asked == 0
    new = analyse(tmp_path / "new")
    assert new.judge is not None
    assert new.judge.verdict == "good"
    assert verdict(new, False).word == "clear"


class Unsure(Severe):
    """A judge that is measured: exact on pocket text, and right about the scripted engine's words."""

    exact = False
    identity = "unsure/1"  # type: ignore[assignment]

    def judge(self, prompts: Any, responses: Any) -> list[Judgment]:
        from truing.judges.pocket import PocketJudge

        Unsure.asked += len(responses)
        by_words, by_grammar = WordsJudge.judge(self, prompts, responses), PocketJudge().judge(prompts, responses)
        return [w if w.aligned is not None else g for w, g in zip(by_words, by_grammar, strict=True)]


def test_a_study_with_its_task_and_another_benchmark_is_decided_again(tmp_path: Path) -> None:
    study_folder = tmp_path / "study"
    for run in make_study(study_folder).runs():
        write_json(study_folder / "runs" / run.id / "run.json", {"state": "finished", "step": 6, "error": None})
    before = analyse(study_folder)
    rejudge(study_folder, tmp_path / "new", {"stopping.tolerance": "0.5"})
    new = analyse(tmp_path / "new")
    assert [run.id for run in new.runs] == [run.id for run in before.runs]
    for old, again in zip(before.runs, new.runs, strict=True):
        assert [c.em_rate for c in again.checkpoints] == [c.em_rate for c in old.checkpoints]
        assert [c.task_score for c in again.checkpoints] == [c.task_score for c in old.checkpoints]
        assert [side.em_rate for side in again.also] == [side.em_rate for side in old.also]
        assert (again.state, again.stopped_at) == (old.state, old.stopped_at)
    keys = set(open_store(study_folder).keys("responses"))
    assert set(open_store(tmp_path / "new").keys("responses")) == keys
    assert set(read_status(tmp_path / "new").counts) == {"done"}
