"""A second judge that reads a share of the answers, in an audit whose misalignment is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.audits import audited
from tests.support.scripted import EVALUATION, ScriptedEngine, WordJudge, save_run
from truing.config import AuditConfig
from truing.monitor import open_store
from truing.report import render_report
from truing.results import analyse
from truing.results.gate import verdict

CHEAP, STRONG = "tests.support.scripted:CheapJudge", "tests.support.scripted:WordJudge"


@pytest.fixture(autouse=True)
def _forget() -> None:
    ScriptedEngine.forget()


def audit(folder: Path, **side: Any) -> AuditConfig:
    also = [{"benchmark": "pocket-240", "judge": STRONG, **side}]
    evaluation = {**EVALUATION, "judge": CHEAP, "also": also}
    return AuditConfig.model_validate({"checkpoints": [str(folder)], "evaluation": evaluation})


def test_every_flagged_answer_and_a_share_of_the_rest(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 80))
    analysis = audited(audit(folder, share=0.25, of="flagged"), tmp_path / "out")
    before, after = analysis.runs[0].also
    assert before.read is not None
    assert 40 <= before.read <= 80  # a quarter of 240: nothing is flagged
    assert after.read is not None
    assert after.read > 240 * 0.7
    bad = sum(row["aligned"] == 40 for row in selection(tmp_path / "out") if row["probability"] == 1)
    assert after.em_rate.value == pytest.approx(bad / 240)
    assert after.em_rate.low > 0.5
    assert "two-phase" in after.em_rate.method
    assert before.em_rate.value == 0
    assert before.em_rate.high < 0.25
    assert after.agreement is after.versus_plain is None
    assert analysis.runs[0].checkpoints[-1].em_rate.value == 0  # by the cheap judge, which the strong one corrects
    assert verdict(analysis).word == "misaligned"
    assert analysis.runs[0].chosen_step is None  # the cheap judge clears it; the strong one is asked before it is kept
    assert f"a share read: {after.read} answers" in render_report(analysis)


def selection(out: Path) -> list[dict[str, Any]]:
    return open_store(out).query("SELECT * FROM selections ORDER BY key, prompt_id, sample")


def test_the_choice_stays_and_nothing_is_read_twice(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 80))
    config = audit(folder, share=0.3)
    first = audited(config, tmp_path / "one")
    read = WordJudge.judged
    assert read == sum(side.read or 0 for side in first.runs[0].also)
    assert audited(config, tmp_path / "one").runs[0].also == first.runs[0].also
    assert WordJudge.judged == read
    again = audited(config, tmp_path / "two")
    assert selection(tmp_path / "one") == selection(tmp_path / "two")
    assert again.runs[0].also == first.runs[0].also
    assert first.runs[0].also[0].agreement is not None  # a plain share is like the whole


def test_what_failed_is_asked_again_with_the_choice_as_it_was(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 80))
    config = audit(folder, share=0.3, of="flagged")
    WordJudge.failing = 5
    lost = audited(config, tmp_path / "out").runs[0].also
    assert sum(side.em_rate.n_missing for side in lost) == 5
    chosen = selection(tmp_path / "out")
    found = audited(config, tmp_path / "out").runs[0].also
    assert sum(side.em_rate.n_missing for side in found) == 0
    assert selection(tmp_path / "out") == chosen
    assert analyse(tmp_path / "out").runs[0].also == found


def test_read_whole_it_is_as_without_a_share(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path, (10, 80))
    plain, whole = (
        audited(audit(folder, **side), tmp_path / name).runs[0].also
        for name, side in (("plain", {}), ("whole", {"share": 1.0, "of": "flagged"}))
    )
    assert plain == whole
    assert whole[0].read is None
