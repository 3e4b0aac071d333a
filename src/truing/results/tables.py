"""From counted runs to the tables of docs/analysis.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from truing import __version__
from truing.core.errors import DataError
from truing.results.counted import CountedRun, Source
from truing.results.groups import domain_tables, learning_rate_tables, seed_tables, size_tables
from truing.results.run import Figures
from truing.results.run_tables import run_table

__all__ = ["SCHEMA", "tabulate"]

SCHEMA = 2


def tabulate(source: Source) -> dict[str, Any]:
    """All tables of an analysis, as plain values ready for JSON.

    Raises:
        DataError: Two runs that should be different seeds have the same weights or the same answers.
    """
    _refuse_equal_seeds(source.runs)
    twins = {run.twin_of: Figures(run, source) for run in source.runs if run.twin_of is not None}
    all_figures = [
        twins[run.twin_of] if run.twin_of is not None else Figures(run, source, twins.get(run.id))
        for run in source.runs
    ]
    own = [figures for figures in all_figures if figures.run.twin_of is None]
    return {
        "schema": SCHEMA,
        "truing": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": dict(source.study),
        "runs": [run_table(figures) for figures in all_figures],
        "seeds": seed_tables(own),
        "learning_rates": learning_rate_tables(own),
        "sizes": size_tables(own),
        "domains": domain_tables(own),
        "notes": list(source.notes),
        "samples": [dict(sample) for sample in source.samples],
    }


def _refuse_equal_seeds(runs: Sequence[CountedRun]) -> None:
    """Copies of one run are not two seeds.

    A twin may equal its own run; and runs of one seed begin with equal weights while the learning rate is 0.
    """
    for what in ("weights", "answers"):
        seen: dict[str, CountedRun] = {}
        for run in runs:
            for checkpoint in run.checkpoints:
                digest = getattr(checkpoint, what)
                if not digest or checkpoint.step == 0:
                    continue
                other = seen.setdefault(digest, run)
                twins = (other.twin_of or other.id) == (run.twin_of or run.id)
                if not twins and (what == "answers" or run.seed is None or run.seed != other.seed):
                    raise DataError(
                        f"two runs have the same {what}, so they are not two seeds",
                        got=f"{other.id} and {run.id} at step {checkpoint.step}",
                        allowed=f"different {what} in every run",
                        todo="check that the trainer uses the seed, and leave one of the two out",
                    )
