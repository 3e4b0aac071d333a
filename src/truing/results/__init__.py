"""From a finished (or unfinished) store, or from files of judged responses, to the tables of docs/analysis.md."""

from truing.results.from_store import analyse, read_analysis, write_analysis

__all__ = ["analyse", "read_analysis", "write_analysis"]
