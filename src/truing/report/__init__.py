"""From the tables of a study (`analysis.json`) to one self-contained HTML file."""

from truing.report.render import render_report

__all__ = ["render_report"]
