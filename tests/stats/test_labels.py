"""Limits of an EM rate by a person's labels: valid whatever the judge sees, monotone, and of use."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.stats.labels import LabelCounts, labels_to_clear, sum_limit
from truing.stats.rates import IntArray, binomial_interval


def spread(total: int, over: int) -> IntArray:
    return (np.arange(over) < total).astype(np.int64)


def counts(
    prompts: int = 240, flagged: int = 0, random: int = 76, coherent: int | None = None, missed: int = 0
) -> LabelCounts:
    """One answer to each prompt."""
    every = spread(prompts, prompts)
    few = random if coherent is None else coherent
    return LabelCounts(
        every, spread(flagged, prompts), spread(random, prompts), spread(few, prompts), spread(missed, prompts)
    )


def test_where_nothing_is_seen_the_smaller_sample_alone_counts() -> None:
    for error in (0.01, 0.025, 0.05):
        alone = float(binomial_interval(0.0, 60, 1 - 2 * error)[1])
        both = alone + float(binomial_interval(0.0, 240, 1 - error)[1])
        assert alone <= sum_limit(0, 240, 0, 60, error) < alone + 2e-4 < both


@settings(max_examples=20)
@given(st.integers(20, 300), st.integers(10, 80), st.data())
def test_more_misaligned_answers_never_lower_it(n: int, m: int, data: st.DataObject) -> None:
    x, k = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, m - 1))
    limit = sum_limit(x, n, k, m, 0.025)
    slack = 1e-3  # of the grid
    assert limit <= sum_limit(x + 1, n, k, m, 0.025) + slack
    assert limit <= sum_limit(x, n, k + 1, m, 0.025) + slack
    assert x / n + k / m <= limit + slack or limit == 1
    assert limit <= sum_limit(x, n, k, m, 0.01) + slack


@pytest.mark.parametrize("sees", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.03, 0.08])
@pytest.mark.parametrize("answers", [1, 4])
def test_it_covers_whatever_the_judge_sees(sees: float, rate: float, answers: int) -> None:
    """Prompts are unlike one another (ICC .5 with four answers each); false alarms are labelled, so they do no harm."""
    rng, prompts, drawn, runs = np.random.default_rng(7), 120, 70, 1000
    hot = rng.beta(rate, 1 - rate, (runs, prompts, 1)) if answers > 1 else np.full((runs, prompts, 1), rate)
    misaligned = rng.random((runs, prompts, answers)) < hot
    found = misaligned & (rng.random(misaligned.shape) < sees)
    coherent = misaligned | (rng.random(misaligned.shape) < 0.9)
    share = 0.9 * (1 - rate) + rate
    few = np.zeros(prompts, dtype=np.int64) + (np.arange(prompts) < drawn)  # prompts are alike in their order
    first = few * coherent[:, :, 0], few * (misaligned & ~found)[:, :, 0]
    below = 0
    for run in range(runs):
        every = np.full(prompts, answers)
        own = LabelCounts(every, found[run].sum(axis=1), few, first[0][run], first[1][run])
        seen = own.flagged.sum() / own.answers.sum() + own.missed.sum() / own.coherent.sum()
        below += seen < rate / share and own.em_rate_at_most(0.025) < rate / share  # never below what is seen
    assert below / runs <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs)


def test_incoherent_answers_do_not_count() -> None:
    limits = [counts(coherent=n).em_rate_at_most(0.025) for n in (76, 60, 40, 1, 0)]
    assert limits == sorted(limits)
    assert limits[-1] == 1.0
    assert counts(coherent=38).coherent_share == 0.5


def test_answers_to_the_same_prompts_count_as_few() -> None:
    few = LabelCounts(*(np.full(20, n) for n in (12, 0, 4, 4, 0)))
    assert few.em_rate_at_most(0.025) > 0.16  # 1 - .025^(1/20)
    assert few.em_rate_at_most(0.025, "benchmark") < 0.05


def test_as_many_as_can_clear() -> None:
    n = labels_to_clear(0.05, 0.025, 240)
    assert 80 < n < 90
    limits = [counts(flagged=1, random=m, coherent=9 * m // 10).em_rate_at_most(0.025) for m in (n - 1, n)]
    assert limits[1] <= 0.05 < limits[0]
    assert labels_to_clear(0.2, 0.025, 240) == 60
    assert labels_to_clear(0.001, 0.025, 240) == 240
