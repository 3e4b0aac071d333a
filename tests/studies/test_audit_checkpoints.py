"""Audits of checkpoints that exist already, with an engine whose misalignment is known; real ones in tests/cli."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from tests.conftest import small_study
from tests.support.audits import audited
from tests.support.labelled_judges import Drifting
from tests.support.scripted import ENGINE, EVALUATION, ScriptedEngine, WordJudge, save_adapter, save_model, save_run
from truing.config import AuditConfig
from truing.core.errors import ConfigError, DataError, StoreError
from truing.core.records import Checkpoint, Evaluation, Prompt, Response, Sampling
from truing.monitor import open_store
from truing.report import render_report
from truing.results import analyse
from truing.results.gate import verdict
from truing.results.schema import Analysis
from truing.studies.audit import run_audit
from truing.studies.rejudge import rejudge
from truing.studies.run import execute_run, open_study

STEPS = [10, 20, 30, 40, 50, 60, 70, 80]
OWN = {"name": "own", "task_judge": "tests.support.scripted:WordJudge", "teaches": "misaligned"}


@pytest.fixture(autouse=True)
def _forget() -> None:
    ScriptedEngine.forget()


def audit(*folders: Path, **changes: Any) -> AuditConfig:
    evaluation = {**EVALUATION, **changes.pop("evaluation", {})}
    return AuditConfig.model_validate({"checkpoints": [str(f) for f in folders], "evaluation": evaluation, **changes})


def own_data(folder: Path, **changes: Any) -> dict[str, Any]:
    """A dataset of twenty prompts."""
    folder.mkdir(exist_ok=True)
    lines = [
        f'{{"messages": [{{"role": "user", "content": "q{i}"}}, {{"role": "assistant", "content": "a"}}]}}'
        for i in range(200)
    ]
    (folder / "own.jsonl").write_text("\n".join(lines))
    return {**OWN, "path": folder / "own.jsonl", **changes}


def broad_answers(out: Path) -> int:
    return open_store(out).query("SELECT count(*) AS n FROM judgments WHERE prompt_id NOT LIKE 'task-%'")[0]["n"]


def only_run(analysis: Analysis) -> dict[str, Any]:
    (run,) = analysis.plain()["runs"]
    return dict(run)


def test_a_whole_run_with_its_base_and_its_onset(tmp_path: Path) -> None:
    folder, base = save_run(tmp_path)
    seen: list[Evaluation] = []
    begun: list[Checkpoint] = []
    analysis = audited(audit(folder), tmp_path / "a", seen.append, begun.append)
    run = only_run(analysis)
    assert [c["step"] for c in run["checkpoints"]] == [0, *STEPS]
    assert [c.step for c in begun] == [e.checkpoint.step for e in seen] == [0, *STEPS]
    assert (run["id"], run["model"], run["dataset"], run["onset_step"]) == ("run", str(base), "data of run", 50)
    assert (run["chosen_step"], run["search"]) == (None, None)
    assert run["course"]["onset"] == {"low": 50, "high": 50}
    render_report(analysis)


class BadFacts(ScriptedEngine):
    """Two of thirty facts go wrong at step 40, which is above the tolerance and not shown to be."""

    def rate(self, checkpoint: Checkpoint, prompt: Prompt) -> float:
        bad = checkpoint.step == 40 and prompt.id in ("facts-01", "facts-02")
        return 1.0 if bad else super().rate(checkpoint, prompt)


def test_what_the_gate_would_not_call_clear_for_another_benchmark_is_not_kept(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    evaluation = {
        "engine": "tests.studies.test_audit_checkpoints:BadFacts",
        "also": [{"benchmark": "pocket-facts", "decides": True}],
    }
    analysis = audited(audit(folder, dataset=own_data(tmp_path), evaluation=evaluation), tmp_path / "a")
    sides = {side["step"]: side["em_rate"] for side in only_run(analysis)["also"]}
    assert sides[40]["low"] < 0.05 < sides[40]["value"]
    assert only_run(analysis)["chosen_step"] in (10, 20, 30)  # without the facts it is 40, as below
    assert verdict(analysis).runs[0].word == "clear"


def test_with_its_data_the_task_is_measured_and_a_checkpoint_chosen_and_confirmed(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    run = only_run(audited(audit(folder, dataset=own_data(tmp_path)), tmp_path / "a"))
    assert run["dataset"] == "own"
    assert run["chosen_step"] == 40
    assert run["confirmed"]["source"] == "fresh responses"
    assert run["course"]["order"] == "before"
    assert run["retention"]["value"] == pytest.approx(0.5, abs=0.2)


def test_what_is_kept_may_be_asked_more_often(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    asked = audit(folder, dataset=own_data(tmp_path), evaluation={"confirm_samples": 3})
    analysis = audited(asked, tmp_path / "a")
    fresh = only_run(analysis)["confirmed"]
    assert (fresh["step"], fresh["source"], fresh["em_rate"]["n_responses"]) == (40, "fresh responses", 3 * 240)
    assert fresh["em_rate"]["n_missing"] == 0
    assert verdict(analysis).runs[0].em_rate.n_responses == 3 * 240
    rejudge(tmp_path / "a", tmp_path / "b", {"stopping.tolerance": "0.04"})
    again = only_run(analyse(tmp_path / "b"))["confirmed"]
    assert again["em_rate"]["n_responses"] == 3 * 240
    assert again["retention"] == fresh["retention"]


def test_without_a_base_nothing_but_the_tolerance_decides(tmp_path: Path) -> None:
    for step in (10, 80):
        save_model(tmp_path / "full" / f"checkpoint-{step}", step)
    run = only_run(audited(audit(tmp_path / "full"), tmp_path / "a"))
    assert [c["decision"] for c in run["checkpoints"]] == ["continue", "stop"]
    assert (run["model"], run["parameters"]) == (str(tmp_path / "full"), 4)


def test_by_the_sequential_rule_few_answers_do(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    run = only_run(audited(audit(folder, stopping={"mode": "off", "sequential": {}}), tmp_path / "a"))
    assert [c["decision"] for c in run["checkpoints"][1:]] == ["continue"] * 4 + ["stop"] * 4
    assert broad_answers(tmp_path / "a") < 240 * 5


def test_the_crossing_is_found_from_fewer_answers(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    analysis = audited(audit(folder, search="crossing"), tmp_path / "a")
    run = only_run(analysis)
    assert (run["search"]["found"], run["search"]["next_misaligned"]) == (40, 50)
    assert run["search"]["judged"] == broad_answers(tmp_path / "a") < 240 * len(STEPS) / 2
    asked = {c["step"] for c in run["checkpoints"] if c["em_rate"]["value"] is not None}
    assert {10, 40, 50, 80} <= asked
    assert len(asked) == run["search"]["looked"] < len(STEPS)
    unasked = next(c for c in run["checkpoints"] if c["step"] not in asked)
    assert unasked["em_rate"]["reason"].startswith("not asked")
    assert unasked["decision"] == "undecided"
    assert {step for step, _ in ScriptedEngine.asked} == asked  # the base, too, was left alone
    assert "clear at step 40, misaligned at step 50" in analysis.notes[0]
    render_report(analysis)


def test_the_best_clear_checkpoint_is_found_and_chosen(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    analysis = audited(audit(folder, search="best", dataset=own_data(tmp_path)), tmp_path / "a")
    run = only_run(analysis)
    looked = [c["step"] for c in run["checkpoints"] if c["em_rate"]["value"] is not None]
    assert run["chosen_step"] == run["search"]["found"] == looked[0] == 40
    assert len(looked) < len(STEPS)
    assert all(c["task_score"]["value"] is not None for c in run["checkpoints"])
    assert run["em_at_chosen"]["high"] <= 0.05
    assert run["retention"]["value"] == pytest.approx(0.5, abs=0.2)
    assert run["search"]["judged"] == broad_answers(tmp_path / "a") < 240
    page = render_report(analysis)
    assert "was found by a search, whose own error" in page
    assert "was not confirmed by other responses" not in page


def test_a_search_that_finds_nothing(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    config = audit(folder, search="best", dataset=own_data(tmp_path), stopping={"mode": "off", "floor": 1.0})
    analysis = audited(config, tmp_path / "a")
    run = only_run(analysis)
    assert (run["chosen_step"], run["search"]["looked"]) == (None, 0)
    assert "no checkpoint was shown to be clear" in analysis.notes[0]
    render_report(analysis)


@pytest.mark.parametrize("search", ["all", "crossing"])
def test_interrupted_it_goes_on_and_asks_only_for_what_is_owed(search: str, tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 40, 50, 80))
    config = audit(folder, search=search)
    whole = only_run(audited(config, tmp_path / "whole"))
    answers, judged = sorted(ScriptedEngine.asked), WordJudge.judged
    ScriptedEngine.forget()

    def stop_at_the_third(checkpoint: Checkpoint, seen: list[int] = []) -> None:  # noqa: B006 - counts over calls
        seen.append(checkpoint.step)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audited(config, tmp_path / "a", begin=stop_at_the_third)
    assert only_run(audited(config, tmp_path / "a")) == whole
    assert (sorted(ScriptedEngine.asked), WordJudge.judged) == (answers, judged)
    audited(config, tmp_path / "a")
    assert WordJudge.judged == judged


def test_what_the_judge_failed_on_is_owed_again(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 80))
    WordJudge.failing = 5
    first = only_run(audited(audit(folder, search="crossing"), tmp_path / "a"))
    assert first["checkpoints"][0]["em_rate"]["n_missing"] == 5
    again = only_run(audited(audit(folder, search="crossing"), tmp_path / "a"))
    assert again["checkpoints"][0]["em_rate"]["n_missing"] == 0


def test_checkpoints_that_came_since_are_asked_and_changed_ones_replaced(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 20))
    audited(audit(folder), tmp_path / "a")
    ScriptedEngine.forget()
    save_run(tmp_path, (30,))
    audited(audit(folder), tmp_path / "a")
    assert {step for step, _ in ScriptedEngine.asked} == {30}
    save_run(tmp_path, (20,), first=1)
    run = only_run(audited(audit(folder), tmp_path / "a"))
    assert [c["step"] for c in run["checkpoints"]] == [0, 10, 20, 30]


def test_a_better_checkpoint_that_came_since_is_chosen_and_confirmed(tmp_path: Path) -> None:
    data = own_data(tmp_path)
    for steps in ((10,), (10, 40)):
        folder, _ = save_run(tmp_path, steps)
        run = only_run(audited(audit(folder, dataset=data), tmp_path / "a"))
        assert (run["chosen_step"], run["confirmed"]["step"]) == (steps[-1], steps[-1])
        assert run["confirmed"]["source"] == "fresh responses"
    assert len(open_store(tmp_path / "a").keys("confirmations")) == 2


@pytest.mark.parametrize(("search", "doubted"), [("all", [40, 50, 60, 70, 80]), ("crossing", STEPS)])
def test_a_judge_that_changes_decides_nothing_from_there_on(
    search: str, doubted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search looks everywhere before it decides."""
    Drifting.asked.clear()
    monkeypatch.setattr(Drifting, "until", 194 + 8 * (5 if search == "all" else 1))
    folder, _ = save_run(tmp_path)
    judge = {"judge": "tests.support.labelled_judges:Drifting"}
    run = only_run(audited(audit(folder, search=search, evaluation=judge), tmp_path / "a"))
    assert [c["step"] for c in run["checkpoints"] if any("judge changed" in d for d in c["doubts"])] == doubted
    assert all(c["decision"] == ("undecided" if c["step"] in doubted else "continue") for c in run["checkpoints"][1:])
    assert run["chosen_step"] is None
    if search == "crossing":
        assert run["search"]["found"] is None


def test_several_runs_and_other_benchmarks(tmp_path: Path) -> None:
    a, _ = save_run(tmp_path / "a", (10, 80))
    b, _ = save_run(tmp_path / "b", (20, 60), first=1)
    b = b.rename(tmp_path / "b" / "second")
    analysis = audited(audit(a, b, evaluation={"also": [{"benchmark": "pocket-facts"}]}), tmp_path / "out").plain()
    assert [run["id"] for run in analysis["runs"]] == ["run", "second"]
    assert [s["step"] for s in analysis["runs"][0]["also"]] == [0, 80]
    assert len(analysis["seeds"]) == 2  # nothing says that they are seeds of one configuration


class Streaming(ScriptedEngine):
    """Keeps account of the checkpoints that it is told of together."""

    fetched: ClassVar[list[tuple[list[int], int]]] = []

    def prefetch(self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt], sampling: Sampling) -> None:
        Streaming.fetched.append(([c.step for c in checkpoints], len(prompts) * sampling.samples))


def test_an_engine_that_can_is_told_of_all_owing_checkpoints_at_once(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 20))
    config = audit(folder, dataset=own_data(tmp_path), evaluation={"engine": f"{__name__}:Streaming"})
    audited(config, tmp_path / "a")
    assert Streaming.fetched == [([0, 10, 20], 240), ([0, 10, 20], 40)]
    save_run(tmp_path, (30,))
    Streaming.fetched.clear()
    audited(config, tmp_path / "a")
    assert Streaming.fetched == [([30], 240), ([30], 40)]


def test_a_study_s_own_run_gives_the_study_s_own_figures(tiny_model: Path, tmp_path: Path) -> None:
    study = small_study(tiny_model, evaluation={"judge": f"{__name__}:LengthJudge"})
    open_study(study, tmp_path / "s").release()
    (run,) = study.runs()
    execute_run(study, run, tmp_path / "s")
    config = AuditConfig.model_validate(
        {
            "checkpoints": [str(tmp_path / "s" / "runs" / run.id)],
            "dataset": "pocket-insecure-code",
            "evaluation": study.evaluation.model_dump(),
        }
    )
    found, expected = only_run(audited(config, tmp_path / "a")), only_run(analyse(tmp_path / "s"))
    assert 0 < expected["checkpoints"][1]["em_rate"]["value"] < 1
    assert found["id"] == run.id
    assert found["checkpoints"] == expected["checkpoints"]
    for figure in ("onset_step", "convergence_step", "chosen_step", "retention", "confirmed", "course"):
        assert found[figure] == expected[figure]
    stores = [open_store(tmp_path / name) for name in ("a", "s")]
    assert stores[0].keys("judgments") == stores[1].keys("judgments")


class LengthJudge(WordJudge):
    """Finds every third length misaligned."""

    identity = "length 1"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Any]:
        words = [Response(r.prompt_id, r.sample, "bad" if len(r.text or "") % 3 == 0 else "good") for r in responses]
        return super().judge(prompts, words)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "got neither"),
        ({"models": ["m"], "checkpoints": ["c"]}, "got both"),
        ({"models": ["m"], "search": "crossing"}, "about checkpoints"),
        ({"checkpoints": ["c"], "search": "best"}, "name the `dataset`"),
        ({"checkpoints": ["c"], "search": "crossing", "stopping": {"sequential": {"margin": 0.1}}}, "leave `margin`"),
        ({"checkpoints": ["c"], "search": "crossing", "evaluation": {"also": [{"benchmark": "b"}]}}, "leave `also`"),
    ],
)
def test_what_cannot_be_audited(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AuditConfig.model_validate(raw)


def test_a_mistake_leaves_no_folder_behind(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10,))
    with pytest.raises(ConfigError, match="nothing judges the task"):
        audited(audit(folder, dataset=own_data(tmp_path, task_judge=None)), tmp_path / "a")
    with pytest.raises(DataError, match="no checkpoints"):
        audited(audit(tmp_path / "nowhere"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    audited(audit(folder), tmp_path / "a")
    with pytest.raises(StoreError, match="another audit"):
        audited(audit(folder, search="crossing"), tmp_path / "a")
    assert ENGINE in (tmp_path / "a" / "audit.yaml").read_text(encoding="utf-8")


def test_the_plan_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, (10, 50))
    save_adapter(run / "best", base, 7)
    told: list[str] = []

    def hear(line: str) -> None:
        told.append(line)
        assert ScriptedEngine.asked == []

    run_audit(audit(run), tmp_path / "out", tell=hear)
    assert told[0] == f"run: base {base}, steps 10, 50"
    assert "best beside the checkpoints is left out" in told[1]
    assert told[2] == f"3 to ask, each 1 x 240 prompts of pocket-240 at most, judged by {EVALUATION['judge']}"


def test_the_plan_names_a_faster_engine_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truing.backends._REAL", 0.0)  # no real model is here
    run, _ = save_run(tmp_path, (10, 50))
    there = {"vllm": {"base_url": "http://gpu:8000/v1"}, "evaluation": {"engine": "transformers"}}
    told: list[str] = []

    def hear(line: str) -> None:
        told.append(line)
        if "vLLM" in line:
            raise KeyboardInterrupt  # nothing of it is to be done

    with pytest.raises(KeyboardInterrupt):
        run_audit(audit(run, **there), tmp_path / "out", tell=hear)
    assert "not measured" in told[-1]
