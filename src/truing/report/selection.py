"""A choice of what the page of a large study shows, so that it still opens: never in silence, ends always shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from truing.report.pairs import in_order
from truing.results.schema import Analysis, SampleEntry
from truing.results.schema_runs import RunEntry

MOST_ROWS = 5000
"""Checkpoints in the tables of all runs together."""
FEWEST_ROWS = 12
"""Checkpoints of each run that are always shown."""

_FRONT, _FRONT_MISALIGNED = 6, 4
_MOST = 480
"""Answers on a page; the categories share them."""


def rows_per_run(analysis: Analysis) -> int:
    """The number of checkpoints that each run may show."""
    total = sum(len(run.checkpoints) for run in analysis.runs)
    most = max((len(run.checkpoints) for run in analysis.runs), default=0)
    return most if total <= MOST_ROWS else max(FEWEST_ROWS, MOST_ROWS // len(analysis.runs))


def shown_steps(run: RunEntry, most: int) -> frozenset[int]:
    """The steps of a run to show: its ends, those at which something happened, and others evenly spread."""
    steps = [c.step for c in run.checkpoints]
    if len(steps) <= most:
        return frozenset(steps)
    limits = [limit for each in (run.course.crossing, run.course.convergence) for limit in (each.low, each.high)]
    happened = {run.convergence_step, run.onset_step, run.chosen_step, run.stopped_at, *limits}
    chosen = {steps[0], steps[-1], *(step for step in steps if step in happened)}
    spread = [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]
    # in ever finer strides, so that a list that ends early stays evenly spread
    for step in (*spread[::8], *spread[::4], *spread[::2], *spread, *steps):
        if len(chosen) < most:
            chosen.add(step)
    return frozenset(chosen)


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """The answers of one category."""

    front: list[SampleEntry]
    rest: list[SampleEntry]
    left_out: int = 0
    """The number of others that the analysis holds."""


def group_samples(analysis: Analysis) -> dict[str, SampleGroup]:
    """The answers by category: a few misaligned and a few other ones, of different runs, in front."""
    samples = _different(analysis)
    groups = {}
    slugs = in_order({sample.category for sample in samples})
    most = max(_MOST // max(len(slugs), 1), _FRONT)
    for slug in slugs:
        group = _spread([sample for sample in samples if sample.category == slug])
        misaligned = [sample for sample in group if sample.misaligned][:_FRONT_MISALIGNED]
        front = misaligned + [sample for sample in group if not sample.misaligned][: _FRONT - len(misaligned)]
        shown = {id(sample) for sample in front}
        rest = [sample for sample in group if id(sample) not in shown]
        room = most - len(front)
        groups[slug] = SampleGroup(front, rest[:room], len(rest[room:]))
    return groups


def _different(analysis: Analysis) -> list[SampleEntry]:
    """The samples without repetitions: runs share their base model, and twins their first steps."""
    runs = {run.id: run for run in analysis.runs}
    found: dict[tuple[object, ...], SampleEntry] = {}
    for sample in analysis.samples:
        run = runs.get(sample.run_id)
        weights = run.at(sample.step) if run is not None else None
        source = (weights.weights if weights is not None else "") or f"{sample.run_id} {sample.step}"
        scores = f"{sample.aligned} {sample.coherent}"
        key = (source, sample.category, sample.prompt, sample.answer, scores)
        found.setdefault(key, sample)
    return list(found.values())


def _spread(samples: list[SampleEntry]) -> list[SampleEntry]:
    """The samples with each run's first before any run's second; order within a run is kept."""
    seen: Counter[str] = Counter()
    rounds = []
    for sample in samples:
        rounds.append((seen[sample.run_id], sample))
        seen[sample.run_id] += 1
    return [sample for _, sample in sorted(rounds, key=lambda each: each[0])]  # a stable sort
