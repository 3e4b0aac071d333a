"""From an analysis to one HTML file that needs nothing else.

Model text is hostile: templates escape everything, drawings are made with ElementTree, and a Content-Security-Policy
allows only the one style sheet and the one script of this package, by their hashes: no network, no inline handlers.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from truing.records import Estimate
from truing.report import figures
from truing.report.charts import SHAPES, Frame, run_chart
from truing.report.document import Document, SampleEntry, read_document
from truing.report.overview import overview_axis, overview_groups
from truing.report.pairs import CATEGORIES, Pair, highest, in_order, pairs_of
from truing.report.scales import rate_ceiling
from truing.report.summary import summarise

__all__ = ["render_report"]

_FOLDER = Path(__file__).parent / "templates"
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
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return _environment().get_template("page.html.j2").render(
        document=document,
        study=document.study,
        summary=summarise(document, pairs),
        pairs=pairs,
        charts={pair.anchor: run_chart(pair, Frame(ceiling, tolerance)) for pair in pairs},
        groups=overview_groups(pairs, ceiling, tolerance),
        overview_axis=overview_axis(ceiling, tolerance),
        samples=_by_category(document.samples),
        runs_by_id={run.id: run for run in document.runs},
        categories=CATEGORIES,
        shapes=SHAPES,
        methods=_methods(document),
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "interval", "sizes", "figure", "loss", "count", "heat", "instant", "why_undefined"):
        environment.filters[name] = getattr(figures, name)
    environment.filters["head"] = lambda text: text[:_SHOWN]
    environment.filters["rest"] = lambda text: text[_SHOWN:]
    environment.tests["known"] = figures.is_known
    return environment


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy of the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _by_category(samples: tuple[SampleEntry, ...]) -> dict[str, list[SampleEntry]]:
    slugs = in_order({sample.category for sample in samples})
    return {slug: [sample for sample in samples if sample.category == slug] for slug in slugs}


def _methods(document: Document) -> dict[str, list[str]]:
    """For each kind of number, how the study's estimates say they were made."""
    found: dict[str, dict[str, None]] = {}

    def note(kind: str, *estimates: Estimate) -> None:
        found.setdefault(kind, {}).update({e.method: None for e in estimates if figures.is_known(e)})

    for run in document.runs:
        for checkpoint in run.checkpoints:
            note("EM rate", checkpoint.em_rate, *checkpoint.categories.values())
            note("Coherent rate", checkpoint.coherent_rate)
            note("Task score", checkpoint.task_score)
        note("Retention", run.retention)
    return {kind: list(methods) for kind, methods in found.items() if methods}


def seeds(pairs: list[Pair]) -> list[int]:
    """The seeds of the study's runs."""
    return sorted({pair.run.seed for pair in pairs})
