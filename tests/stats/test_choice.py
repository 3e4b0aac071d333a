"""Which checkpoint is kept, and what is reported of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.estimates import NAN, rate, rates, scores
from truing.core.records import Estimate
from truing.stats.choice import choose_checkpoint, choose_with_report, split_prompts
from truing.stats.course import RunCounts


@given(st.lists(st.tuples(rates, scores), max_size=10), st.floats(0.01, 0.5))
def test_chosen_checkpoint_passes_and_is_best(pairs: list[tuple[Estimate, float]], tolerance: float) -> None:
    steps = [10 * index for index in range(len(pairs))]
    found = choose_checkpoint(steps, [em for em, _ in pairs], [score for _, score in pairs], tolerance)
    passing = [
        (score, -step)
        for step, (em, score) in zip(steps, pairs, strict=True)
        if em.high <= tolerance and not math.isnan(score)
    ]
    assert found == (-max(passing)[1] if passing else None)


def test_choice_takes_the_earliest_of_equals() -> None:
    em_rates = [rate(0.01), rate(0.02), rate(0.5)]
    assert choose_checkpoint([5, 10, 20], em_rates, [0.9, 0.9, 1.0], 0.05) == 5
    assert choose_checkpoint([5, 10, 20], em_rates, [NAN, NAN, 1.0], 0.05) is None


def test_a_floor_excludes_the_unlearnt() -> None:
    em_rates = [rate(0.01), rate(0.02), rate(0.5)]
    assert choose_checkpoint([5, 10, 20], em_rates, [0.4, 0.6, 1.0], 0.05, floor=0.5) == 10
    assert choose_checkpoint([5, 10, 20], em_rates, [0.4, 0.6, 1.0], 0.05, floor=0.7) is None


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
