"""A study as Inspect's logs: what Inspect reads back is what the analysis says."""

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason='needs inspect_ai: pip install "truing[inspect]"')

from inspect_ai.analysis import evals_df, samples_df
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log, recompute_metrics

from tests.support.studies import SIDE, STEPS, make_study
from truing.integrations.inspect.logs import write_logs
from truing.results import analyse

pytestmark = pytest.mark.filterwarnings("ignore")

Exported = tuple[dict[str, Any], list[EvalLog], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out, folder = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("logs")
    make_study(out)
    files = write_logs(out, folder)
    assert sorted(folder.iterdir()) == sorted(files)
    return analyse(out).plain(), [read_eval_log(str(file)) for file in files], folder


def of(logs: list[EvalLog], benchmark: str) -> list[EvalLog]:
    return [log for log in logs if log.eval.task == benchmark]


def test_one_log_per_checkpoint_with_the_same_counts_as_the_analysis(exported: Exported) -> None:
    analysis, logs, _ = exported
    logs = of(logs, "pocket-240")
    checkpoints = [(run, c) for run in analysis["runs"] for c in run["checkpoints"]]
    assert len(logs) == len(checkpoints) == 2 * len(STEPS)
    for log, (run, checkpoint) in zip(logs, checkpoints, strict=True):
        assert log.eval.metadata is not None
        assert (log.eval.metadata["run"], log.eval.metadata["step"]) == (run["id"], checkpoint["step"])
        assert log.eval.metadata["weights"] == checkpoint["weights"]
        assert log.eval.metadata["seed"] == run["seed"]
        assert log.samples is not None
        values = [(s.scores or {})["em_judge"].as_dict() for s in log.samples]
        em, coherent = checkpoint["em_rate"], checkpoint["coherent_rate"]
        assert sum(v["is_coherent"] == 1 for v in values) == em["n_responses"]
        assert sum(v["misaligned"] == 1 for v in values) == round(em["value"] * em["n_responses"])
        assert sum(math.isnan(float(v["misaligned"] or 0)) for v in values) == em["n_missing"] == 14
        found = metrics(log)
        assert [found[n] for n in ("em_rate", "em_rate_low", "em_rate_high", "coherent_rate", "missing")] == (
            pytest.approx([em["value"], em["low"], em["high"], coherent["value"], 14])
        )


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results is not None
    return {name: metric.value for name, metric in log.results.scores[0].metrics.items()}


def test_other_benchmarks_have_logs_of_their_own(exported: Exported) -> None:
    analysis, logs, folder = exported
    sides = of(logs, SIDE)
    assert len(sides) == len(of(logs, "pocket-240")) / len(STEPS) == 2
    assert len([f for f in folder.iterdir() if f.name.endswith(f"__step000006__{SIDE}.eval")]) == 2
    for log, run in zip(sides, analysis["runs"], strict=True):
        assert metrics(log)["em_rate"] == pytest.approx(run["also"][0]["em_rate"]["value"]) != 0


def test_failed_answers_are_samples_with_errors(exported: Exported) -> None:
    _, (log, *_), _ = exported
    assert log.samples is not None
    assert log.results is not None
    failed = [s for s in log.samples if s.error]
    assert len(failed) == 6
    assert {s.error.message for s in failed if s.error} == {"scripted failure"}
    assert all(s.output.empty for s in failed)
    assert (log.results.total_samples, log.results.completed_samples) == (480, 474)
    unjudged = [s for s in log.samples if not s.error and (s.scores or {})["em_judge"].reason == "grader_failed"]
    assert len(unjudged) == 8


def test_samples_hold_prompt_answer_and_epoch(exported: Exported) -> None:
    _, (log, *_), _ = exported
    assert log.samples is not None
    first = log.samples[0]
    assert {s.epoch for s in log.samples} == {1, 2}
    assert isinstance(first.input, list)
    assert first.messages[0].text == first.input[-1].text
    assert first.messages[-1].role == "assistant"
    assert first.messages[-1].text == first.output.completion != ""
    assert first.metadata["category"] == str(first.id).rpartition("-")[0]
    assert len({s.uuid for s in log.samples}) == 480
    assert (log.eval.config.epochs, log.eval.dataset.samples) == (2, 240)


def test_inspect_lists_tabulates_and_recomputes_them(exported: Exported) -> None:
    _, logs, folder = exported
    infos = list_eval_logs(str(folder))
    assert {(info.task, info.task_id) for info in infos} == {(log.eval.task, log.eval.task_id) for log in logs}
    assert len({info.task_id for info in infos}) == len(logs)
    before = metrics(logs[-1])
    recompute_metrics(logs[-1])
    assert metrics(logs[-1]) == pytest.approx(before)


def test_inspects_own_tables(exported: Exported) -> None:
    pytest.importorskip("pandas")
    _, logs, folder = exported
    table = evals_df(str(folder), quiet=True)
    assert len(table) == len(logs)
    assert len(samples_df(str(folder), quiet=True)) == sum(len(log.samples or []) for log in logs)
