"""What an analysis says of its judge."""

import math
from dataclasses import replace

import pytest

from tests.judges.test_preflight import Scores, flight, scores
from tests.support.sources import LATE, run, source
from truing.results.judge import JudgeEntry
from truing.results.schema import parse_analysis
from truing.results.tables import tabulate
from truing.stats.agreement import JudgeLimits


def test_an_exact_judge_has_no_limits() -> None:
    entry = JudgeEntry.of("pocket/1", True, None)
    assert (entry.verdict, entry.measured, entry.limits()) == ("exact", False, JudgeLimits())


def test_a_judge_that_was_not_measured_is_in_doubt_unless_it_is_taken_at_its_word() -> None:
    entry = JudgeEntry.of("llm/x", False, None)
    assert (entry.verdict, entry.doubt) == ("not measured", "the judge was not measured")
    assert math.isnan(entry.sensitivity)
    assert entry.limits() == JudgeLimits(doubt=entry.doubt)
    accepted = JudgeEntry.of("llm/x", False, None, accepted=True)
    assert (accepted.verdict, accepted.limits()) == ("not measured", JudgeLimits())
    assert "taken at its word" in accepted.sentence


@pytest.mark.parametrize("blind", [False, True])
def test_a_measured_judge_has_the_limits_of_its_preflight(blind: bool) -> None:
    def say(row: object, i: int) -> Scores:
        return (90.0 if i % 2 else 40.0, 90.0) if blind else scores(row)  # type: ignore[arg-type]

    found = flight(say)
    entry = JudgeEntry.of("llm/x", False, found)
    assert (entry.measured, entry.verdict, entry.sentence) == (True, found.verdict, found.sentence())
    assert entry.limits() == found.limits()
    analysis = tabulate(replace(source(run(LATE, 0)), judge=entry))
    assert parse_analysis(analysis.model_dump_json()).judge == entry
