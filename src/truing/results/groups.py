"""Several runs together: what seeds, learning rates, sizes and domains say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from truing.core.records import Estimate
from truing.results.run import Figures, number
from truing.stats import (
    Correlation,
    SeedVerdict,
    choose_learning_rate,
    correlate_sizes,
    judge_seeds,
    mean_over_seeds,
    rate_over_seeds,
    share_of_runs,
)

__all__ = ["domain_tables", "learning_rate_tables", "seed_tables", "size_tables"]

_FEWEST_MODELS = 3


def seed_tables(runs: Sequence[Figures]) -> list[dict[str, Any]]:
    """The table `seeds` of docs/analysis.md."""
    return [_seeds(group) for group in _grouped(runs, "model", "dataset", "learning_rate")]


def learning_rate_tables(runs: Sequence[Figures]) -> list[dict[str, Any]]:
    """The table `learning_rates` of docs/analysis.md."""
    tables = []
    for group in _grouped(runs, "model", "dataset"):
        rates = sorted({f.run.learning_rate for f in group if math.isfinite(f.run.learning_rate)})
        if len(rates) > 1:
            tables.append(_learning_rates(group, rates))
    return tables


def size_tables(runs: Sequence[Figures]) -> list[dict[str, Any]]:
    """The table `sizes` of docs/analysis.md."""
    known = [f for f in runs if math.isfinite(f.run.parameters) and math.isfinite(_end(f))]
    tables = []
    for group in _grouped(known, "dataset"):
        models = list(dict.fromkeys(f.run.model for f in group))
        if len({f.run.parameters for f in group}) >= _FEWEST_MODELS:
            tables.append(_sizes(group, models))
    return tables


def domain_tables(runs: Sequence[Figures]) -> list[dict[str, Any]]:
    """The table `domains` of docs/analysis.md."""
    return [
        {
            "model": group[0].run.model,
            "dataset": group[0].run.dataset,
            "separable": share_of_runs(
                [f.separable.separable for f in group], confidence=group[0].source.confidence
            ).plain(),
        }
        for group in _grouped(runs, "model", "dataset")
    ]


def _seeds(group: list[Figures]) -> dict[str, Any]:
    confidence, ids = group[0].source.confidence, [f.run.id for f in group]
    ends = [f.whole.run.checkpoints[-1].broad for f in group]
    misaligned, coherent = (np.array([getattr(e, name) for e in ends]) for name in ("misaligned", "coherent"))
    verdict = _verdict(group, misaligned, coherent)
    gaps = [_gap(f) for f in group]
    kept = [_kept(f).value for f in group]
    return {
        "model": group[0].run.model,
        "dataset": group[0].run.dataset,
        "learning_rate": number(group[0].run.learning_rate),
        "runs": ids,
        "em_rate": rate_over_seeds(misaligned, coherent, confidence=confidence).plain(),
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "above": [ids[i] for i in verdict.above],
        "clean": [ids[i] for i in verdict.clean],
        "needed": number(verdict.needed),
        "versus_base": [d.plain() for d in verdict.differences]
        or [Estimate.unknown(verdict.reason).plain() for _ in ids],
        "onset": share_of_runs([f.has_onset for f in group], confidence=confidence).plain(),
        "gap": mean_over_seeds(gaps, confidence=confidence).plain(),
        "retention": mean_over_seeds(kept, bounds=(0.0, math.inf), confidence=confidence).plain(),
    }


def _verdict(group: list[Figures], misaligned: Any, coherent: Any) -> SeedVerdict:
    """At the last checkpoint of each run; without a base nothing can be said."""
    source = group[0].source
    if any(f.base is None for f in group):
        return SeedVerdict("undecided", (), (), (), math.inf, "The model before fine-tuning was not judged.")
    if any(f.whole.run.checkpoints[-1].em_rate is not None for f in group):
        return _sequential_verdict(group)
    base = group[0].base
    assert base is not None  # just checked
    return judge_seeds(
        misaligned,
        coherent,
        (base.broad.misaligned, base.broad.coherent),
        margin=source.tolerance,
        confidence=source.confidence,
    )


def _sequential_verdict(group: list[Figures]) -> SeedVerdict:
    """From the limits of the last looks, which hold at any time; no family-wise level is claimed."""
    tolerance, ends = group[0].source.tolerance, [f.whole.em_rates[-1] for f in group]
    above = tuple(i for i, e in enumerate(ends) if e.low > max(group[i].base_rate.high, tolerance))
    clean = tuple(i for i, e in enumerate(ends) if e.high <= tolerance)
    found = f"{len(above)} above the tolerance, {len(clean)} below it, {len(group) - len(above) - len(clean)} open"
    reason = f"Of {len(group)} seeds {found}, by the limits of each run's last look."
    open_ones = len(above) + len(clean) < len(group)
    if above and clean:
        return SeedVerdict("inconsistent", above, clean, (), math.inf if open_ones else 1.0, reason)
    if open_ones:
        return SeedVerdict("undecided", above, clean, (), math.inf, reason)
    return SeedVerdict("consistent" if above else "none", above, clean, (), 1.0, reason)


def _learning_rates(group: list[Figures], rates: list[float]) -> dict[str, Any]:
    by_rate = {rate: [f for f in group if f.run.learning_rate == rate] for rate in rates}
    scores = {rate: [_aligned_score(f) for f in fs] for rate, fs in by_rate.items()}
    ends = {rate: [_end(f) for f in fs] for rate, fs in by_rate.items()}
    choice = choose_learning_rate(scores, ends, np.random.default_rng(0), confidence=group[0].source.confidence)
    return {
        "model": group[0].run.model,
        "dataset": group[0].run.dataset,
        "options": [
            {
                "learning_rate": rate,
                "score": choice.scores[rate].plain(),
                "em_rate": number(choice.em_rates[rate]),
                "probability_best": number(choice.probability_best.get(rate)),
                "pareto": rate in choice.pareto,
                "rival": rate in choice.rivals,
            }
            for rate in rates
        ],
        "recommended": choice.recommended,
        "reason": choice.reason,
    }


def _sizes(group: list[Figures], models: list[str]) -> dict[str, Any]:
    parameters = [next(f.run.parameters for f in group if f.run.model == model) for model in models]
    rates = [_mean([_end(f) for f in group if f.run.model == model]) for model in models]
    pearson, spearman = correlate_sizes(
        parameters, rates, np.random.default_rng(0), confidence=group[0].source.confidence
    )
    return {
        "dataset": group[0].run.dataset,
        "models": [
            {"model": model, "parameters": size, "em_rate": number(rate)}
            for model, size, rate in zip(models, parameters, rates, strict=True)
        ],
        "pearson": _correlation_table(pearson, models),
        "spearman": _correlation_table(spearman, models),
    }


def _correlation_table(found: Correlation, models: list[str]) -> dict[str, Any]:
    return {
        "value": number(found.value),
        "low": number(found.low),
        "high": number(found.high),
        "p": number(found.p),
        "n": found.n,
        "without": [number(value) for value in found.without],
        "carried_by": [models[i] for i in found.carried_by],
        "method": found.method,
        "reason": found.reason,
    }


def _aligned_score(figures: Figures) -> float:
    """Task score of the checkpoint that a run keeps; that of the base where it keeps none."""
    kept = figures.confirmed
    if kept is not None and kept.step == figures.chosen_step and kept.task_score is not None:
        return kept.task_score.value
    scores = dict(zip(figures.steps, figures.task_scores, strict=True))
    step = 0 if figures.chosen_step is None else figures.chosen_step
    return scores[step].value if step in scores else math.nan


def _kept(figures: Figures) -> Estimate:
    """Retention, from responses that had no part in choosing where there are such."""
    kept = figures.confirmed
    if kept is None or kept.step != figures.chosen_step or kept.retention is None:
        return figures.retention
    return kept.retention


def _gap(figures: Figures) -> float:
    if figures.onset_step is None or figures.convergence_step is None:
        return math.nan
    return float(figures.onset_step - figures.convergence_step)


def _end(figures: Figures) -> float:
    """EM rate at the last checkpoint of the course."""
    return figures.whole.em_rates[-1].value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _grouped(runs: Sequence[Figures], *fields: str) -> list[list[Figures]]:
    """Runs that agree in these fields, in the order of first appearance."""
    groups: dict[tuple[Any, ...], list[Figures]] = {}
    for figures in runs:
        key = tuple(str(getattr(figures.run, field)) for field in fields)
        groups.setdefault(key, []).append(figures)
    return list(groups.values())
