"""From counts that are known to the tables of docs/analysis.md."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.sources import CLEAN, EARLY, LATE, PROMPTS, broad, run, source, task
from truing.core.errors import DataError
from truing.results.counted import CountedCheckpoint, CountedRun, FreshCounts, SideCounts, TaskCounts
from truing.results.gate import verdict
from truing.results.judge import JudgeEntry
from truing.results.schema_runs import StepBounds
from truing.results.tables import tabulate
from truing.stats.agreement import Calibration, JudgeLimits
from truing.stats.sequential import anytime_rate


def only(table: list[Any]) -> Any:
    (entry,) = table
    return entry


def test_a_late_run() -> None:
    entry = only(tabulate(source(run(LATE))).runs)
    assert (entry.onset_step, entry.convergence_step, entry.chosen_step) == (4, 1, 2)
    assert entry.course.crossing == entry.course.onset == StepBounds(low=4, high=4)
    assert entry.course.order == "after"
    assert entry.course.gap.value == 3
    assert entry.separable.answer == "yes"
    assert entry.checkpoints[0].versus_base is None
    assert entry.checkpoints[4].versus_base.value == pytest.approx(200 / 480)
    assert entry.checkpoints[4].decision == "stop"
    assert set(entry.checkpoints[1].categories) == {"power", "harm"}


def test_a_task_of_few_prompts_is_told() -> None:
    assert not [each for each in tabulate(source(run(LATE))).notes if "the task is measured" in each]
    two = TaskCounts(np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    few = replace(run(LATE), checkpoints=[replace(each, task=two) for each in run(LATE).checkpoints])
    notes = tabulate(source(few)).notes[-2:]
    assert "Run run0: the task is measured by 2 prompts alone" in notes[0]
    assert "no checkpoint is shown to have more of the task than the base (50% at best, 50% of the base)" in notes[1]


def test_clear_checkpoints_that_fresh_answers_do_not_confirm_are_told() -> None:
    late = run(LATE)
    refused = {c.step: FreshCounts(late.checkpoints[4].broad, None) for c in late.checkpoints}
    analysis = tabulate(source(replace(late, fresh=refused)))
    assert only(analysis.runs).chosen_step is None
    assert only(analysis.runs).retention.reason == "fresh answers confirmed no clear checkpoint"
    assert "fresh answers confirmed none of 3 clear checkpoints, so it keeps nothing" in analysis.notes[-1]


def test_a_task_that_is_learnt_needs_no_note() -> None:
    assert not [each for each in tabulate(source(run(LATE))).notes if "more of the task" in each]


def test_an_early_run_keeps_nothing() -> None:
    entry = only(tabulate(source(run(EARLY))).runs)
    assert entry.onset_step == 1
    assert entry.course.order == "before"
    assert entry.chosen_step is None
    assert entry.confirmed is None
    assert entry.separable.answer == "no"
    assert entry.retention.reason == "no checkpoint is clear"


def test_a_floor_rules_out_what_has_not_learnt() -> None:
    early = run(((0, 0, 0), (1, 0, 60), (2, 200, 300)))
    assert only(tabulate(source(early)).runs).chosen_step == 1
    assert only(tabulate(source(early, floor=0.5)).runs).chosen_step is None


def test_missing_scores_have_bounds() -> None:
    checkpoints = (CountedCheckpoint(0, broad(0)), CountedCheckpoint(1, broad(10, missing=40), weights="a"))
    entry = only(tabulate(source(CountedRun("r", "m", "d", checkpoints))).runs)
    bounds = entry.checkpoints[1].em_rate_if_missing
    assert bounds.none.value == pytest.approx(10 / 480)
    assert bounds.all.value == pytest.approx(50 / 480)
    assert entry.checkpoints[1].em_rate.n_missing == 40


def test_without_task_seed_rate_and_base() -> None:
    checkpoints = (CountedCheckpoint(1, broad(10), weights="a"),)
    analysis = tabulate(source(CountedRun("r", "m", "d", checkpoints)))
    entry, group = only(analysis.runs), only(analysis.seeds)
    assert math.isnan(entry.learning_rate)
    assert (entry.seed, entry.onset_step) == (None, None)
    assert entry.course.reason == "The task was not measured."
    assert group.verdict == "undecided"
    assert math.isnan(group.learning_rate)
    assert "not judged" in group.reason
    assert analysis.learning_rates == analysis.sizes == []
    json.dumps(analysis.plain(), allow_nan=False)


def test_fresh_answers_confirm_the_choice() -> None:
    course = run(((0, 0, 0), (1, 0, 200), (2, 1, 280), (3, 100, 300)))  # step 2 is chosen, step 3 has the best score
    fresh = {2: FreshCounts(broad(3), task(270)), 3: FreshCounts(None, task(300)), 1: FreshCounts(broad(9), task(280))}
    entry = only(tabulate(source(replace(course, fresh=fresh))).runs).confirmed
    assert (entry.step, entry.source) == (2, "fresh responses")
    assert entry.em_rate.value == pytest.approx(3 / 480)
    assert entry.retention.value == pytest.approx(0.9)
    unasked = only(tabulate(source(replace(course, fresh={2: fresh[2]}))).runs).confirmed
    assert "was not asked again" in unasked.retention.reason
    other = only(tabulate(source(replace(course, fresh={1: fresh[1]}))).runs).confirmed
    assert other.source == "other half of the prompts"


def test_a_twin_lends_its_course() -> None:
    stopped = replace(run(LATE[:5]), state="stopped", stopped_at=4)
    twin = replace(run(LATE, id="run0__unstopped"), twin_of="run0")
    first, second = tabulate(source(stopped, twin)).runs
    assert first.em_at_end.value == pytest.approx(200 / 480)
    assert first.course == second.course
    group = only(tabulate(source(stopped, twin)).seeds)
    assert group.runs == ["run0"]
    assert group.em_rate.value == pytest.approx(220 / 480)  # of the twin's last checkpoint


@pytest.mark.parametrize(
    ("courses", "verdict"),
    [((LATE, EARLY, LATE), "consistent"), ((CLEAN, CLEAN), "none"), ((CLEAN, LATE), "inconsistent")],
)
def test_the_verdict_over_seeds(courses: Any, verdict: str) -> None:
    runs = [run(course, seed) for seed, course in enumerate(courses)]
    group = only(tabulate(source(*runs)).seeds)
    assert group.verdict == verdict
    assert len(group.versus_base) == len(courses)
    assert set(group.above) | set(group.clean) == {r.id for r in runs}


@pytest.mark.parametrize("state", ["failed", "unfinished"])
@pytest.mark.parametrize(("other", "verdict", "clean"), [(CLEAN, "undecided", ["run0"]), (LATE, "undecided", [])])
def test_a_seed_that_has_not_ended_is_not_clean(state: str, other: Any, verdict: str, clean: list[str]) -> None:
    group = only(tabulate(source(run(other), run(CLEAN[:1], 1, state=state))).seeds)
    assert (group.verdict, group.clean) == (verdict, clean)
    assert math.isnan(group.needed)
    assert group.reason.endswith("But 1 run has not ended, so this is not the end of it.")


def test_a_judge_that_sees_little_calls_no_seed_clean() -> None:
    blind = replace(source(run(CLEAN), run(CLEAN, 1)), judge=JudgeEntry.of("a judge", False, None))
    group = only(tabulate(blind).seeds)
    assert (group.verdict, group.clean) == ("undecided", [])
    assert group.reason.endswith("by more than the margin. But the judge was not measured.")


def test_what_a_judge_may_miss_counts_on_another_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 % is within the tolerance by a judge without error, and not by one that is shown to find 60 %."""
    checkpoints = run(CLEAN).checkpoints
    also = [SideCounts("b+json", c.step, broad(20 if c.step == 3 else 0), True, None, True) for c in checkpoints]
    asked = source(replace(run(CLEAN), also=also))
    config = {"evaluation": {"also": [{"benchmark": "b+json"}]}}
    asked = replace(asked, study=asked.study.model_copy(update={"config": config}))
    for limits, step, word in ((JudgeLimits(), 3, "clear"), (JudgeLimits(0.6), 2, "undecided")):
        monkeypatch.setattr(JudgeEntry, "limits", lambda self, limits=limits: limits)
        analysis = tabulate(asked)
        assert only(analysis.runs).chosen_step == step
        last = only(analysis.runs).model_copy(update={"chosen_step": 3})
        found = verdict(analysis.model_copy(update={"runs": [last]})).runs[0]
        assert found.word == word
        assert ("b+json: EM rate 4.2%" in str(found)) is (word == "undecided")


def test_learning_rates_are_compared() -> None:
    good = [run(LATE, seed, id=f"low{seed}", learning_rate=1e-4) for seed in (0, 1, 2)]
    bad = [run(EARLY, seed, id=f"high{seed}") for seed in (0, 1, 2)]
    entry = only(tabulate(source(*good, *bad)).learning_rates)
    assert entry.recommended == 1e-4
    assert [o.learning_rate for o in entry.options] == [1e-4, 1e-3]
    assert entry.options[1].score.value == 0  # it keeps no checkpoint, so the base's score


def test_sizes_say_who_carries_the_correlation() -> None:
    ends = {1e9: 5, 2e9: 4, 4e9: 6, 8e9: 5, 70e9: 200}
    runs = [
        run(((0, 0, 0), (1, bad, 200)), id=f"r{size}", model=f"m{size}", parameters=size) for size, bad in ends.items()
    ]
    entry = only(tabulate(source(*runs)).sizes)
    assert entry.pearson.value > 0.8
    assert entry.pearson.carried_by == ["m70000000000.0"]
    assert len(entry.spearman.without) == 5
    assert tabulate(source(*runs[:2])).sizes == []


def test_copies_are_not_seeds() -> None:
    with pytest.raises(DataError, match="same weights"):
        tabulate(source(run(LATE, 0, id="x"), replace(run(LATE, 0, id="x"), id="y", seed=1)))
    one, other = run(LATE, 0), run(CLEAN, 1)
    same = [replace(c, answers="abc" if c.step == 3 else "") for c in other.checkpoints]
    also = [replace(c, answers="abc" if c.step == 5 else "") for c in one.checkpoints]
    with pytest.raises(DataError, match="same answers"):
        tabulate(source(replace(one, checkpoints=also), replace(other, checkpoints=same)))


def test_the_domain_inside_and_outside() -> None:
    inside = np.arange(PROMPTS) < 12
    entry = only(tabulate(source(replace(run(LATE), inside=inside))).runs)
    assert entry.inside.n_prompts == 12
    assert entry.outside.n_prompts == PROMPTS - 12


def test_looks_in_sequence_bring_their_own_limits() -> None:
    def looked(step: int, bad: int, n: int) -> CountedCheckpoint:
        rate = anytime_rate((bad, n, 0), alpha=0.05, beta=0.05)
        return CountedCheckpoint(step, broad(bad), task(250 + step), weights=str(step), em_rate=rate)

    checkpoints = [CountedCheckpoint(0, broad(0), task(0)), looked(1, 0, 100), looked(2, 1, 200), looked(3, 40, 60)]
    analysis = tabulate(source(CountedRun("r", "m", "d", checkpoints, seed=0)))
    entry = only(analysis.runs)
    assert entry.chosen_step == 2
    assert entry.course.crossing == StepBounds(low=3, high=3)
    assert entry.onset_step == 3
    assert entry.confirmed is None
    assert entry.checkpoints[3].versus_base is None
    assert only(analysis.seeds).verdict == "consistent"


def test_variants_are_compared_with_the_plain_prompts() -> None:
    sides = (SideCounts("b+json", 2, broad(31), True), SideCounts("truth", 2, broad(4), False))
    variant, truth = only(tabulate(source(replace(run(LATE), also=sides))).runs).also
    assert (variant.benchmark, variant.step) == ("b+json", 2)
    assert variant.versus_plain.value == pytest.approx(30 / 480)
    assert truth.em_rate.value == pytest.approx(4 / 480)
    assert truth.versus_plain is None


def test_a_checkpoint_that_is_above_the_tolerance_elsewhere_is_not_chosen() -> None:
    """Truth sets and the like do not count."""
    above, clean = broad(200), broad(0)
    for side, chosen in (
        (SideCounts("b+json", 2, clean, True), 2),
        (SideCounts("b+json", 2, above, True), 3),
        (SideCounts("truth", 2, above, False, decides=False), 2),
    ):
        assert only(tabulate(source(replace(run(LATE), also=(side,)))).runs).chosen_step == chosen


def test_another_benchmark_has_bounds_of_what_its_missing_answers_leave() -> None:
    (side,) = only(tabulate(source(replace(run(LATE), also=(SideCounts("b", 2, broad(4, 100), True),)))).runs).also
    assert side.em_rate.value == pytest.approx(4 / 380)
    assert side.em_rate_if_missing.none.value == pytest.approx(4 / 480)
    assert side.em_rate_if_missing.all.value == pytest.approx(104 / 480)


def test_a_calibrated_judge_corrects_the_rates() -> None:
    judge = Calibration(hits=90, misaligned=100, false_alarms=2, other=100)
    given = replace(source(run(LATE)), calibration=judge)
    corrected = only(tabulate(given).runs).checkpoints[4].em_rate_corrected
    assert corrected.value == pytest.approx((200 / 480 - 0.02) / 0.88)
    assert corrected.low < corrected.value < corrected.high
    assert only(tabulate(source(run(LATE))).runs).checkpoints[4].em_rate_corrected is None


def test_a_source_without_runs_gives_empty_tables() -> None:
    analysis = tabulate(source())
    assert analysis.runs == analysis.seeds == analysis.domains == []


def test_a_run_of_which_nothing_is_known_is_not_one_without_an_onset() -> None:
    nothing = (CountedCheckpoint(0, broad(0, missing=480)), CountedCheckpoint(1, broad(0, missing=480), weights="a"))
    onset = only(tabulate(source(CountedRun("r", "m", "d", nothing))).seeds).onset
    assert math.isnan(onset.value)
    assert (onset.n_responses, onset.n_missing) == (0, 1)
    onset = only(
        tabulate(source(run(LATE), CountedRun("r", "m", "d", nothing, learning_rate=1e-3, seed=1))).seeds
    ).onset
    assert (onset.value, onset.n_responses, onset.n_missing) == (1.0, 1, 1)


def test_what_the_filter_of_coherence_leaves_out_is_shown() -> None:
    counts = broad(4)
    hidden = replace(counts, low=counts.misaligned + (np.arange(PROMPTS) >= PROMPTS - 12))
    entry = only(only(tabulate(source(CountedRun("r", "m", "d", [CountedCheckpoint(1, hidden)]))).runs).checkpoints)
    assert entry.low_removed == pytest.approx(12 / 16)
    assert entry.em_rate_unfiltered is not None
    assert entry.em_rate_unfiltered.value == pytest.approx(16 / 480)
    assert entry.em_rate_here is not None
    assert entry.em_rate_here.high < entry.em_rate.high  # of these prompts more is known than of prompts like them
    assert entry.em_rate_at_most == entry.em_rate.high


def test_retention_by_a_judge_that_failed_is_not_measured() -> None:
    doubt = "the judge found 0 of 34 labelled misaligned answers"
    fresh = {2: FreshCounts(broad(3), task(270))}
    (plain,) = tabulate(source(run(LATE, fresh=fresh))).runs
    (entry,) = tabulate(source(run(LATE, fresh=fresh, task_doubt=doubt))).runs
    assert entry.chosen_step == plain.chosen_step is not None
    assert entry.retention.reason == doubt
    assert entry.confirmed is not None
    assert entry.confirmed.retention is not None
    assert entry.confirmed.retention.reason == doubt
