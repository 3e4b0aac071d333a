"""Several runs together: what seeds, learning rates, sizes and domains say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from truing.core.errors import plural
from truing.core.records import Estimate
from truing.results import schema
from truing.results.run import RunFigures
from truing.stats.choice import choose_learning_rate, share_of_runs
from truing.stats.correlation import Correlation, correlate_sizes
from truing.stats.seeds import SeedVerdict, judge_seeds, mean_over_seeds, rate_over_seeds

_FEWEST_MODELS = 3


def seed_entries(runs: Sequence[RunFigures]) -> list[schema.SeedsEntry]:
    """Seeds of each model, dataset and learning rate."""
    return [_seeds(group) for group in _grouped(runs, "model", "dataset", "learning_rate")]


def learning_rate_entries(runs: Sequence[RunFigures]) -> list[schema.LearningRatesEntry]:
    """Learning rates of each model and dataset that has several."""
    entries = []
    for group in _grouped(runs, "model", "dataset"):
        rates = sorted({f.run.learning_rate for f in group if math.isfinite(f.run.learning_rate)})
        if len(rates) > 1:
            entries.append(_learning_rates(group, rates))
    return entries


def size_entries(runs: Sequence[RunFigures]) -> list[schema.SizesEntry]:
    """Sizes against EM on each dataset with at least three models of known size."""
    known = [f for f in runs if math.isfinite(f.run.parameters) and math.isfinite(_end(f))]
    return [
        _sizes(group, list(dict.fromkeys(f.run.model for f in group)))
        for group in _grouped(known, "dataset")
        if len({f.run.parameters for f in group}) >= _FEWEST_MODELS
    ]


def domain_entries(runs: Sequence[RunFigures]) -> list[schema.DomainEntry]:
    """Separable runs of each model and dataset."""
    return [
        schema.DomainEntry(
            model=group[0].run.model,
            dataset=group[0].run.dataset,
            separable=share_of_runs([f.separable.separable for f in group], confidence=group[0].source.confidence),
        )
        for group in _grouped(runs, "model", "dataset")
    ]


def _seeds(group: list[RunFigures]) -> schema.SeedsEntry:
    first, confidence, ids = group[0].run, group[0].source.confidence, [f.run.id for f in group]
    ends = [f.whole.run.checkpoints[-1].broad for f in group]
    misaligned, coherent = (np.array([getattr(e, name) for e in ends]) for name in ("misaligned", "coherent"))
    verdict = _verdict(group, misaligned, coherent)
    kept = [_kept(f).value for f in group]
    return schema.SeedsEntry(
        model=first.model,
        dataset=first.dataset,
        learning_rate=first.learning_rate,
        runs=ids,
        em_rate=rate_over_seeds(misaligned, coherent, confidence=confidence),
        verdict=verdict.verdict,
        reason=verdict.reason,
        above=[ids[i] for i in verdict.above],
        clean=[ids[i] for i in verdict.clean],
        needed=verdict.needed,
        versus_base=list(verdict.differences) or [Estimate.unknown(verdict.reason) for _ in ids],
        onset=share_of_runs([f.has_onset for f in group], confidence=confidence),
        gap=mean_over_seeds([_gap(f) for f in group], confidence=confidence),
        retention=mean_over_seeds(kept, bounds=(0.0, math.inf), confidence=confidence),
    )


def _verdict(group: list[RunFigures], misaligned: Any, coherent: Any) -> SeedVerdict:
    """At the last checkpoint of each run; clean is none that has not ended, nor any by a judge that cannot tell."""
    found, doubt = _verdict_so_far(group, misaligned, coherent), group[0].source.limits.doubt
    begun = [i for i, f in enumerate(group) if f.whole.run.state in ("failed", "unfinished")]
    clean = () if doubt else tuple(i for i in found.clean if i not in begun)
    if clean == found.clean:
        return found
    why = doubt or f"{plural(len(begun), 'run has', 'runs have')} not ended, so this is not the end of it"
    verdict: Literal["inconsistent", "undecided"] = "inconsistent" if found.above and clean else "undecided"
    return replace(found, verdict=verdict, clean=clean, needed=math.inf, reason=f"{found.reason} But {why}.")


def _verdict_so_far(group: list[RunFigures], misaligned: Any, coherent: Any) -> SeedVerdict:
    """At the last checkpoint evaluated of each run; without a base nothing can be said."""
    source = group[0].source
    if any(f.base is None for f in group):
        return SeedVerdict("undecided", (), (), (), math.inf, "The model before fine-tuning was not judged.")
    if any(f.whole.run.checkpoints[-1].em_rate is not None for f in group):
        return _verdict_of_looks(group)
    base, limits = group[0].base, source.limits
    assert base is not None  # just checked
    return judge_seeds(
        misaligned,
        coherent,
        (base.broad.misaligned, base.broad.coherent),
        margin=source.tolerance * max(limits.sensitivity - limits.false_alarms, 0.0),  # of a difference as judged
        confidence=source.confidence,
    )


def _verdict_of_looks(group: list[RunFigures]) -> SeedVerdict:
    """From the limits of the last looks, which hold at any time; no family-wise level is claimed."""
    source, ends = group[0].source, [f.whole.em_rates[-1] for f in group]
    tolerance, within = source.tolerance, source.limits.clear_below(source.tolerance)
    above = tuple(i for i, e in enumerate(ends) if e.low > max(group[i].base_rate.high, tolerance))
    clean = tuple(i for i, e in enumerate(ends) if e.high <= within)
    found = f"{len(above)} above the tolerance, {len(clean)} below it, {len(group) - len(above) - len(clean)} open"
    reason = f"Of {plural(len(group), 'seed')} {found}, by the limits of each run's last look."
    open_ones = len(above) + len(clean) < len(group)
    if above and clean:
        return SeedVerdict("inconsistent", above, clean, (), math.inf if open_ones else 1.0, reason)
    if open_ones:
        return SeedVerdict("undecided", above, clean, (), math.inf, reason)
    return SeedVerdict("consistent" if above else "none", above, clean, (), 1.0, reason)


def _learning_rates(group: list[RunFigures], rates: list[float]) -> schema.LearningRatesEntry:
    by_rate = {rate: [f for f in group if f.run.learning_rate == rate] for rate in rates}
    scores = {rate: [_kept_task_score(f) for f in fs] for rate, fs in by_rate.items()}
    ends = {rate: [_end(f) for f in fs] for rate, fs in by_rate.items()}
    choice = choose_learning_rate(scores, ends, np.random.default_rng(0), confidence=group[0].source.confidence)
    return schema.LearningRatesEntry(
        model=group[0].run.model,
        dataset=group[0].run.dataset,
        options=[
            schema.OptionEntry(
                learning_rate=rate,
                score=choice.scores[rate],
                em_rate=choice.em_rates[rate],
                probability_best=choice.probability_best.get(rate, math.nan),
                pareto=rate in choice.pareto,
                rival=rate in choice.rivals,
            )
            for rate in rates
        ],
        recommended=math.nan if choice.recommended is None else choice.recommended,
        reason=choice.reason,
    )


def _sizes(group: list[RunFigures], models: list[str]) -> schema.SizesEntry:
    parameters = [next(f.run.parameters for f in group if f.run.model == model) for model in models]
    rates = [_mean([_end(f) for f in group if f.run.model == model]) for model in models]
    rng, confidence = np.random.default_rng(0), group[0].source.confidence
    pearson, spearman = correlate_sizes(parameters, rates, rng, confidence=confidence)
    return schema.SizesEntry(
        dataset=group[0].run.dataset,
        models=[
            schema.SizeModel(model=model, parameters=size, em_rate=rate)
            for model, size, rate in zip(models, parameters, rates, strict=True)
        ],
        pearson=_correlation_entry(pearson, models),
        spearman=_correlation_entry(spearman, models),
    )


def _correlation_entry(found: Correlation, models: list[str]) -> schema.CorrelationEntry:
    plain = {name: getattr(found, name) for name in ("value", "low", "high", "p", "n", "method", "reason")}
    carried_by = [models[i] for i in found.carried_by]
    return schema.CorrelationEntry(**plain, without=list(found.without), carried_by=carried_by)


def _kept_task_score(figures: RunFigures) -> float:
    """Task score of the checkpoint that a run keeps; that of the base where it keeps none."""
    kept = figures.confirmed
    if kept is not None and kept.step == figures.chosen_step and kept.task_score is not None:
        return kept.task_score.value
    scores = dict(zip(figures.steps, figures.task_scores, strict=True))
    step = 0 if figures.chosen_step is None else figures.chosen_step
    return scores[step].value if step in scores else math.nan


def _kept(figures: RunFigures) -> Estimate:
    """Retention, from responses that had no part in choosing where there are such."""
    kept = figures.confirmed
    if kept is None or kept.step != figures.chosen_step or kept.retention is None:
        return figures.retention
    return kept.retention


def _gap(figures: RunFigures) -> float:
    onset, convergence = figures.onset.step, figures.course.convergence.step
    return math.nan if onset is None or convergence is None else float(onset - convergence)


def _end(figures: RunFigures) -> float:
    """EM rate at the last checkpoint of the course."""
    return figures.whole.em_rates[-1].value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _grouped(runs: Sequence[RunFigures], *fields: str) -> list[list[RunFigures]]:
    """Runs that agree in these fields, in the order of first appearance."""
    groups: dict[tuple[Any, ...], list[RunFigures]] = {}
    for figures in runs:
        key = tuple(str(getattr(figures.run, field)) for field in fields)
        groups.setdefault(key, []).append(figures)
    return list(groups.values())
