"""The report: one self-contained HTML page from an analysis."""

from truing.report.render import render_report

__all__ = ["render_report"]
