"""Choice of a checkpoint and of a learning rate, and the test that what was taught comes apart from the rest.

The best of many looks better than it is (the winner's curse), so what is reported of the chosen checkpoint comes from
prompts that had no part in choosing it. A learning rate's EM-free task score is the task score of the checkpoint that
its runs keep (EM within the tolerance). Narrow behaviour is the dataset's own task; broad behaviour is everything else
(EM, untruthfulness). They are separable in a run when some checkpoint has the task learnt and the rest clean.

Shapes: C checkpoints, P benchmark prompts, Q held-out prompts of the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from truing.config import StoppingConfig
from truing.core.errors import plural
from truing.core.records import Action, Estimate
from truing.stats.course import RunCounts, check_steps
from truing.stats.paired import paired_quotient
from truing.stats.rates import (
    BoolArray,
    FloatArray,
    IntArray,
    binomial_interval,
    checked_level,
    clustered_rate,
    clustered_rates,
    undefined,
)
from truing.stats.seeds import mean_over_seeds

__all__ = [
    "Choice",
    "LearningRateChoice",
    "Separability",
    "choose_learning_rate",
    "choose_with_report",
    "keepable",
    "overgeneralisation",
    "separability",
    "share_of_runs",
    "split_prompts",
]

DRAWS = 20_000
"""Samples of the learning rates' means."""


@dataclass(frozen=True)
class Choice:
    """A chosen checkpoint with estimates from prompts not used in choosing."""

    step: int | None
    """None if no checkpoint passes."""
    passing: tuple[int, ...]
    """Steps that pass both constraints."""
    em_rate: Estimate | None
    """Of the chosen checkpoint, on the other prompts."""
    task_score: Estimate | None
    """Of the chosen checkpoint, on the other prompts."""
    retention: Estimate | None
    """Its task score over that of the best checkpoint; both on the other prompts, the best found on the choosing
    ones."""
    reason: str


def keepable(
    steps: Sequence[int],
    actions: Sequence[Action],
    scores: Sequence[float],
    stopping: StoppingConfig,
    onset: int | None = None,
) -> list[int]:
    """Steps of the checkpoints that a run may keep, the one with the best task score first.

    Those that were decided to be clear; by default only before the onset and before any stop: what comes after it may
    be within the tolerance by chance, and a checkpoint before it costs little.

    Args:
        steps: (C,) ascending; on equal scores the earliest comes first.
        actions: (C,) what was decided of each.
        scores: (C,) task scores, higher is better; NaN is missing and is never kept.
        stopping: The lowest task score, and whether checkpoints after the onset may be kept.
        onset: First step that is shown to be above the base; None: there is none.
    """
    check_steps(steps, actions)
    check_steps(steps, scores)
    end = math.inf
    if stopping.choose == "before-onset":
        stops = (step for step, action in zip(steps, actions, strict=True) if action is Action.STOP)
        end = min([*stops, math.inf if onset is None else onset], default=math.inf)
    passing = [
        (-score, step)
        for step, action, score in zip(steps, actions, scores, strict=True)
        if action is Action.CONTINUE and step < end and math.isfinite(score) and score >= stopping.floor
    ]
    return [step for _, step in sorted(passing)]


def choose_with_report(
    counts: RunCounts,
    rng: np.random.Generator,
    *,
    tolerance: float,
    floor: float = -math.inf,
    confidence: float = 0.95,
) -> Choice:
    """Choose on one half of the prompts, report from the other.

    Prompts are split, not responses: two responses to one prompt are alike, so they are no independent witnesses.

    Args:
        counts: The run.
        rng: Splits the prompts.
        tolerance: Highest acceptable EM rate (by its upper limit), in (0, 1).
        floor: Lowest acceptable task score.
        confidence: Level of each interval, in (0, 1).
    """
    broad, task = (
        split_prompts(counts.misaligned.shape[1], rng),
        split_prompts(counts.task_hits.shape[1], rng),
    )
    em_rates = clustered_rates(counts.misaligned[:, broad], counts.coherent[:, broad], confidence=confidence)
    estimates = clustered_rates(counts.task_hits[:, task], counts.task_judged[:, task], confidence=confidence)
    scores = [estimate.value for estimate in estimates]
    order = sorted(
        (-value, step)
        for step, rate, value in zip(counts.steps, em_rates, scores, strict=True)
        if rate.high <= tolerance and math.isfinite(value) and value >= floor
    )
    step = order[0][1] if order else None
    passing = tuple(sorted(step for _, step in order))
    if step is None:
        return Choice(None, passing, None, None, None, "No checkpoint passes both constraints.")
    chosen, best = counts.steps.index(step), int(np.nanargmax(scores))
    bad, usable = counts.misaligned[:, ~broad], counts.coherent[:, ~broad]
    hits, judged = counts.task_hits[:, ~task], counts.task_judged[:, ~task]
    return Choice(
        step,
        passing,
        clustered_rate(bad[chosen], usable[chosen], confidence=confidence),
        clustered_rate(hits[chosen], judged[chosen], confidence=confidence),
        paired_quotient(hits[chosen], judged[chosen], hits[best], judged[best], confidence=confidence),
        f"{len(passing)} of {plural(len(counts.steps), 'checkpoint')} pass; step {step} has the best task score.",
    )


def split_prompts(n_prompts: int, rng: np.random.Generator) -> BoolArray:
    """A random half (P,) of the prompts: true for choosing, false for reporting."""
    return np.asarray(rng.permutation(n_prompts) < (n_prompts + 1) // 2)


@dataclass(frozen=True)
class LearningRateChoice:
    """A recommended learning rate and how sure it is."""

    recommended: float | None
    """None if no learning rate has a known score."""
    scores: dict[float, Estimate]
    """EM-free task score by learning rate: mean over seeds."""
    em_rates: dict[float, float]
    """Mean EM rate by learning rate at the end of training, in [0, 1]."""
    pareto: tuple[float, ...]
    """Learning rates that no other beats in EM-free task score without having more EM."""
    probability_best: dict[float, float]
    """Probability of having the highest EM-free task score, in [0, 1], by learning rate."""
    rivals: tuple[float, ...]
    """Learning rates that may be the best as well: a probability of at least 1 - confidence."""
    reason: str


def choose_learning_rate(
    scores: Mapping[float, Sequence[float]],
    em_rates: Mapping[float, Sequence[float]],
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
) -> LearningRateChoice:
    """Recommend the learning rate with the highest EM-free task score over seeds.

    Probability of being best: with independent normal scores of one common variance and no prior knowledge, the true
    means given the data are the observed ones plus s / sqrt(S) times a t with the pooled degrees of freedom (Box & Tiao
    1973, Bayesian Inference in Statistical Analysis, chapter 2). The variance is pooled over learning rates because
    each has few seeds. With one seed each there is no variance and all learning rates are rivals.

    Args:
        scores: By learning rate, the EM-free task score of each seed, in [0, 1]; NaN where no checkpoint passes and no
            base score was put in its place.
        em_rates: By learning rate, the EM rate of each seed at the end of training, in [0, 1].
        rng: For the probabilities.
        confidence: Level of intervals and of the rivals, in (0, 1).
    """
    estimates = {
        rate: mean_over_seeds(values, bounds=(0.0, 1.0), confidence=confidence) for rate, values in scores.items()
    }
    ends = {rate: float(np.nanmean(values)) if _known(values) else math.nan for rate, values in em_rates.items()}
    usable = sorted(rate for rate, estimate in estimates.items() if math.isfinite(estimate.value))
    if not usable:
        return LearningRateChoice(None, estimates, ends, (), {}, (), "No learning rate has a known EM-free task score.")
    means = {rate: estimates[rate].value for rate in usable}
    best = max(usable, key=lambda rate: (means[rate], -rate))
    samples = [np.array([v for v in scores[rate] if math.isfinite(v)]) for rate in usable]
    chances = _probabilities(samples, rng)
    if chances is None:
        rivals, probability = tuple(r for r in usable if r != best), dict.fromkeys(usable, math.nan)
        reason = f"{best:g} has the highest score; one seed each tells nothing of its certainty."
    else:
        probability = dict(zip(usable, chances.tolist(), strict=True))
        rivals = tuple(r for r in usable if r != best and probability[r] >= 1 - confidence)
        reason = f"{best:g} has the highest score and is the best with probability {probability[best]:.0%}."
    return LearningRateChoice(best, estimates, ends, _pareto(means, ends), probability, rivals, reason)


def _probabilities(samples: Sequence[FloatArray], rng: np.random.Generator) -> FloatArray | None:
    """(L,) probability of the highest mean; None without any degree of freedom."""
    freedom = sum(s.size - 1 for s in samples)
    if freedom < 1:
        return None
    pooled = math.sqrt(sum(float(((s - s.mean()) ** 2).sum()) for s in samples) / freedom)
    centres = np.array([s.mean() for s in samples])
    errors = pooled / np.sqrt([s.size for s in samples])
    # one common variance: every draw has one chi-square for all learning rates
    scale = np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1)))
    drawn = centres + errors * rng.standard_normal((DRAWS, len(samples))) * scale
    winners = drawn.argmax(axis=1)
    return np.asarray(np.bincount(winners, minlength=len(samples)) / DRAWS)


def _pareto(scores: Mapping[float, float], em_rates: Mapping[float, float]) -> tuple[float, ...]:
    """Learning rates not dominated: no other is at least as good in both and better in one."""
    points = {rate: (score, -em_rates.get(rate, math.nan)) for rate, score in scores.items()}
    points = {rate: point for rate, point in points.items() if not math.isnan(point[1])}

    def dominated(rate: float) -> bool:
        mine = points[rate]
        return any(p != mine and p[0] >= mine[0] and p[1] >= mine[1] for p in points.values())

    return tuple(sorted(rate for rate in points if not dominated(rate)))


def _known(values: Sequence[float]) -> bool:
    return any(math.isfinite(value) for value in values)


@dataclass(frozen=True)
class Separability:
    """The answer to: has a run a checkpoint with the task learnt and the rest clean?"""

    separable: Literal["yes", "no", "cannot tell"]
    step: int | None
    """The shown checkpoint with the best task score; None unless `yes`."""
    reason: str


def overgeneralisation(
    successes: IntArray, trials: IntArray, inside: BoolArray, *, confidence: float = 0.95
) -> tuple[Estimate, Estimate]:
    """The rate inside and outside the domain that was trained, with simultaneous intervals.

    The prompts are disjoint, so both hold together at the level when each is made at its square root (Sidak 1967).

    Args:
        successes: (P,) misaligned (or untruthful) responses per prompt.
        trials: (P,) usable responses per prompt.
        inside: (P,) whether the prompt belongs to the trained domain.
        confidence: Level at which both intervals hold together, in (0, 1).

    Returns:
        Inside, outside; in [0, 1], higher is worse.
    """
    level = math.sqrt(checked_level(confidence))
    x, n, mask = np.asarray(successes), np.asarray(trials), np.asarray(inside, dtype=bool)
    return (
        clustered_rate(x[mask], n[mask], confidence=level),
        clustered_rate(x[~mask], n[~mask], confidence=level),
    )


def separability(
    steps: Sequence[int],
    scores: Sequence[Estimate],
    broad: Sequence[Estimate],
    *,
    floor: float,
    tolerance: float,
) -> Separability:
    """Tell if narrow and broad behaviour come apart at some checkpoint of a run.

    Yes: a checkpoint's task score is at least the floor by its lower limit and its broad rate at most the tolerance by
    its upper one. No: every checkpoint fails one of the two by the other limit. Otherwise the data cannot tell. For a
    claim over all checkpoints at once the intervals must be simultaneous (confidence 1 - alpha / C).

    Args:
        steps: (C,) ascending.
        scores: (C,) task scores, higher is better.
        broad: (C,) EM or untruthfulness rates, higher is worse.
        floor: Task score that counts as learnt.
        tolerance: Highest broad rate that counts as clean.
    """
    rows = list(zip(steps, scores, broad, strict=True))
    shown = [(s.value, -step) for step, s, b in rows if s.low >= floor and b.high <= tolerance]
    if shown:
        step = -max(shown)[1]
        return Separability("yes", step, f"At step {step} the task is learnt and the rest clean.")
    if rows and all(s.high < floor or b.low > tolerance for _, s, b in rows):
        return Separability("no", None, "At every checkpoint the task is not learnt or the rest is not clean.")
    return Separability("cannot tell", None, "No checkpoint is shown to separate them, but not all are excluded.")


def share_of_runs(verdicts: Sequence[Literal["yes", "no", "cannot tell"]], *, confidence: float = 0.95) -> Estimate:
    """The share of runs with the answer yes, among those that can tell; Clopper-Pearson, runs as independent.

    Args:
        verdicts: (runs,) the answer of each.
        confidence: Two-sided level, in (0, 1).

    Returns:
        In [0, 1]; `n_responses` is the number of runs that can tell, `n_missing` of those that cannot.
    """
    level, method = checked_level(confidence), "share of runs; Clopper-Pearson over runs"
    yes, no = verdicts.count("yes"), verdicts.count("no")
    if not yes + no:
        return undefined(method, "no run can tell", len(verdicts))
    low, high = binomial_interval(yes / (yes + no), yes + no, level)
    return Estimate(yes / (yes + no), float(low), float(high), 0, yes + no, len(verdicts) - yes - no, method)
