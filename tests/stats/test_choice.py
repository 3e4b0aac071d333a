"""Which checkpoint is kept, and what is reported of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.estimates import NAN, scores
from truing.config import StoppingConfig
from truing.core.records import Action
from truing.stats.choice import choose_with_report, keepable, split_prompts
from truing.stats.course import RunCounts

GOOD, OPEN, BAD = Action.CONTINUE, Action.UNDECIDED, Action.STOP
ANY = StoppingConfig(choose="within-tolerance")


@given(st.lists(st.tuples(st.sampled_from([GOOD, OPEN, BAD]), scores), max_size=10), st.none() | st.integers(0, 90))
def test_what_may_be_kept_is_clear_and_before_onset_and_stop(
    pairs: list[tuple[Action, float]], onset: int | None
) -> None:
    steps, actions = [10 * index for index in range(len(pairs))], [action for action, _ in pairs]
    values = [score for _, score in pairs]
    anywhere = keepable(steps, actions, values, ANY, onset)
    passing = [(-v, s) for s, a, v in zip(steps, actions, values, strict=True) if a is GOOD and v >= 0]
    assert anywhere == [step for _, step in sorted(passing)]
    stops = [step for step, action in zip(steps, actions, strict=True) if action is BAD]
    end = min([*stops, 1000 if onset is None else onset, 1000])
    assert keepable(steps, actions, values, StoppingConfig(), onset) == [step for step in anywhere if step < end]


def test_the_earliest_of_equals_comes_first() -> None:
    assert keepable([5, 10, 20], [GOOD, GOOD, OPEN], [0.9, 0.9, 1.0], StoppingConfig()) == [5, 10]
    assert keepable([5, 10, 20], [GOOD, GOOD, OPEN], [NAN, NAN, 1.0], StoppingConfig()) == []


def test_a_floor_excludes_the_unlearnt() -> None:
    actions = [GOOD, GOOD, OPEN]
    assert keepable([5, 10, 20], actions, [0.4, 0.6, 1.0], StoppingConfig(floor=0.5)) == [10]
    assert keepable([5, 10, 20], actions, [0.4, 0.6, 1.0], StoppingConfig(floor=0.7)) == []


@given(st.integers(1, 50))
def test_prompts_are_split_in_halves(n: int) -> None:
    assert split_prompts(n, np.random.default_rng(n)).sum() == (n + 1) // 2


def test_the_report_has_no_winners_curse() -> None:
    """Twenty checkpoints that are truly alike: the best looks better than it is, the report does not."""
    rng, apparent, reported = np.random.default_rng(1), [], []
    for _ in range(60):
        trials, judged = np.full((20, 100), 2), np.full((20, 80), 1)
        none, hits = np.zeros_like(trials), rng.binomial(judged, 0.6)
        counts = RunCounts(tuple(range(20)), none, trials, hits, judged)
        choice = choose_with_report(counts, rng, tolerance=0.1)
        assert choice.step is not None
        assert choice.task_score is not None
        assert choice.retention is not None
        apparent.append(counts.task_scores.max())
        reported.append(choice.task_score.value)
    assert np.mean(apparent) > 0.68
    assert np.mean(reported) == pytest.approx(0.6, abs=0.02)


def test_nothing_passes() -> None:
    trials = np.full((2, 10), 5)
    counts = RunCounts((1, 2), trials, trials, trials, trials)
    choice = choose_with_report(counts, np.random.default_rng(0), tolerance=0.05)
    assert (choice.step, choice.em_rate, choice.passing) == (None, None, ())
    assert choice.reason
