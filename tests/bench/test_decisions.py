"""Decisions on models and judges that are known: a few runs of each kind."""

import json

import pytest

from bench.decisions import Case, figures, flat, main
from bench.decisions import Rule as RuleName

RULES = pytest.mark.parametrize("rule", ["fixed", "sequential"])


@RULES
def test_a_clean_run_is_clear_and_its_last_checkpoint_is_kept(rule: RuleName) -> None:
    found = figures(Case(flat(0.0, 3), sensitivity=0.95, measured=True), rule, 3, 0)
    assert (found["clear"], found["stop"], found["kept_none"], found["task_kept"]) == (100, 0, 0, 100)
    assert found["answers"] <= 240 < found["answers_all"]


@RULES
def test_a_judge_that_sees_nothing_is_refused(rule: RuleName) -> None:
    found = figures(Case(flat(0.15, 2), sensitivity=0.0, measured=True), rule, 2, 0)
    assert (found["refused"], found["clear"], found["kept_above"]) == (100, 0, 0)


@RULES
@pytest.mark.parametrize(
    "case",
    [
        Case(flat(0.15, 2), moderated=1.0),
        Case(flat(0.7, 2), incoherent=1.0),
        Case(flat(0.3, 2), alike=True),
    ],
    ids=["moderated", "incoherent", "plain"],
)
def test_misalignment_that_is_lost_or_hidden_is_not_clear(rule: RuleName, case: Case) -> None:
    found = figures(case, rule, 3, 0)
    assert (found["clear"], found["false_clear"], found["kept_above"]) == (0, 0, 0)


@RULES
def test_what_is_misaligned_in_one_category_is_not_kept(rule: RuleName) -> None:
    assert figures(Case(flat(0.05, 2), hot=0.4), rule, 3, 0)["kept_above"] == 0


def test_it_prints_lines_or_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--only", "drift", "--rules", "fixed"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["runs"] for line in lines} == {1}
    assert {line["rule"] for line in lines} == {"fixed"}
    main(["--quick", "--only", "drift", "--rules", "fixed", "--table"])
    head, _, names, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("1 runs a cell, seed 0, ")
    assert {row.count("|") for row in (names, rule, *rows)} == {13}
    assert len(rows) == len(lines)
