"""The report: one self-contained HTML page from an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from truing.core.files import write_text
from truing.report.render import render_report
from truing.results import write_analysis
from truing.results.schema import Analysis

__all__ = ["render_report", "write_report"]


def write_report(folder: Path, changes: Mapping[str, str] | None = None) -> Analysis:
    """Analyse a folder and write `analysis.json` and `report.html` into it; returns the analysis.

    `changes` are other thresholds to look at them by; see `truing.results.analyse`.

    Raises:
        StoreError: Nothing has been evaluated, or a file of the folder is missing or damaged.
    """
    analysis = write_analysis(folder, changes)
    write_text(folder / "report.html", render_report(analysis))
    return analysis
