"""From counted runs to an `Analysis`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from truing import __version__
from truing.core.errors import DataError, plural
from truing.core.records import Estimate
from truing.results import schema_runs
from truing.results.counted import CountedCheckpoint, CountedRun, OwnLabels, SideCounts, Source
from truing.results.groups import domain_entries, learning_rate_entries, seed_entries, size_entries
from truing.results.run import RunFigures
from truing.results.schema import Analysis
from truing.results.thresholds import threshold_fields
from truing.stats.agreement import JudgeLimits, corrected_rate
from truing.stats.choice import overgeneralisation
from truing.stats.clearance import LEAST_COHERENT, Clearance
from truing.stats.course import step_difference
from truing.stats.paired import paired_difference
from truing.stats.rates import Counts, benchmark_rate, clustered_rates_by_category, missing_bounds

_AS_COUNTED: tuple[str, ...] = ("id", "model", "dataset", "parameters", "learning_rate", "seed", "twin_of", "state")
_AS_COUNTED += ("error", "search", "stopped_at", "restored", "ended_with", "unjudged")
"""Fields of a run that are the same in the analysis."""
_FEW = 10
"""Prompts below which a task's figures are no more than a guess."""


def tabulate(source: Source) -> Analysis:
    """The whole analysis of counted runs.

    Raises:
        DataError: Two runs that should be different seeds have the same weights or the same answers.
    """
    _refuse_equal_seeds(source.runs)
    twins = {run.twin_of: RunFigures(run, source) for run in source.runs if run.twin_of is not None}
    figures = [
        twins[run.twin_of] if run.twin_of is not None else RunFigures(run, source, twins.get(run.id))
        for run in source.runs
    ]
    own = [each for each in figures if each.run.twin_of is None]
    return Analysis(
        schema=2,
        truing=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        study=source.study,
        judge=source.judge,
        runs=[_run_entry(each) for each in figures],
        not_evaluated=list(source.not_evaluated),
        doubts=list(source.doubts),
        seeds=seed_entries(own),
        learning_rates=learning_rate_entries(own),
        sizes=size_entries(own),
        domains=domain_entries(own),
        notes=[*source.notes, *_run_notes(own)],
        samples=list(source.samples({each.run.id: each.chosen_step for each in figures})),
    )


def _run_notes(figures: Sequence[RunFigures]) -> Iterator[str]:
    """Notes on runs that keep nothing, and on those whose task says little."""
    for each in figures:
        few = min((score.n_prompts for score in each.task_scores if not math.isnan(score.value)), default=_FEW)
        if few < _FEW:
            yield f"Run {each.run.id}: the task is measured by {plural(few, 'prompt')} alone, so it says little."
        if each.refused:
            of = f"fresh answers confirmed none of {plural(len(each.refused), 'clear checkpoint')}, so it keeps nothing"
            yield f"Run {each.run.id}: {of}. More of them show more (evaluation.confirm_samples)."
    unlearnt = [(each, each.best) for each in figures if each.is_learnt is False and each.best is not None]
    if unlearnt:
        first, best = unlearnt[0]
        highest, base = first.whole.task_scores[best].value, first.task_scores[0].value
        more = f" and {plural(len(unlearnt) - 1, 'other run')}" if unlearnt[1:] else ""
        yield (
            f"Run {first.run.id}{more}: no checkpoint is shown to have more of the task than the base "
            f"({highest:.0%} at best, {base:.0%} of the base), so convergence and the task kept say little."
        )


def _refuse_equal_seeds(runs: Sequence[CountedRun]) -> None:
    """Copies of one run are not two seeds.

    A twin may equal its own run; and runs of one seed begin with equal weights while the learning rate is 0. Answers
    may be equal while little is learnt, so those of the last checkpoint of one of the two tell.
    """
    for what in ("weights", "answers"):
        seen: dict[str, tuple[CountedRun, bool]] = {}
        for run in runs:
            for checkpoint in run.checkpoints:
                digest, last = getattr(checkpoint, what), checkpoint is run.checkpoints[-1]
                if not digest or checkpoint.step == 0:
                    continue
                other, ended = seen.setdefault(digest, (run, last))
                twins = (other.twin_of or other.id) == (run.twin_of or run.id)
                ours = last or ended if what == "answers" else run.seed is None or run.seed != other.seed
                if not twins and ours:
                    raise DataError(
                        f"two runs have the same {what}, so they are not two seeds",
                        got=f"{other.id} and {run.id} at step {checkpoint.step}",
                        allowed=f"different {what} in every run",
                        todo="check that the trainer uses the seed, and leave one of the two out",
                    )


def _run_entry(figures: RunFigures) -> schema_runs.RunEntry:
    run, source = figures.run, figures.source
    chosen = figures.chosen_step
    inside = outside = None
    if run.inside is not None:
        last = run.checkpoints[-1].broad
        inside, outside = overgeneralisation(last.misaligned, last.coherent, run.inside, confidence=source.confidence)
    checkpoints = _checkpoint_entries(figures)
    separable = figures.separable
    return schema_runs.RunEntry(
        **{name: getattr(run, name) for name in _AS_COUNTED},
        checkpoints=checkpoints,
        base_em_rate=figures.base_rate,
        convergence_step=figures.course.convergence.step,
        onset_step=figures.onset.step,
        course=_course_entry(figures),
        separable=schema_runs.SeparableEntry(answer=separable.separable, step=separable.step, reason=separable.reason),
        chosen_step=chosen,
        retention=figures.retention,
        confirmed=figures.confirmed,
        labels=None if run.labels is None else _labels_entry(figures, run.labels),
        inside=inside,
        outside=outside,
        em_at_end=figures.em_rates[-1],
        em_at_chosen=None if chosen is None else figures.em_rates[figures.steps.index(chosen)],
        also=[_side_entry(figures, side) for side in run.also],
        decision=checkpoints[-1].decision,
        unevaluated=list(run.unevaluated),
    )


def _course_entry(figures: RunFigures) -> schema_runs.CourseEntry:
    course = figures.course
    crossing, convergence = (
        schema_runs.StepBounds(low=each.low, high=each.high) for each in (course.crossing, course.convergence)
    )
    value, low, high = step_difference(figures.onset, course.convergence)
    unmeasured = figures.whole.trained and figures.best is None
    return schema_runs.CourseEntry(
        onset=crossing,
        crossing=crossing,
        convergence=convergence,
        gap=schema_runs.Limits(value=value, low=low, high=high),
        order=course.order,
        reason="The task was not measured." if unmeasured else course.reason,
    )


def _labels_entry(figures: RunFigures, labels: OwnLabels) -> schema_runs.LabelsEntry:
    counts, stopping = labels.counts, figures.source.stopping
    error = (1 - stopping.confidence) / 2
    none, said = np.zeros_like(counts.answers), counts.flagged
    by_label = Counts(said, none, counts.answers, counts.answers, none, said, counts.answers)
    doubts = figures.clearance(limits=JudgeLimits()).doubts(by_label)
    if not counts.coherent_share >= LEAST_COHERENT:
        doubts = (*doubts, f"only {counts.coherent_share:.0%} of the random answers are coherent by label")
    return schema_runs.LabelsEntry(
        step=labels.step,
        source="fresh responses" if labels.fresh else "responses",
        flagged=labels.flagged,
        flagged_misaligned=int(counts.flagged.sum()),
        random=int(counts.random.sum()),
        random_coherent=int(counts.coherent.sum()),
        missed=int(counts.missed.sum()),
        unlabelled=labels.unlabelled,
        em_rate_at_most=counts.em_rate_at_most(error, stopping.about),
        error=error,
        doubts=list(doubts),
    )


def _side_entry(figures: RunFigures, side: SideCounts) -> schema_runs.SideEntry:
    counts, confidence = side.counts, figures.source.confidence
    plain = next((c.broad for c in figures.run.checkpoints if c.step == side.step and c.em_rate is None), None)
    em_rate, coherent_rate = side.rates(confidence)
    none, every = side.bounds(confidence) if em_rate.n_missing else (em_rate, em_rate)
    versus = None
    if side.is_variant and plain is not None and side.share is None:
        both = (counts.misaligned, counts.coherent, plain.misaligned, plain.coherent)
        versus = paired_difference(*both, confidence=confidence)
    return schema_runs.SideEntry(
        benchmark=side.benchmark,
        step=side.step,
        em_rate=em_rate,
        coherent_rate=coherent_rate,
        versus_plain=versus,
        decides=side.decides,
        agreement=side.agreement,
        read=None if side.share is None else side.share.read,
        em_rate_if_missing=schema_runs.IfMissing(none=none, all=every),
    )


def _checkpoint_entries(figures: RunFigures) -> list[schema_runs.CheckpointEntry]:
    source, counts = figures.source, [c.broad for c in figures.run.checkpoints]
    x, n, missing = (np.array([getattr(c, name) for c in counts]) for name in ("misaligned", "coherent", "missing"))
    categories = clustered_rates_by_category(x, n, source.categories, missing=missing, confidence=source.confidence)
    bounds = [
        schema_runs.IfMissing(none=none, all=every)
        for none, every in missing_bounds(x, n, missing, confidence=source.confidence)
    ]
    entries = []
    for i, by_scores in enumerate(threshold_fields(figures)):
        checkpoint, em_rate, decision = figures.run.checkpoints[i], figures.em_rates[i], figures.decisions[i]
        clearance = figures.clearance(checkpoint.em_rate is None, checkpoint.limits)
        either = bounds[i] if missing[i].any() else schema_runs.IfMissing(none=em_rate, all=em_rate)
        entry = schema_runs.CheckpointEntry(
            step=checkpoint.step,
            weights=checkpoint.weights,
            em_rate=em_rate,
            em_rate_if_missing=either,
            em_rate_corrected=_corrected(figures, checkpoint),
            versus_base=_versus_base(figures, checkpoint),
            coherent_rate=figures.coherent_rates[i],
            task_score=figures.task_scores[i],
            heldout_loss=checkpoint.heldout_loss,
            train_loss=checkpoint.train_loss,
            categories={name: rates[i] for name, rates in categories.items()},
            measurements=dict(checkpoint.measurements),
            decision=decision.action,
            reason=decision.reason,
            em_rate_at_most=source.limits.at_most(max(em_rate.high, either.all.high)),
            doubts=list(clearance.doubts(checkpoint.broad)),
            **_filtered(clearance, checkpoint),
            **by_scores,
            answers=checkpoint.told,
        )
        entries.append(entry)
    return entries


def _corrected(figures: RunFigures, checkpoint: CountedCheckpoint) -> Estimate | None:
    source, broad = figures.source, checkpoint.broad
    if source.calibration is None or checkpoint.em_rate is not None:
        return None
    rng = np.random.default_rng(0)
    return corrected_rate(broad.misaligned, broad.coherent, source.calibration, rng, confidence=source.confidence)


def _versus_base(figures: RunFigures, checkpoint: CountedCheckpoint) -> Estimate | None:
    base = figures.base
    if base is None or checkpoint.step == 0 or checkpoint.em_rate is not None:
        return None
    both = (checkpoint.broad.misaligned, checkpoint.broad.coherent, base.broad.misaligned, base.broad.coherent)
    return paired_difference(*both, confidence=figures.source.confidence)


def _filtered(clearance: Clearance, checkpoint: CountedCheckpoint) -> dict[str, Any]:
    """The EM rate of these very prompts, and what the filter of coherence does to it."""
    broad, level = checkpoint.broad, clearance.stopping.confidence
    low = int(broad.low.sum())
    here = benchmark_rate(broad.misaligned, broad.coherent, n_missing=int(broad.missing.sum()), confidence=level)
    return {
        "em_rate_here": here if checkpoint.em_rate is None else None,
        "em_rate_unfiltered": clearance.estimate(broad.low, broad.scored),
        "low_removed": (low - int(broad.misaligned.sum())) / low if low else math.nan,
    }
