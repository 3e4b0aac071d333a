"""The sequential detector: its guarantees, its budget, its state."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.stats.rates import FloatArray, IntArray
from truing.stats.sequential import CLEAR, MISALIGNED, RUNNING, UNDECIDED, DetectorSettings, DetectorState

DEFAULT = DetectorSettings()


def replace(settings: DetectorSettings, **changes: float | None) -> DetectorSettings:
    return settings.model_copy(update=changes)


def watch(
    rates: FloatArray, runs: int, chosen: DetectorSettings = DEFAULT, seed: int = 0, base: int = 0
) -> tuple[IntArray, IntArray]:
    """Verdicts (runs, K), 0 after a stop, and responses spent (runs, K)."""
    rng, state = np.random.default_rng(seed), DetectorState.new(chosen, runs)
    if chosen.margin is not None:
        state.observe_base(rng.binomial(base, rates[0], runs), np.full(runs, base))
    verdicts, spent = np.zeros((2, runs, len(rates)), dtype=np.int64)
    active = np.ones(runs, dtype=bool)
    for k, rate in enumerate(rates):
        state.begin(active)
        while (wanted := state.wanted()).any():
            state.observe(rng.binomial(wanted, rate), wanted, wanted)
        verdicts[:, k], spent[:, k] = np.where(active, state.verdict, 0), np.where(active, state.spent, 0)
        active &= state.verdict != MISALIGNED
    return verdicts, spent


@pytest.mark.parametrize(("rate", "checkpoints"), [(0.05, 5), (0.05, 25), (0.03, 12)])
def test_few_runs_that_never_exceed_the_tolerance_are_stopped(rate: float, checkpoints: int) -> None:
    verdicts, _ = watch(np.full(checkpoints, rate), 700)
    assert (verdicts == MISALIGNED).any(axis=1).mean() <= 0.05


def test_the_bound_holds_with_an_unlimited_budget() -> None:
    rich = replace(DEFAULT, cap=3000, allowance=3000)
    verdicts, _ = watch(np.full(12, 0.05), 600, rich)
    assert (verdicts == MISALIGNED).any(axis=1).mean() <= 0.05
    assert (verdicts == CLEAR).mean() <= 0.05


def test_few_misaligned_checkpoints_are_called_clear() -> None:
    verdicts, _ = watch(np.full(10, 0.0501), 1500)
    assert (verdicts == CLEAR).sum() / (verdicts > 0).sum() <= 0.05


def test_clean_checkpoints_cost_little_and_are_cleared() -> None:
    verdicts, spent = watch(np.full(20, 0.005), 500)
    assert (verdicts == CLEAR).mean() > 0.99
    assert spent.sum(axis=1).mean() < 20 * 240 * 20 / 20


def test_a_plain_onset_stops_at_once() -> None:
    verdicts, spent = watch(np.repeat([0.005, 0.3], 8), 300)
    assert (verdicts[:, 8] == MISALIGNED).mean() > 0.97
    assert spent[:, 8].mean() < 100


def test_evidence_adds_up_over_weakly_misaligned_checkpoints() -> None:
    verdicts, _ = watch(np.concatenate([np.full(5, 0.005), np.full(12, 0.09)]), 300)
    assert (verdicts == MISALIGNED).any(axis=1).mean() > 0.95


def test_a_budget_never_becomes_a_guess() -> None:
    poor = replace(DEFAULT, allowance=20, credit=0)
    verdicts, spent = watch(np.full(10, 0.005), 100, poor)
    assert (verdicts == CLEAR).mean() < 0.3
    assert set(np.unique(verdicts)) <= {CLEAR, UNDECIDED}
    assert (spent.cumsum(axis=1) <= 20 * np.arange(1, 11)).all()


def test_nothing_to_spend_is_undecided() -> None:
    verdicts, spent = watch(np.full(2, 0.5), 3, replace(DEFAULT, allowance=0, credit=0))
    assert (verdicts == UNDECIDED).all()
    assert spent.sum() == 0


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_against_the_base_few_are_stopped_at_its_own_rate(margin: float) -> None:
    compared = replace(DEFAULT, margin=margin)
    rates = np.concatenate([[0.02], np.full(6, 0.02 + margin)])
    verdicts, _ = watch(rates, 150, compared, base=300)
    assert (verdicts == MISALIGNED).any(axis=1).mean() <= 0.05
    assert (verdicts[:, 1:] == CLEAR).mean(axis=0).max() <= 0.06


def test_against_the_base_a_rise_is_found_and_calm_is_cleared() -> None:
    compared = replace(DEFAULT, margin=0.05)
    verdicts, _ = watch(np.concatenate([np.full(4, 0.01), np.full(4, 0.35)]), 60, compared, base=480)
    assert (verdicts[:, 4] == MISALIGNED).mean() > 0.9
    assert (verdicts[:, :4] == CLEAR).mean() > 0.8


@settings(max_examples=6)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([None, 0.02]))
def test_a_saved_state_goes_on_as_if_nothing_had_happened(seed: int, pause: int, margin: float | None) -> None:
    rng = np.random.default_rng(seed)
    state = DetectorState.new(replace(DEFAULT, margin=margin), 2)
    state.observe_base(np.array([1, 2]), np.array([100, 120]))
    state.begin()
    for look in range(40):
        if look == pause:
            state = DetectorState.from_dict(json.loads(json.dumps(state.to_dict())))
            other = DetectorState.from_dict(json.loads(json.dumps(state.to_dict())))
        wanted = state.wanted()
        bad = rng.binomial(wanted, 0.1)
        state.observe(bad, wanted, wanted)
        if look >= pause:
            other.observe(bad, wanted, wanted)
    assert other.to_dict() == state.to_dict()


def test_a_checkpoint_needs_its_verdict_before_the_next() -> None:
    state = DetectorState.new(DEFAULT)
    state.begin()
    assert state.verdict[0] == RUNNING
    with pytest.raises(ValueError, match="no verdict yet"):
        state.begin()


@pytest.mark.parametrize(
    "wrong",
    [{"tolerance": 0.0}, {"alpha": 1.0}, {"beta": 0.0}, {"batch": 0}, {"suspicion": 0.5}, {"margin": -0.1}],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Input should be"):
        DetectorSettings(**wrong)  # type: ignore[arg-type]
