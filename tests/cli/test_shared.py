from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.support.sources import PROMPTS, broad, run, source, task
from truing.backends.endpoint.journal import Journal, Paid
from truing.cli.shared import results_table, say_costs, say_results, split_pairs
from truing.core.errors import ConfigError
from truing.report.words import limits
from truing.results.counted import CountedCheckpoint, CountedRun, FreshCounts, Scores
from truing.results.gate import verdict
from truing.results.schema import Analysis
from truing.results.tables import tabulate


def shown(analysis: Analysis) -> str:
    console = Console(width=160, record=True)
    with console.capture() as captured:
        console.print(results_table(analysis, verdict(analysis)))
    return captured.get()


def test_runs_without_learning_rate_and_seed_have_a_row() -> None:
    analysis = tabulate(source(CountedRun("a", "m", "d", [CountedCheckpoint(1, broad(10))])))
    (entry,) = analysis.runs
    entry = entry.model_copy(update={"em_at_end": replace(entry.em_at_end, low=math.nan, high=math.nan)})
    text = shown(analysis.model_copy(update={"runs": [entry]}))
    assert "2.1% (no" in text
    assert "seed" not in text  # no run has one
    assert "onset" not in text


def test_runs_that_differ_in_nothing_shown_are_told_apart_by_their_names() -> None:
    runs = [CountedRun(name, "m", "d", [CountedCheckpoint(1, broad(hits))]) for name, hits in (("one", 1), ("two", 2))]
    assert "one" in shown(tabulate(source(*runs)))
    assert "one" not in shown(tabulate(source(runs[0], replace(runs[1], seed=1))))


def test_fresh_answers_speak_of_the_chosen_checkpoint() -> None:
    course = run(((0, 0, 0), (1, 0, 200), (2, 1, 280), (3, 100, 300)))  # step 2 is chosen, step 3 has the best score
    fresh = {2: FreshCounts(broad(3), task(270)), 3: FreshCounts(None, task(300))}
    text = shown(tabulate(source(replace(course, fresh=fresh))))
    assert "90.0%" in text
    assert verdict(tabulate(source(replace(course, fresh=fresh)))).runs[0].word in text.splitlines()[-1]
    assert "100.0%" not in text


def test_the_answers_left_out_are_those_of_the_rate_shown() -> None:
    course = run(((0, 0, 0), (1, 0, 200), (2, 1, 280), (3, 100, 300)))
    fewer = broad(3)
    fewer = replace(fewer, coherent=fewer.coherent - (np.arange(PROMPTS) >= PROMPTS - 5))
    (found,) = verdict(tabulate(source(replace(course, fresh={2: FreshCounts(fewer, None)})))).runs
    assert (found.step, found.left_out) == (2, f"5 of {fewer.judged.sum()} incoherent")
    assert found.em_rate.n_responses == fewer.judged.sum() - 5


def test_the_table_and_the_gate_show_one_figure_of_a_run_that_was_interrupted() -> None:
    """Before fresh answers confirm the chosen checkpoint, half of the prompts do not speak of it to one alone."""
    course = run(((0, 0, 0), (1, 0, 200), (2, 7, 280), (3, 100, 300)))
    whole = source(course)
    asked = replace(whole, study=whole.study.model_copy(update={"config": {"evaluation": {"confirm": True}}}))
    for each in (whole, asked):
        analysis = tabulate(each)
        (found,), (entry,) = verdict(analysis).runs, analysis.runs
        assert entry.chosen_step == found.step == 2
        assert f"{found.em_rate.value:.1%}" in shown(analysis)
    assert "1.5%" in shown(analysis)  # 7 of 480


def test_a_limit_that_says_nothing_is_not_written_out() -> None:
    (entry,) = (analysis := tabulate(source(run(((0, 0, 0), (1, 0, 200), (2, 1, 280)))))).runs
    wide = replace(entry.retention, value=0.5, low=0.0, high=3.5e18)
    entry = entry.model_copy(update={"retention": wide, "confirmed": None})
    text = shown(analysis.model_copy(update={"runs": [entry]}))
    assert "50.0% [0, >1,000]" in text
    assert limits(wide) == "50% [0,\u00a0>1,000]"


@pytest.mark.parametrize("text", ["training.steps", "=3"])
def test_what_is_no_pair_is_quoted_whole(text: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE") as caught:
        split_pairs([text])
    assert (caught.value.got, caught.value.todo) == (text, "write --set training.steps=50")


def test_nothing_where_no_endpoint_was_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_costs(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_line_per_model_and_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / "calls.sqlite")
    journal.write([Paid("gpt-4o", b"1", "[]", 1000, 2, 0.5), Paid("gpt-4o", cost=0.25)], "live")
    journal.write([Paid("[b]mine[/b]", b"2", "[]", 10, 1, None)], "batch")
    journal.close()
    say_costs(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "[b]mine[/b] (batch): 1 call, 10 + 1 tokens, the price of 1 is unknown (endpoint.prices)",
        "gpt-4o (live): 1 call, 1,000 + 2 tokens, $0.5000, 1 more may have been paid for, up to $0.2500",
    ]


def test_what_hangs_on_the_thresholds_is_said_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    scores = Scores(np.arange(PROMPTS), np.full(PROMPTS, 90.0), np.full(PROMPTS, 90.0), np.zeros(PROMPTS, np.int64))
    (checkpoint,) = run(((1, 0, 0),)).checkpoints
    say_results(tabulate(source(CountedRun("a", "m", "d", [replace(checkpoint, scores=scores)]))))
    assert "the same decision in 16 of 16 cells, continue (step 1)." in capsys.readouterr().out
