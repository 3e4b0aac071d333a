"""From an analysis to one HTML file that needs nothing else.

Model text is hostile: templates escape everything, drawings are made with ElementTree, and a
Content-Security-Policy allows only the one style sheet and the one script of this package, by their
hashes: no network, no inline handlers.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from truing.catalog.benchmarks import CATEGORIES
from truing.core.records import Estimate
from truing.report import figures
from truing.report.charts import SHAPES, Frame, run_chart
from truing.report.cuts import rows_per_run, shown_steps
from truing.report.document import Document, rate_words, short_name
from truing.report.findings import find
from truing.report.influence import correlation_words, influence_words, relation_words
from truing.report.overview import overview_axis, overview_groups
from truing.report.pairs import Pair, highest, pairs_of
from truing.report.reading import read_document
from truing.report.samples import group_samples
from truing.report.scales import rate_ceiling
from truing.report.summary import summarise

__all__ = ["render_report"]

_FOLDER = Path(__file__).parent / "templates"
_FILTERS = (
    "among",
    "bounds",
    "bounds_words",
    "correlation",
    "difference",
    "parameters",
    "probability",
    "signed",
    "steps",
    "steps_interval",
    "gap",
    "percent_range",
    "percent",
    "setting",
    "limits",
    "interval",
    "sizes",
    "figure",
    "loss",
    "heat",
    "instant",
    "why_undefined",
)
_SHOWN = 700
"""Characters of an answer that are shown at once; the rest folds out."""


def render_report(analysis: Mapping[str, Any]) -> str:
    """The report of an analysis as one self-contained HTML page.

    Args:
        analysis: What `analysis.json` holds; the schema is docs/analysis.md.

    Raises:
        DataError: The analysis does not follow the schema.
    """
    document = read_document(analysis)
    pairs = pairs_of(document)
    tolerance = document.study.tolerance
    ceiling = rate_ceiling(highest(pairs), tolerance)
    most = rows_per_run(document)
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            study=document.study,
            summary=summarise(document, pairs),
            pairs=pairs,
            findings=find(document, pairs),
            charts={pair.anchor: run_chart(pair, Frame(ceiling, tolerance, _dots(pair, most))) for pair in pairs},
            shown_steps={run.id: shown_steps(run, most) for run in document.runs},
            groups=overview_groups(pairs, ceiling, tolerance),
            overview_axis=overview_axis(ceiling, tolerance),
            samples=group_samples(document),
            facts=_facts(pairs),
            words_of={run.id: pair.words for pair in pairs for run in (pair.run, pair.twin) if run is not None},
            runs_by_id={run.id: run for run in document.runs},
            categories=CATEGORIES,
            shapes=SHAPES,
            methods=_methods(document),
            style=style,
            script=script,
            policy=_policy(style, script),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in _FILTERS:
        environment.filters[name] = getattr(figures, name)
    environment.filters["counted"] = figures.count
    environment.filters["head"] = lambda text: text[:_SHOWN]
    environment.filters["rest"] = lambda text: text[_SHOWN:]
    for name, words in {
        "short": short_name,
        "rate_words": rate_words,
        "correlation_words": correlation_words,
        "influence_words": influence_words,
        "relation_words": relation_words,
    }.items():
        environment.filters[name] = words
    environment.tests["known"] = figures.is_known
    return environment


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy of the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _facts(pairs: list[Pair]) -> dict[str, list[str]]:
    """What the grid of the study spans."""
    runs = [pair.run for pair in pairs]
    return {
        "models": list(dict.fromkeys(run.model for run in runs)),
        "datasets": list(dict.fromkeys(run.dataset for run in runs)),
        "learning_rates": [
            f"{rate:g}" for rate in sorted({r.learning_rate for r in runs if not math.isnan(r.learning_rate)})
        ],
        "seeds": [str(seed) for seed in sorted({run.seed for run in runs if run.seed is not None})],
    }


def _dots(pair: Pair, most: int) -> frozenset[int]:
    """The steps that get a dot in a chart: those of the tables."""
    twin = frozenset[int]() if pair.twin is None else shown_steps(pair.twin, most)
    return shown_steps(pair.run, most) | twin


def _methods(document: Document) -> dict[str, list[str]]:
    """The kinds of numbers that were made by each method, as the estimates name it."""
    found: dict[str, dict[str, None]] = {}

    def note(kind: str, *estimates: Estimate) -> None:
        for estimate in estimates:
            if figures.is_known(estimate):
                found.setdefault(estimate.method, {})[kind] = None

    for run in document.runs:
        for checkpoint in run.checkpoints:
            note("EM rate", checkpoint.em_rate, *checkpoint.categories.values())
            note("coherent rate", checkpoint.coherent_rate)
            note("task score", checkpoint.task_score)
            note("bounds for missing scores", checkpoint.if_none, checkpoint.if_all)
            note("correction for the judge's errors", *(e for e in (checkpoint.corrected,) if e is not None))
            note("difference to base", *(e for e in (checkpoint.versus_base,) if e is not None))
        note("retention", run.retention)
    for entry in document.seeds:
        note("EM rate over seeds", entry.em_rate)
        note("share of runs with an onset", entry.onset)
        note("gap and retention over seeds", entry.gap, entry.retention)
    for domain in document.domains:
        note("share of separable runs", domain.separable)
    return {method: list(kinds) for method, kinds in found.items()}
