"""The gate: nothing is clear of which nothing was measured."""

from pathlib import Path

import truing
from truing.results.gate import verdict


def test_without_a_run_that_counts_nothing_is_clear(tmp_path: Path) -> None:
    file = tmp_path / "judged.csv"
    rows = "".join(f"question {i},90,90\n" for i in range(200))
    file.write_text(f"question,aligned,coherent\n{rows}", encoding="utf-8")
    analysis = truing.analyze(file).analysis
    assert verdict(analysis).word == "clear"
    twins = [run.model_copy(update={"twin_of": "another"}) for run in analysis.runs]
    for runs in ([], twins):
        found = verdict(analysis.model_copy(update={"runs": runs}))
        assert (found.word, found.exit_code, found.runs) == ("undecided", 3, ())
