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
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from truing.catalog.benchmarks import CATEGORIES
from truing.core.records import Estimate
from truing.report import words
from truing.report.drawing import SHAPES
from truing.report.pairs import Pair, grouped, pairs_of
from truing.report.plots import Plots
from truing.report.selection import group_samples, rows_per_run, shown_steps
from truing.report.summary import summarise
from truing.results.gate import verdict
from truing.results.samples import class_of
from truing.results.schema import Analysis

_FOLDER = Path(__file__).parent / "templates"
_SHOWN = 700
"""Characters of an answer that are shown at once; the rest folds out."""


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
