"""The tables of one run: entries of `runs` of docs/analysis.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from truing.core.records import Estimate
from truing.results.counted import CountedCheckpoint, SideCounts
from truing.results.run import Figures, number, plain
from truing.stats import (
    clustered_rate,
    clustered_rates_by_category,
    corrected_rate,
    decide,
    missing_bounds,
    overgeneralisation,
    paired_difference,
)

__all__ = ["run_table"]


def run_table(figures: Figures) -> dict[str, Any]:
    """One entry of `runs` of docs/analysis.md."""
    run, source = figures.run, figures.source
    at = dict(zip(figures.steps, figures.em_rates, strict=True))
    chosen = figures.chosen_step
    inside = outside = None
    if run.inside is not None:
        last = run.checkpoints[-1].broad
        inside, outside = overgeneralisation(last.misaligned, last.coherent, run.inside, confidence=source.confidence)
    checkpoints = _checkpoint_tables(figures)
    return {
        "id": run.id,
        "model": run.model,
        "dataset": run.dataset,
        "parameters": number(run.parameters),
        "learning_rate": number(run.learning_rate),
        "seed": run.seed,
        "twin_of": run.twin_of,
        "state": run.state,
        "error": run.error,
        "checkpoints": checkpoints,
        "base_em_rate": figures.base_rate.plain(),
        "convergence_step": figures.convergence_step,
        "onset_step": figures.onset_step,
        "course": _course_table(figures),
        "separable": {k: getattr(figures.separable, v) for k, v in _SEPARABLE.items()},
        "chosen_step": chosen,
        "retention": figures.retention.plain(),
        "confirmed": None if figures.confirmed is None else figures.confirmed.table(),
        "inside": plain(inside),
        "outside": plain(outside),
        "em_at_end": figures.em_rates[-1].plain(),
        "em_at_chosen": at[chosen].plain() if chosen is not None else None,
        "also": [_side_table(figures, side) for side in run.also],
        "search": None if run.search is None else asdict(run.search),
        "stopped_at": run.stopped_at,
        "decision": checkpoints[-1]["decision"],
    }


_SEPARABLE = {"answer": "separable", "step": "step", "reason": "reason"}


def _course_table(figures: Figures) -> dict[str, Any]:
    onset, convergence, course = figures.onset_step, figures.convergence_step, figures.course
    gap = None if onset is None or convergence is None else onset - convergence
    nothing = {"low": None, "high": None}
    if course is None:
        reason = "No checkpoint after step 0 was judged."
        return {
            "onset": nothing,
            "convergence": nothing,
            "gap": {"value": None, **nothing},
            "order": "cannot tell",
            "reason": reason,
        }
    unmeasured = figures.best is None
    return {
        "onset": {"low": course.onset.low, "high": course.onset.high},
        "convergence": {"low": course.convergence.low, "high": course.convergence.high},
        "gap": {"value": gap, "low": number(course.gap_low), "high": number(course.gap_high)},
        "order": course.order,
        "reason": "The task was not measured." if unmeasured else course.reason,
    }


def _side_table(figures: Figures, side: SideCounts) -> dict[str, Any]:
    counts, confidence = side.counts, figures.source.confidence
    missing = int(counts.missing.sum())
    plain_counts = next((c.broad for c in figures.run.checkpoints if c.step == side.step and c.em_rate is None), None)
    difference = None
    if side.is_variant and plain_counts is not None:
        both = (counts.misaligned, counts.coherent, plain_counts.misaligned, plain_counts.coherent)
        difference = paired_difference(*both, confidence=confidence)
    rate = clustered_rate(counts.misaligned, counts.coherent, n_missing=missing, confidence=confidence)
    coherent = clustered_rate(counts.coherent, counts.judged, n_missing=missing, confidence=confidence)
    return {
        "benchmark": side.benchmark,
        "step": side.step,
        "em_rate": rate.plain(),
        "coherent_rate": coherent.plain(),
        "versus_plain": plain(difference),
        "agreement": plain(side.agreement),
    }


def _checkpoint_tables(figures: Figures) -> list[dict[str, Any]]:
    categories = _category_rates(figures)
    return [
        {
            "step": checkpoint.step,
            "weights": checkpoint.weights,
            "em_rate": figures.em_rates[i].plain(),
            "em_rate_if_missing": _bounds(figures, i),
            "em_rate_corrected": plain(_corrected(figures, checkpoint)),
            "versus_base": _versus_base(figures, checkpoint),
            "coherent_rate": figures.coherent_rates[i].plain(),
            "task_score": figures.task_scores[i].plain(),
            "heldout_loss": number(checkpoint.heldout_loss),
            "train_loss": number(checkpoint.train_loss),
            "categories": {name: rates[i].plain() for name, rates in categories.items()},
            **_decision(figures, i),
        }
        for i, checkpoint in enumerate(figures.run.checkpoints)
    ]


def _category_rates(figures: Figures) -> dict[str, list[Estimate]]:
    """EM rates (C,) by category, those of one checkpoint holding together."""
    source, broad = figures.source, [c.broad for c in figures.run.checkpoints]
    x, n, missing = (np.array([getattr(t, f) for t in broad]) for f in ("misaligned", "coherent", "missing"))
    return clustered_rates_by_category(x, n, source.categories, missing=missing, confidence=source.confidence)


def _bounds(figures: Figures, i: int) -> dict[str, Any]:
    """The EM rate if none of the missing responses were misaligned, and if all were coherent and misaligned."""
    broad = figures.run.checkpoints[i].broad
    none = every = figures.em_rates[i]
    if broad.missing.any():
        confidence = figures.source.confidence
        none, every = missing_bounds(broad.misaligned, broad.coherent, broad.missing, confidence=confidence)
    return {"none": none.plain(), "all": every.plain()}


def _corrected(figures: Figures, checkpoint: CountedCheckpoint) -> Estimate | None:
    """The EM rate that a judge without error would have found; None without a calibration."""
    source, broad = figures.source, checkpoint.broad
    if source.calibration is None or checkpoint.em_rate is not None:
        return None
    rng = np.random.default_rng(0)
    return corrected_rate(broad.misaligned, broad.coherent, source.calibration, rng, confidence=source.confidence)


def _versus_base(figures: Figures, checkpoint: CountedCheckpoint) -> dict[str, Any] | None:
    base = figures.base
    if base is None or checkpoint.step == 0 or checkpoint.em_rate is not None:
        return None
    a, b = checkpoint.broad, base.broad
    confidence = figures.source.confidence
    return paired_difference(a.misaligned, a.coherent, b.misaligned, b.coherent, confidence=confidence).plain()


def _decision(figures: Figures, i: int) -> dict[str, str]:
    checkpoint = figures.run.checkpoints[i]
    if checkpoint.decided is None:
        base = None if figures.base is None else figures.base_rate
        now = decide(checkpoint.step, figures.em_rates[i], base, figures.source.tolerance)
        return {"decision": str(now.action), "reason": now.reason}
    return {"decision": checkpoint.decided[0], "reason": checkpoint.decided[1]}
