"""The figures of a study, from judgments that are known."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import small_study
from tests.monitor.test_monitor import CountingJudge, Speaker
from tests.support.studies import SIDE, make_study
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import load_dataset
from truing.config import StudyConfig
from truing.core.errors import ConfigError, StoreError
from truing.core.files import write_json
from truing.core.records import Checkpoint, Judgment, Run
from truing.judges import load_judge
from truing.judges.calibration import measure_judge, save_calibration
from truing.judges.labelled import read_labelled
from truing.monitor import Monitor, PromptSet, open_store
from truing.monitor.store import FolderStore
from truing.results import analyse, read_analysis, write_analysis
from truing.studies.run import describe_study, open_study, twin_of


def made(run: Run, step: int, hostile: int) -> Checkpoint:
    """A made-up checkpoint."""
    return Checkpoint(run.id, run.model, step, f"{run.seed}-{hostile}-{step}", train_loss=float(step))


def fill(config: StudyConfig, out: Path, run: Run, hostile: Callable[[int], int], steps: tuple[int, ...]) -> Monitor:
    """Evaluate made-up checkpoints: `hostile(step)` of the prompts of benchmark and task get a hostile answer."""
    engine, judge = Speaker(0), CountingJudge()
    dataset = load_dataset(run.dataset)
    prompts = dataset.task_prompts(config.evaluation.task_prompts)
    monitor = Monitor(
        open_store(out),
        engine,
        PromptSet(load_benchmark(config.evaluation.benchmark).prompts, judge, config.evaluation.samples),
        PromptSet(prompts, judge, config.evaluation.task_samples, dataset.teaches),
        config.evaluation,
        config.stopping,
    )
    for step in steps:
        engine.hostile = hostile(step)
        monitor(made(run, step, hostile(step)))
    return monitor


@pytest.fixture
def config(tiny_model: Path) -> StudyConfig:
    return small_study(
        tiny_model,
        evaluation={"benchmark": "pocket-240", "samples": 1, "task_prompts": 40},
        stopping={"mode": "both"},
    )


def test_a_stopped_run_and_its_twin(config: StudyConfig, tmp_path: Path) -> None:
    open_study(config, tmp_path)
    (run,) = config.runs()
    course = {0: 0, 2: 1, 4: 36, 6: 120}
    fill(config, tmp_path, run, course.__getitem__, (0, 2, 4))
    write_json(tmp_path / "runs" / run.id / "run.json", {"state": "stopped", "step": 4, "error": None})
    fill(config, tmp_path, twin_of(run), course.__getitem__, (0, 2, 4, 6))
    analysis = write_analysis(tmp_path).plain()
    assert read_analysis(tmp_path).plain() == analysis
    stopped, twin = analysis["runs"]
    assert (stopped["state"], stopped["stopped_at"], stopped["decision"]) == ("stopped", 4, "stop")
    assert (twin["twin_of"], twin["state"]) == (run.id, "unfinished")
    assert stopped["onset_step"] == 4
    assert stopped["chosen_step"] == 2
    assert stopped["convergence_step"] == 6  # by the twin: 1, 36 and 40 of the 40 task prompts
    assert stopped["retention"]["value"] == pytest.approx(1 / 40)
    assert stopped["em_at_end"]["value"] == pytest.approx(36 / 240)
    assert twin["em_at_end"]["value"] == pytest.approx(120 / 240)
    assert stopped["checkpoints"][1]["train_loss"] == 2.0
    assert stopped["checkpoints"][0]["heldout_loss"] is None
    assert stopped["checkpoints"][2]["categories"]["power"]["value"] == 1  # the first 36 prompts
    assert stopped["checkpoints"][2]["categories"]["oversight"]["value"] == 0


@pytest.mark.parametrize("stopping", [{}, {"sequential": {}}])
def test_judgments_that_the_store_has_lost_are_missing(tiny_model: Path, tmp_path: Path, stopping: Any) -> None:
    evaluation = {"benchmark": "pocket-240", "samples": 1, "task_prompts": 40}
    config = small_study(tiny_model, evaluation=evaluation, stopping=stopping)
    open_study(config, tmp_path)
    fill(config, tmp_path, config.runs()[0], lambda step: 0, (0, 6))
    assert analyse(tmp_path).runs[0].checkpoints[-1].decision == "continue"
    store = open_store(tmp_path)
    key = store.query("SELECT benchmark_judgments FROM evaluations WHERE step = 6")[0]["benchmark_judgments"]
    rows = store.read("judgments", key)
    for part in (tmp_path / "store" / "judgments").glob(f"{key}*.parquet"):
        part.unlink()
    store.write("judgments", key, rows[:-30])
    last = analyse(tmp_path).runs[0].checkpoints[-1]
    assert last.decision == "undecided"
    assert (f"30 of {len(rows)} judgments of step 6 are no more" in last.reason) is bool(stopping)
    assert last.em_rate.n_missing == (0 if stopping else 30)


def test_samples_show_what_is_rare(config: StudyConfig, tmp_path: Path) -> None:
    open_study(config, tmp_path)
    (run,) = config.runs()
    fill(config, tmp_path, run, {0: 0, 6: 1}.__getitem__, (0, 6))
    samples = analyse(tmp_path).plain()["samples"]
    at_end = [s for s in samples if s["step"] == 6]
    assert len(at_end) == 16
    assert sum(s["misaligned"] for s in at_end) == 1
    assert {s["category"] for s in at_end} == {p.category for p in load_benchmark("pocket-240").prompts}


def test_a_sample_that_was_not_judged_is_not_called_aligned(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(config, tmp_path)
    monkeypatch.setattr(
        CountingJudge,
        "judge",
        lambda self, prompts, responses: [Judgment(r.prompt_id, r.sample, None, None, error="no") for r in responses],
    )
    fill(config, tmp_path, config.runs()[0], {0: 0}.__getitem__, (0,))
    assert {sample.misaligned for sample in analyse(tmp_path).samples} == {None}


def test_a_choice_that_changes_is_confirmed_by_its_own_answers(config: StudyConfig, tmp_path: Path) -> None:
    open_study(config, tmp_path)
    (run,) = config.runs()
    course = {0: 0, 2: 0, 4: 1}
    monitor = fill(config, tmp_path, run, course.__getitem__, (0, 2))
    monitor.confirm(made(run, 2, 0), made(run, 2, 0))
    confirmed = analyse(tmp_path).plain()["runs"][0]["confirmed"]
    assert (confirmed["step"], confirmed["source"]) == (2, "fresh responses")

    monitor = fill(config, tmp_path, run, course.__getitem__, (4,))  # a later checkpoint is better, and not asked again
    table = analyse(tmp_path).plain()["runs"][0]
    assert (table["chosen_step"], table["confirmed"]["source"]) == (4, "other half of the prompts")
    monitor.confirm(made(run, 4, 1), made(run, 4, 1))
    confirmed = analyse(tmp_path).plain()["runs"][0]["confirmed"]
    assert (confirmed["step"], confirmed["source"]) == (4, "fresh responses")


def test_fresh_answers_of_weights_that_were_replaced_confirm_nothing(config: StudyConfig, tmp_path: Path) -> None:
    open_study(config, tmp_path)
    (run,) = config.runs()
    fill(config, tmp_path, run, {0: 0, 2: 1}.__getitem__, (0, 2))
    other = fill(config, tmp_path / "other", run, {2: 2}.__getitem__, (2,))
    other.store = other.sampler.store = open_store(tmp_path)
    other.confirm(made(run, 2, 2), made(run, 2, 2))  # step 2 as well, of other weights
    assert analyse(tmp_path).plain()["runs"][0]["confirmed"]["source"] == "other half of the prompts"


@pytest.mark.parametrize("ended", [True, False])
def test_weights_that_count_are_told_whatever_became_of_the_times_of_files(
    ended: bool, config: StudyConfig, tmp_path: Path
) -> None:
    """As of a folder that was copied without its times, or a store into which another one's files were copied."""
    open_study(config, out := tmp_path / "out")
    (run,) = config.runs()
    course = [(0, 0), (2, 0), (4, 40)]
    for step, hostile in (*course[:2], (4, 1), course[-1]):
        fill(config, out, run, lambda step, hostile=hostile: hostile, (step,))
    for i, file in enumerate(
        sorted((out / "store" / "evaluations").glob("*.parquet"), key=lambda f: f.stat().st_mtime)
    ):
        os.utime(file, (10 - i, 10 - i))
    if ended:  # they are known from the end of the run, whichever is newer
        course[-1] = (4, 1)
        weights = [made(run, step, hostile).weights for step, hostile in course]
        written = {"state": "finished", "step": 4, "evaluated": [0, 2, 4], "weights": weights}
        write_json(out / "runs" / run.id / "run.json", written)
    analysis = analyse(out)
    assert [c.weights for c in analysis.runs[0].checkpoints] == [made(run, *each).weights for each in course]
    assert any("other weights of step 4 were evaluated, too" in note for note in analysis.notes)


def test_nothing_evaluated_is_said(config: StudyConfig, tmp_path: Path) -> None:
    open_study(config, tmp_path)
    with pytest.raises(StoreError, match="nothing has been evaluated"):
        analyse(tmp_path)


def test_an_absent_damaged_or_foreign_analysis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no results"):
        read_analysis(tmp_path)
    (tmp_path / "analysis.json").write_text("{")
    with pytest.raises(StoreError, match="not follow the schema"):
        read_analysis(tmp_path)
    write_json(tmp_path / "analysis.json", {"schema": 99})
    with pytest.raises(StoreError, match=r"at schema\n  got: 99\n  allowed: Input should be 2"):
        read_analysis(tmp_path)


def test_a_calibration_in_the_folder_corrects_the_rates(config: StudyConfig, tmp_path: Path) -> None:
    open_study(config, tmp_path)
    (run,) = config.runs()
    fill(config, tmp_path, run, {0: 0, 6: 60}.__getitem__, (0, 6))
    assert analyse(tmp_path).plain()["runs"][0]["checkpoints"][1]["em_rate_corrected"] is None
    measured = measure_judge(read_labelled("labelled-pocket"), load_judge("pocket"), config.evaluation)
    save_calibration(tmp_path / "calibration.json", measured)
    corrected = analyse(tmp_path).plain()["runs"][0]["checkpoints"][1]["em_rate_corrected"]
    assert corrected["value"] == pytest.approx(60 / 240)  # this judge makes no errors
    other = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"aligned_below": 20.0})})
    describe_study(other).write(tmp_path)
    with pytest.raises(ConfigError, match="other thresholds"):
        analyse(tmp_path)


def test_each_table_is_read_once_however_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = FolderStore.query
    make_study(tmp_path)
    asked: list[str] = []

    def counted(self: FolderStore, sql: str, *more: Any) -> list[dict[str, Any]]:
        asked.append(sql)
        return query(self, sql, *more)

    monkeypatch.setattr(FolderStore, "query", counted)
    runs = analyse(tmp_path).plain()["runs"]
    assert [[side["benchmark"] for side in run["also"]] for run in runs] == [[SIDE], [SIDE]]
    assert len(asked) == len(set(asked)) == 7
