"""Behaviour inside and outside the trained domain."""

from __future__ import annotations

import math

import numpy as np
import pytest

from truing.core.records import Estimate
from truing.stats.choice import overgeneralisation, separability, share_of_runs
from truing.stats.rates import clustered_rate


def known(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 100, 1000, 0, "test")


def test_inside_and_outside_hold_together() -> None:
    x, n = np.array([5, 4, 0, 1]), np.full(4, 10)
    inside, outside = overgeneralisation(x, n, np.array([True, True, False, False]))
    assert inside == clustered_rate(x[:2], n[:2], confidence=math.sqrt(0.95))
    assert outside.value == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("scores", "broad", "answer", "step"),
    [
        (
            [known(0.1, 0.2), known(0.9, 0.95), known(0.95, 1.0)],
            [known(0, 0.01), known(0, 0.03), known(0.2, 0.3)],
            "yes",
            2,
        ),
        ([known(0.9, 0.95), known(0.9, 0.95), known(0.1, 0.2)], [known(0, 0.01)] * 3, "yes", 1),
        (
            [known(0.1, 0.2), known(0.5, 0.6), known(0.9, 1.0)],
            [known(0, 0.01), known(0.1, 0.2), known(0.2, 0.3)],
            "no",
            None,
        ),
        (
            [known(0.1, 0.2), known(0.7, 0.9), known(0.9, 1.0)],
            [known(0, 0.01), known(0, 0.01), known(0.2, 0.3)],
            "cannot tell",
            None,
        ),
        ([], [], "cannot tell", None),
    ],
)
def test_separability(scores: list[Estimate], broad: list[Estimate], answer: str, step: int | None) -> None:
    found = separability(range(1, len(scores) + 1), scores, broad, floor=0.8, tolerance=0.05)
    assert (found.separable, found.step) == (answer, step)
    assert found.reason


def test_share_of_runs_leaves_out_those_that_cannot_tell() -> None:
    found = share_of_runs(["yes", "yes", "no", "cannot tell"])
    assert found.value == pytest.approx(2 / 3)
    assert (found.n_responses, found.n_missing) == (3, 1)
    assert 0 <= found.low < 2 / 3 < found.high <= 1
    assert share_of_runs(["cannot tell"]).reason
