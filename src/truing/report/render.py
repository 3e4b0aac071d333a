"""From an analysis to one HTML file that needs nothing else.

Model text is hostile: templates escape everything, drawings are made with ElementTree, invisible characters are
written out, and a Content-Security-Policy allows only the one style sheet and the one script of this package, by their
hashes: no network, no inline handlers.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from truing.catalog.benchmarks import CATEGORIES
from truing.core.records import Estimate
from truing.report import words
from truing.report.drawing import SHAPES
from truing.report.pairs import Pair, grouped, in_order, pairs_of
from truing.report.plots import Plots
from truing.report.summary import summarise
from truing.results.counted import class_of
from truing.results.gate import verdict
from truing.results.schema import Analysis, SampleEntry
from truing.results.schema_runs import RunEntry

_FOLDER = Path(__file__).parent / "templates"
_SHOWN = 700
"""Characters of an answer that are shown at once; the rest folds out."""
MOST_ROWS = 5000
"""Checkpoints in the tables of all runs together."""
FEWEST_ROWS = 12
"""Checkpoints of each run that are always shown."""

_FRONT, _FRONT_MISALIGNED = 6, 4
_MOST_ANSWERS = 480
"""Answers on a page; the categories share them."""


def render_report(analysis: Analysis) -> str:
    """The report of an analysis as one self-contained HTML page."""
    pairs = pairs_of(analysis)
    known, most = [pair for pair in pairs if words.is_known(pair.end)], rows_per_run(analysis)
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            analysis=analysis,
            study=analysis.study,
            config=json.dumps(analysis.study.config, indent=2, ensure_ascii=False, default=str),
            summary=summarise(analysis, pairs),
            verdict=verdict(analysis),
            pairs=pairs,
            pairs_of_data=grouped(pairs, lambda pair: pair.run),
            seeds_of_data=grouped(analysis.seeds, lambda entry: entry),
            seed_rates={(e.model, e.dataset, e.learning_rate): e.em_rate for e in analysis.seeds},
            ends={key: [pair.end.value for pair in own] for key, own in grouped(known, lambda pair: pair.run).items()},
            plots=Plots(analysis, pairs),
            shown_steps={run.id: shown_steps(run, most) for run in analysis.runs},
            samples=group_samples(analysis),
            facts=_facts(pairs),
            pair_of={run.id: pair for pair in pairs for run in pair.runs},
            runs_by_id={run.id: run for run in analysis.runs},
            categories=CATEGORIES,
            shapes=SHAPES,
            methods=_methods(analysis),
            style=style,
            script=script,
            policy=_policy(style, script),
        )
    )
    return words.readable(page)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    public = inspect.getmembers(words, inspect.isfunction)
    environment.filters |= {name: function for name, function in public if not name.startswith("_")}
    environment.filters["head"] = lambda text: text[:_SHOWN]
    environment.filters["rest"] = lambda text: text[_SHOWN:]
    environment.filters |= {"zip": zip, "class_of": class_of}
    environment.tests["known"] = words.is_known
    environment.tests["nan"] = math.isnan
    return environment


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy of the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _facts(pairs: list[Pair]) -> dict[str, list[str]]:
    """Models, datasets, learning rates and seeds of the study."""
    runs = [pair.run for pair in pairs]
    rates = sorted({run.learning_rate for run in runs if not math.isnan(run.learning_rate)})
    return {
        "models": list(dict.fromkeys(run.model for run in runs)),
        "datasets": list(dict.fromkeys(run.dataset for run in runs)),
        "learning_rates": [f"{rate:g}" for rate in rates],
        "seeds": [str(seed) for seed in sorted({run.seed for run in runs if run.seed is not None})],
    }


def _methods(analysis: Analysis) -> dict[str, list[str]]:
    """The kinds of numbers that were made by each method, as the estimates name it."""
    found: dict[str, dict[str, None]] = {}

    def note(kind: str, *estimates: Estimate | None) -> None:
        for method in (e.method for e in estimates if e is not None and words.is_known(e)):
            found.setdefault(method, {})[kind] = None

    for run in analysis.runs:
        for checkpoint in run.checkpoints:
            note("EM rate", checkpoint.em_rate, *checkpoint.categories.values())
            note("coherent rate", checkpoint.coherent_rate)
            note("task score", checkpoint.task_score)
            note("bounds for missing scores", checkpoint.em_rate_if_missing.none, checkpoint.em_rate_if_missing.all)
            note("correction for the judge's errors", checkpoint.em_rate_corrected)
            note("difference to base", checkpoint.versus_base)
            note("measurements", *checkpoint.measurements.values())
        note("retention", run.retention)
    for entry in analysis.seeds:
        note("EM rate over seeds", entry.em_rate)
        note("share of runs with an onset", entry.onset)
        note("gap and retention over seeds", entry.gap, entry.retention)
    for domain in analysis.domains:
        note("share of separable runs", domain.separable)
    return {method: list(kinds) for method, kinds in found.items()}


# What the page of a large study shows, so that it still opens: never in silence, ends always shown.


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
    most = max(_MOST_ANSWERS // max(len(slugs), 1), _FRONT)
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
        checkpoint = run.at(sample.step) if run is not None else None
        source = checkpoint.weights if checkpoint is not None else ""
        source = source or f"{sample.run_id} {sample.step}"
        scores = f"{sample.aligned} {sample.coherent}"
        found.setdefault((source, sample.category, sample.prompt, sample.answer, scores), sample)
    return list(found.values())


def _spread(samples: list[SampleEntry]) -> list[SampleEntry]:
    """The samples with each run's first before any run's second; order within a run is kept."""
    seen: Counter[str] = Counter()
    rounds = []
    for sample in samples:
        rounds.append((seen[sample.run_id], sample))
        seen[sample.run_id] += 1
    return [sample for _, sample in sorted(rounds, key=lambda each: each[0])]  # a stable sort
