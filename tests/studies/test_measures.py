"""A measure of the user's, named in a study, reaches store, analysis and report."""

from pathlib import Path

from tests.conftest import small_study
from truing.monitor import open_store
from truing.monitor.measures import AnswerLength
from truing.report import render_report
from truing.results import analyse
from truing.studies.run import execute_run, open_study

CONTRAST = "tests.support.own_parts:Contrast"


def test_from_the_study_to_the_report(tiny_model: Path, tmp_path: Path) -> None:
    config = small_study(tiny_model, evaluation={"measures": ["answer-length", CONTRAST]})
    open_study(config, tmp_path)
    assert execute_run(config, config.runs()[0], tmp_path).state == "finished"
    rows = open_store(tmp_path).query("SELECT step, name, estimate FROM measurements ORDER BY step, name")
    names = [AnswerLength.name, "hostile minus helpful, nats"]
    assert [(row["step"], row["name"]) for row in rows] == [(step, name) for step in (0, 2, 4, 6) for name in names]
    analysis = analyse(tmp_path)
    measured = [c.measurements for c in analysis.runs[0].checkpoints]
    assert [m[names[1]].value for m in measured] == [row["estimate"]["value"] for row in rows[1::2]]
    assert len({m[names[1]].value for m in measured}) == 4  # each of its own weights
    assert all(0 < m[names[0]].value <= 8 for m in measured)
    page = render_report(analysis)
    for name in names:
        assert name in page
