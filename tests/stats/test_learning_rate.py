"""Choosing the learning rate over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from truing.stats.choice import choose_learning_rate


def test_a_clear_winner() -> None:
    choice = choose_learning_rate(
        {1e-5: [0.5, 0.52, 0.48], 1e-4: [0.9, 0.88, 0.91], 1e-3: [0.6, 0.61, 0.58]},
        {1e-5: [0.0, 0.0, 0.0], 1e-4: [0.02, 0.03, 0.01], 1e-3: [0.4, 0.5, 0.3]},
        np.random.default_rng(0),
    )
    assert choice.recommended == 1e-4
    assert choice.rivals == ()
    assert choice.probability_best[1e-4] > 0.99
    assert choice.pareto == (1e-5, 1e-4)
    assert choice.scores[1e-4].n_responses == 3


def test_rivals_that_the_seeds_cannot_tell_apart() -> None:
    choice = choose_learning_rate(
        {1e-4: [0.9, 0.7], 2e-4: [0.7, 0.88]}, {1e-4: [0.0], 2e-4: [0.0]}, np.random.default_rng(0)
    )
    assert choice.recommended == 1e-4
    assert choice.rivals == (2e-4,)
    assert sum(choice.probability_best.values()) == pytest.approx(1)


def test_two_equal_means_share_the_probability() -> None:
    choice = choose_learning_rate(
        {1e-4: [0.8, 0.9], 2e-4: [0.9, 0.8]}, {1e-4: [0.0], 2e-4: [0.0]}, np.random.default_rng(0)
    )
    assert choice.probability_best[1e-4] == pytest.approx(0.5, abs=0.02)


def test_one_seed_each_is_no_certainty() -> None:
    choice = choose_learning_rate({1e-4: [0.9], 2e-4: [0.5]}, {1e-4: [0.0], 2e-4: [0.0]}, np.random.default_rng(0))
    assert (choice.recommended, choice.rivals) == (1e-4, (2e-4,))
    assert math.isnan(choice.probability_best[1e-4])


def test_nothing_known() -> None:
    choice = choose_learning_rate({1e-4: [math.nan]}, {1e-4: [math.nan]}, np.random.default_rng(0))
    assert (choice.recommended, choice.pareto) == (None, ())
    assert choice.scores[1e-4].n_missing == 1
