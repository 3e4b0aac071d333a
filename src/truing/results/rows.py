"""The rows of a store that count, and those that should be there.

A step may have been evaluated more than once: it was trained again, its benchmark was edited, two folders were put
together. What its run wrote down when it ended says which weights count, wherever files were copied to meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from truing.core.errors import plural
from truing.core.records import Estimate
from truing.monitor import Store
from truing.monitor.sampler import FIXED, RANDOM
from truing.results.answers import key_of
from truing.studies.folder import Asked, Manifest, RunRecord, counting_rows
from truing.studies.run import RunState, read_state

Row = dict[str, Any]


@dataclass(frozen=True)
class StoreRows:
    """Picks the rows of a folder's runs."""

    path: Path
    manifest: Manifest
    store: Store
    _keys: dict[tuple[str, int, int], str] = field(default_factory=dict, init=False)

    def of(self, run: RunRecord) -> list[Row]:
        """The evaluations of a run, by ascending step."""
        rows = self.tables["evaluations"].get(run.id, [])
        if run.search is None and run.checkpoints is not None and self.manifest.config.get("search", "all") != "all":
            return []  # the search has not ended
        ended = self.ended[run.id]
        return counting_rows(self.store, run, rows, ended.weights_at if ended else {}, self.is_own)

    @cached_property
    def ended(self) -> dict[str, RunState | None]:
        """By id of the runs how each ended, by its `run.json`; None: it has not, or the manifest tells."""
        return {run.id: None if run.state else read_state(self.path, run.id) for run in self.manifest.runs}

    def due(self, run: RunRecord) -> set[int]:
        """Steps that were evaluated when the run ended, as far as that is known."""
        ended = self.ended[run.id]
        return {c.step for c in run.checkpoints or ()} | ({ended.step} if ended and ended.state != "failed" else set())

    def lost(self, run: RunRecord, rows: Sequence[Row]) -> str:
        """In words, evaluations of a run that are no more in the store; empty: none."""
        steps, ended = {row["step"] for row in rows}, self.ended[run.id]
        return run.lost(steps) or (ended.lost(steps) if ended else "")

    def notes(self, run: RunRecord, rows: Sequence[Row]) -> Iterator[str]:
        """What is odd about the rows of a run."""
        counts = {row["step"]: row["weights"] for row in rows}
        every = self.tables["evaluations"].get(run.id, ())
        if again := sorted({row["step"] for row in every if counts.get(row["step"], row["weights"]) != row["weights"]}):
            more = f", and {plural(len(again) - 1, 'other step')}" if again[1:] else ""
            yield (
                f"Run {run.id}: other weights of step {again[0]}{more} were evaluated, too, and do not count: it was "
                "trained again, or results of two folders were put together."
            )

    def is_own(self, row: Row) -> bool:
        """True of answers to the prompts of the manifest, by its judge: a file may be another under the same name."""
        asked, key = self.manifest.broad, row["benchmark_judgments"]
        first = FIXED if self.asks_every(row) else RANDOM
        return key is None or key == self.judgments_key(row["weights"], asked, first)

    def asks_every(self, row: Row) -> bool:
        """True of a checkpoint that was asked every prompt, `samples` times."""
        return bool(row["step"] == 0 or (self.manifest.every_prompt and not self.searched))

    @cached_property
    def searched(self) -> bool:
        """True of the folder of a search."""
        return any(run.search for run in self.manifest.runs)

    def judgments_key(self, weights: str, asked: Asked, first: int) -> str:
        """See `key_of`."""
        about = (weights, id(asked), first)
        if about not in self._keys:  # each is a hash of the whole benchmark
            self._keys[about] = key_of(self.manifest, weights, asked, first)
        return self._keys[about]

    @cached_property
    def tables(self) -> dict[str, dict[str, list[Row]]]:
        """By table and run its rows; each table at once, for a query reads every file of it."""
        names = ("evaluations", "confirmations", "also", "rechecks")
        tables: dict[str, dict[str, list[Row]]] = {name: {} for name in names}
        for name, by_run in tables.items():
            for row in self.store.query(f"SELECT * FROM {name} ORDER BY run_id, step NULLS FIRST, key"):
                by_run.setdefault(row["run_id"], []).append(row)
        return tables

    @cached_property
    def measurements(self) -> dict[tuple[str, int], dict[str, Estimate]]:
        """By run and step the other numbers of a checkpoint, by their names."""
        found: dict[tuple[str, int], dict[str, Estimate]] = {}
        for row in self.store.query("SELECT * FROM measurements ORDER BY name"):
            found.setdefault((row["run_id"], row["step"]), {})[row["name"]] = Estimate(**row["estimate"])
        return found
