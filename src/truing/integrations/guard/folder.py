"""A guard's folder: what it must not hold, what an earlier process left there, and what is kept of the checkpoints."""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from truing.core.distributed import rank_and_world
from truing.core.errors import StoreError
from truing.core.records import Checkpoint
from truing.integrations.guard.measures import Record
from truing.monitor import open_folder, open_store
from truing.studies.folder import MANIFEST, CheckpointRecord, RunRecord, load_manifest

__all__ = ["check_own", "checkpoint_records", "held_run", "hold_here", "keep_only", "take_folder"]

WAIT = 120.0
"""Seconds after which another machine that gives signs of life is no dead one; see `truing.monitor.shared`."""
SOON = 10.0
"""Seconds after which another process on this machine is none that was killed and has children left."""
logger = logging.getLogger(__name__)
_held: dict[Path, FileLock] = {}
_LATE = "Training ended before the answers were judged."


def take_folder(where: str | Path) -> Path:
    """The folder that a path or a URL names, unless a guard would touch there what is not its own.

    Raises:
        StoreError: It holds a study, or checkpoints that no guard made, or another machine's guard is there.
    """
    folder = open_folder(where, begin=True)
    own = any((folder / name).exists() for name in (MANIFEST, "guard.json"))
    foreign = (folder / "checkpoints").exists() and not own
    if foreign or any((folder / name).exists() for name in ("study.yaml", "audit.yaml")):
        raise StoreError(
            f"{folder} is not a guard's folder",
            "it holds checkpoints that no guard made" if foreign else "it holds a study or an audit",
            "a folder that does not exist, is empty, or is a guard's",
            "name another folder",
        )
    if rank_and_world()[0] == 0:
        _hold(folder)
    return folder


def _hold(folder: Path) -> None:
    """Hold a folder that is shared at a URL until this process ends; a guard that died elsewhere is waited for.

    Raises:
        StoreError: A guard lives there on another machine: of two manifests the last would win.
    """
    deadline, store = time.monotonic() + WAIT, open_store(folder)
    while True:
        held = ExitStack()
        if held.enter_context(store.reserve("guard", wait=False)):
            atexit.register(held.close)
            return
        if time.monotonic() > deadline:
            todo = "name another URL for this training, or wait until that one has ended"
            raise StoreError(f"another machine's guard is at {folder}", "its signs of life", "one training", todo)
        logger.warning("another machine's guard was at %s: waiting up to %.0f s for it to be dead", folder, WAIT)
        time.sleep(WAIT / 10)


def check_own(folder: Path, others: Iterable[Path]) -> None:
    """Refuse a guard the folder of another one of the same trainer.

    Raises:
        StoreError: Each would delete the other's checkpoints.
    """
    if folder.resolve() in {other.resolve() for other in others}:
        raise StoreError(f"another guard of this trainer has {folder}", "two guards", "one", "name another folder")


def hold_here(folder: Path, over: bool = False) -> None:
    """Hold a folder on this machine while a training of this process goes on, until it is `over`.

    Raises:
        StoreError: A guard of another process is there: each would delete the other's checkpoints.
    """
    held = _held.pop(key := folder.resolve(), None) or FileLock(folder / ".lock")
    if over:
        return held.release()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=SOON)
        _held[key] = held
    except Timeout:
        todo = "name another folder for this training, or wait until that one has ended"
        raise StoreError(f"another process's guard is at {folder}", "its lock", "one training", todo) from None
    except (OSError, NotImplementedError) as error:  # what cannot be written there is told when it is to be
        logger.warning("%s cannot be locked: %s", folder, error)


def held_run(folder: Path, run: RunRecord) -> RunRecord | None:
    """What an earlier process wrote down; `guard.json` is what older versions wrote."""
    manifest, old = load_manifest(folder), folder / "guard.json"
    if manifest is not None:
        return manifest.runs[0]
    if not old.is_file():
        return None
    held = json.loads(old.read_text(encoding="utf-8"))
    facts, rows = held["facts"], [{k: v for k, v in row.items() if k != "run_id"} for row in held["records"]]
    return RunRecord(
        id=facts["run_id"],
        dataset=run.dataset,
        state=facts["ended"],
        stopped_at=facts["last_step"] if facts["ended"] == "stopped" else None,
        checkpoints=tuple(CheckpointRecord(**row) for row in rows),
        notes=run.notes,
        **{name: facts[name] for name in ("model", "parameters", "learning_rate", "seed")},
    )


def checkpoint_records(records: Iterable[Record], waiting: Iterable[Checkpoint]) -> tuple[CheckpointRecord, ...]:
    """What is written down of evaluated checkpoints, and of those whose decision may still come; by step."""
    known = {c.step: CheckpointRecord.of(c, error=_LATE) for c in waiting}
    for r in records:
        checkpoint, key = r.evaluation.checkpoint, r.evaluation.key or None
        known[r.step] = CheckpointRecord.of(checkpoint, evaluation=key, lag=r.lag, error=r.error)
    return tuple(known[step] for step in sorted(known))


def keep_only(folder: Path, steps: set[int]) -> None:
    """Delete the weights of all other steps."""
    for path in (folder / "checkpoints").glob("*"):
        if path.name.isdecimal() and int(path.name) not in steps:
            shutil.rmtree(path, ignore_errors=True)
