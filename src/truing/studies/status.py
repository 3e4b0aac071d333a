"""How far the work in a folder is: what is done, running, owed and failed, and how long it may take yet.

The folder is only read: no lock is taken and no model, judge or dataset is asked, so that it may be looked at while
another process or machine works in it. Work counts as running if something in the folder changed in the last ten
minutes, or if a machine gives signs of life at the URL where the results are shared.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from truing.backends import checkpoint_steps
from truing.config import StudyConfig
from truing.core.errors import StoreError
from truing.monitor import Store, open_store
from truing.studies.folder import Manifest, RunRecord, load_manifest
from truing.studies.run import read_state
from truing.studies.watch_state import WATCH, WatchState, load_watch

State = Literal["done", "running", "owed", "failed"]
_RECENT = 600.0
_LATEST, _FEWEST = 24, 5
_ANSWERS = """
SELECT run_id, count(*) AS answers, count(error) AS missing
FROM (SELECT DISTINCT run_id, benchmark_judgments AS key FROM evaluations) JOIN judgments USING (key) GROUP BY run_id
"""


@dataclass(frozen=True)
class RunStatus:
    """How far one run is."""

    id: str
    state: State
    step: int | None
    """Last step that was evaluated; None: none was."""
    evaluated: int
    """Checkpoints, the base included."""
    owed: int | None
    """Checkpoints that are still to be evaluated, at most; None: not known, as a training elsewhere makes them."""
    answers: int = 0
    """Judged answers to the benchmark."""
    missing: int = 0
    """Those of them that lack scores."""
    reasons: tuple[str, ...] = ()
    """What failed or was passed over."""


@dataclass(frozen=True)
class Status:
    """How far the work in a folder is."""

    folder: str
    kind: Literal["study", "audit", "guard", "watch"]
    name: str
    running: bool
    changed: float
    """Time of the last change, in seconds since 1970."""
    runs: tuple[RunStatus, ...]
    left: float | None
    """Seconds until all that is owed is evaluated, if it goes on as it did; None: not known."""
    notes: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    """Runs by their state."""


def read_status(folder: Path) -> Status:
    """How far the work in a folder of a study, an audit, a guard or a watch is.

    Raises:
        StoreError: It is none of these, nothing has begun there, or a file of it is damaged.
    """
    manifest, watch, store = load_manifest(folder), load_watch(folder), open_store(folder)
    if manifest is None and watch is None:
        allowed = "the folder of a study, an audit, a guard or a watch"
        raise StoreError(f"nothing has begun in {folder}", f"no manifest.json, no {WATCH}", allowed, "name its folder")
    changed = _changed(folder)
    held = store.held()
    running = (time.time() - changed < _RECENT or bool(held)) and not (watch and watch.ended)
    runs: tuple[RunStatus, ...] = ()
    if manifest is not None:
        told = {row["run_id"]: row for row in store.query(_ANSWERS)}
        weights: dict[str, dict[int, str]] = {}
        for row in store.query("SELECT run_id, step, weights FROM evaluations"):
            weights.setdefault(row["run_id"], {})[row["step"]] = row["weights"]
        runs = tuple(
            _run(folder, manifest, run, weights.get(run.id, {}), (running, held), told.get(run.id, {}))
            for run in manifest.runs
        )
    return Status(
        folder=str(folder),
        kind="watch" if watch is not None or manifest is None else manifest.kind,
        name=manifest.name if manifest is not None else folder.name,
        running=running,
        changed=changed,
        runs=runs,
        left=_left(store, runs),
        notes=tuple(_watch_notes(watch)) if watch is not None else (),
        counts=dict(Counter(run.state for run in runs)),
    )


def _run(
    folder: Path,
    manifest: Manifest,
    run: RunRecord,
    rows: dict[int, str],
    busy: tuple[bool, frozenset[str]],
    told: dict[str, Any],
) -> RunStatus:
    """`busy`: if work in the folder is running, and the runs that are known to be held."""
    if manifest.kind == "study":
        state, owed, reasons = _of_study(folder, manifest, run, len(rows), busy)
    else:
        state, owed, reasons = _of_records(run, rows, busy[0])
    more = {name: told[name] for name in ("answers", "missing") if name in told}
    return RunStatus(run.id, state, max(rows, default=None), len(rows), owed, reasons=reasons, **more)


def _of_study(
    folder: Path, manifest: Manifest, run: RunRecord, evaluated: int, busy: tuple[bool, frozenset[str]]
) -> tuple[State, int | None, tuple[str, ...]]:
    ended = read_state(folder, run.id)
    if ended is not None:
        failed = ended.state == "failed"
        return ("failed" if failed else "done"), None if failed else 0, (str(ended.error),) if failed else ()
    if run.state in ("finished", "stopped"):  # judged again from another folder: nothing is trained here
        return "done", 0, ()
    begun = run.id in busy[1] or (folder / "runs" / run.id).is_dir()
    if run.twin_of is not None and not begun:  # only a run that was stopped has one
        stopped = read_state(folder, run.twin_of)
        if stopped is None or stopped.state != "stopped":
            return "done", 0, ("no twin, unless the run is stopped",)
    config = StudyConfig.model_validate(manifest.config)
    steps = len(checkpoint_steps(run.trainer, config.training, None)) + 1
    return ("running" if begun and busy[0] else "owed"), max(steps - evaluated, 1), ()


def _of_records(run: RunRecord, rows: dict[int, str], running: bool) -> tuple[State, int | None, tuple[str, ...]]:
    """Of a run whose checkpoints are made elsewhere."""
    known = run.checkpoints or ()
    lacking = [c for c in known if rows.get(c.step) != c.weights and (c.weights or c.error)]  # else it is left out
    reasons = tuple(f"step {c.step}: {c.error}" for c in lacking if c.error)
    if run.state in ("finished", "stopped"):
        return ("failed" if reasons else "done"), len(lacking), reasons
    return ("running" if running else "owed"), len(lacking), reasons


def _changed(folder: Path) -> float:
    """Time of the newest file; left out: what only looking makes, and what is deleted meanwhile."""
    newest = 0.0
    for path in folder.rglob("*"):
        try:
            if path.name not in ("records.lock", "store.url") and path.is_file():
                newest = max(newest, path.stat().st_mtime)
        except OSError:
            continue
    return newest


def _left(store: Store, runs: tuple[RunStatus, ...]) -> float | None:
    """Evaluations that are owed, each as long as lay between two of the latest in the mean.

    Runs beside each other end some at once, so the mean of a few would say nothing.
    """
    owed = sum(run.owed or 0 for run in runs)
    times = sorted(store.written("evaluations", key).timestamp() for key in store.keys("evaluations"))[-_LATEST:]
    if not owed:
        return 0.0
    return owed * (times[-1] - times[0]) / (len(times) - 1) if len(times) >= _FEWEST else None


def _watch_notes(watch: WatchState) -> list[str]:
    """What a watch saw and did, in sentences."""
    states = Counter(seen.state for seen in watch.seen.values())
    notes = [f"Checkpoints in {watch.directory}: " + (", ".join(f"{n} {s}" for s, n in states.items()) or "none") + "."]
    for name, seen in watch.seen.items():
        if seen.state in ("not whole", "failed"):
            notes.append(f"{name}, {seen.state}: {seen.reason}")
    if watch.stop is not None:
        notes.append(f"Stop at step {watch.stop.step}. {watch.stop.reason}")
        for name, done in watch.done.items():
            said = (
                f"failed: {done.error}" if done.error else "done" if done.ended else "begun, and not known how it went"
            )
            notes.append(f"On stop, {name}: {said}.")
    if watch.ended:
        notes.append("The watch has ended.")
    return notes
