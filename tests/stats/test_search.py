"""Searching checkpoints that all exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.config import SequentialConfig, StoppingConfig
from truing.core.records import Action
from truing.stats.betting import BELOW, log_wealth
from truing.stats.search import SCREENED, DrawAt, prompts_to_search, search_best, search_crossing
from truing.stats.sequential import DetectorSettings

DEFAULT = DetectorSettings()


def judges(rates: Sequence[float], seed: int = 0) -> DrawAt:
    rng = np.random.default_rng(seed)
    return lambda index, size: (int(rng.binomial(size, rates[index])), size, 0)


def test_the_best_clear_checkpoint_is_found_and_worse_ones_are_not_looked_at() -> None:
    rates = [0.0] * 6 + [0.4] * 6
    found = search_best(list(range(12)), judges(rates), DEFAULT)
    assert found.found == 5
    assert {look.index for look in found.looks} == {5, 6, 7, 8, 9, 10, 11}
    assert found.judged < 12 * 4800 / 20


def test_misalignment_that_went_away_is_no_hindrance() -> None:
    rates = [0.0, 0.0, 0.5, 0.5, 0.0]
    assert search_best([0.1, 0.2, 0.3, 0.4, 0.5], judges(rates), DEFAULT).found == 4


def test_unknown_scores_are_passed_over_and_nothing_may_be_found() -> None:
    assert search_best([float("nan"), 0.5], judges([0.0, 0.0]), DEFAULT).found == 1
    nothing = search_best([0.5, 0.6], judges([0.6, 0.6]), DEFAULT)
    assert nothing.found is None
    assert all(look.action is Action.STOP for look in nothing.looks)


def test_a_misaligned_checkpoint_is_seldom_found() -> None:
    found = [search_best(list(range(15)), judges([0.0501] * 15, seed), DEFAULT).found for seed in range(120)]
    assert sum(f is not None for f in found) / 120 <= 0.05 + 0.04


@settings(max_examples=15)
@given(st.integers(1, 14), st.integers(15, 40))
def test_bisection_finds_the_crossing_in_few_looks(onset: int, count: int) -> None:
    rates = [0.0] * onset + [0.6] * (count - onset)
    found = search_crossing(count, judges(rates), DEFAULT)
    assert (found.found, found.next_misaligned) == (onset - 1, onset)
    assert len(found.looks) <= 8


@pytest.mark.parametrize(
    ("rates", "found", "following"),
    [([0.0, 0.0, 0.0], 2, None), ([0.6, 0.6, 0.6], None, 2), ([0.0], 0, None), ([0.6], None, None)],
)
def test_without_a_crossing(rates: list[float], found: int | None, following: int | None) -> None:
    result = search_crossing(len(rates), judges(rates), DEFAULT)
    assert (result.found, result.next_misaligned) == (found, following)


def test_no_checkpoints() -> None:
    assert search_crossing(0, judges([]), DEFAULT).looks == ()
    assert search_best([], judges([]), DEFAULT).found is None


@pytest.mark.parametrize(("kind", "count", "needed"), [("best", 9, 111), ("crossing", 2, 102), ("crossing", 16, 122)])
def test_so_many_different_prompts_clear_and_no_fewer(
    kind: Literal["best", "crossing"], count: int, needed: int
) -> None:
    """Of clean checkpoints, of which every draw is of a new prompt until all have come up."""
    stopping = StoppingConfig(sequential=SequentialConfig())
    assert prompts_to_search(kind, stopping, count) == needed
    for prompts, clear in ((needed, True), (needed - 1, False)):
        drawn = [0] * count
        lead = SCREENED * DEFAULT.batch if kind == "best" else 0

        def draw(index: int, size: int, drawn: list[int] = drawn) -> tuple[int, int, int]:
            drawn[index] += size
            return 0, size, 0

        def evidence(index: int, drawn: list[int] = drawn, lead: int = lead, prompts: int = prompts) -> float:
            different = min(max(drawn[index] - lead, 0), prompts - lead)
            return float(log_wealth(0, different, DEFAULT.clear_below, BELOW))

        scores = [float(i) for i in range(count)]
        found = (
            search_best(scores, draw, DEFAULT, evidence)
            if kind == "best"
            else (search_crossing(count, draw, DEFAULT, evidence))
        )
        assert (found.found is not None) is clear
    assert prompts_to_search(kind, StoppingConfig(about="benchmark"), count) == 0
