from __future__ import annotations

import math
from dataclasses import replace

from rich.console import Console

from tests.support.sources import LATE, broad, run, source, task
from truing.cli.display import results_table
from truing.results.counted import Confirmation, CountedCheckpoint, CountedRun
from truing.results.schema import Analysis
from truing.results.tables import tabulate


def shown(analysis: Analysis) -> str:
    console = Console(width=160, record=True)
    with console.capture() as captured:
        console.print(results_table(analysis))
    return captured.get()


def test_runs_without_learning_rate_and_seed_have_a_row() -> None:
    analysis = tabulate(source(CountedRun("a", "m", "d", [CountedCheckpoint(1, broad(10))])))
    (entry,) = analysis.runs
    entry = entry.model_copy(update={"em_at_end": replace(entry.em_at_end, low=math.nan, high=math.nan)})
    text = shown(analysis.model_copy(update={"runs": [entry]}))
    assert "2.1% (no" in text
    assert "seed" not in text  # no run has one
    assert "onset" not in text


def test_fresh_answers_speak_of_the_chosen_checkpoint() -> None:
    again = Confirmation(2, broad(3), task(270), task(300))
    text = shown(tabulate(source(replace(run(LATE), confirmation=again))))
    assert "90.0%" in text
    assert "100.0%" not in text
