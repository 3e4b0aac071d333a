"""A study under a launcher: `torchrun --nproc-per-node N -m truing run STUDY`, or `accelerate launch`.

All processes train each run together, one run after the other. Rank 0 holds the study's lock, writes, evaluates and
reports; the others train along and wait for its decisions.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from truing.backends import load_trainer
from truing.catalog.datasets import load_dataset
from truing.config import StudyConfig
from truing.core.distributed import rank_and_world, start_ranks
from truing.core.errors import ConfigError, TrainerError, WorkError, boundary
from truing.core.records import Checkpoint, Decision, Run
from truing.studies.run import Progress, RunState, close_engines, execute_run, open_study, owed_runs, twin_of

__all__ = ["run_together"]


def run_together(
    config: StudyConfig, out: Path, notify: Callable[[Progress], None] = lambda news: None
) -> list[RunState]:
    """Run what a study owes in all processes of a launcher; each of them calls this.

    Returns:
        How each run that was owed ended, on every rank.

    Raises:
        UserError: The study must be mended.
    """
    _check(config)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    ranks = start_ranks()
    locks: list[FileLock] = []

    def claim() -> list[Run]:
        locks.append(open_study(config, out))
        return owed_runs(config, out)

    owed = ranks.share(claim)
    states: list[RunState] = []
    known = {run.id for run in owed}
    try:
        while owed:
            run = owed.pop(0)
            ended: list[RunState] = []
            if ranks.is_first:
                ended.append(execute_run(config, run, out, notify))
            else:
                _train_along(config, run, out)
            state = ranks.share(ended.pop)
            states.append(state)
            twin = twin_of(run)
            if state.state == "stopped" and config.stopping.mode == "both" and twin.id not in known:
                known.add(twin.id)
                owed.append(twin)
    finally:
        close_engines(out)
        for lock in locks:
            lock.release()
    return states


def _end_with(launcher: int) -> None:
    """End when the launcher has died: it starts its processes in sessions of their own, so nobody else ends them."""
    while os.getppid() == launcher:
        time.sleep(0.5)
    os._exit(1)


def _check(config: StudyConfig) -> None:
    if config.workers > 1:
        raise ConfigError(
            "a launcher's processes train one run at a time",
            f"workers {config.workers}",
            "workers 1",
            "set workers to 1, or start truing without the launcher",
        )
    for run in config.runs():
        trainer = load_trainer(config.trainer_of(run), config.training, config)
        if not trainer.spreads:
            raise ConfigError(
                f"the trainer {config.trainer_of(run)} works in one process",
                f"{rank_and_world()[1]} processes",
                "trainers that spread, such as peft",
                "start truing without the launcher",
            )


def _train_along(config: StudyConfig, run: Run, out: Path) -> None:
    """Train as rank 0 does.

    An error that rank 0 told of is rank 0's to record. Any other is this rank's alone: it ends the process, and with it
    the launcher ends all the others, which would wait for this one in vain.
    """

    def decided(checkpoint: Checkpoint) -> Decision:
        raise AssertionError("rank 0 alone evaluates")

    dataset = load_dataset(run.dataset, config.datasets)
    trainer = load_trainer(config.trainer_of(run), config.training, config)
    try:
        with boundary(f"run {run.id}", TrainerError):
            trainer.train(run, dataset, out / "runs" / run.id, decided)
    except WorkError as error:
        if not getattr(error, "of_rank_0", False):
            raise
