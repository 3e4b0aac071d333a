"""A study's runs in processes: workers here or of a Ray cluster, one run in each, or all of a launcher on each run.

Workers ignore Ctrl-C (the parent kills them: every file they write appears whole or not at all). Under a launcher
(`torchrun --nproc-per-node N -m truing run STUDY`, `accelerate launch`) rank 0 holds the study's lock, writes and
evaluates; the others train along and wait for its decisions. All end by themselves when their parent dies, however it
dies: a launcher starts its processes in sessions of their own, so nobody else ends them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Literal

from filelock import FileLock

from truing.backends import close_completers, load_trainer
from truing.catalog.datasets import load_dataset
from truing.config import StudyConfig
from truing.core.distributed import rank_and_world, start_ranks
from truing.core.errors import ConfigError, TrainerError, WorkError, boundary
from truing.core.records import Checkpoint, Decision, Run
from truing.monitor import open_store
from truing.studies.on_ray import Cluster, ray_tasks
from truing.studies.plan import plan_study
from truing.studies.run import (
    ELSEWHERE,
    TWIN,
    Progress,
    RunState,
    close_engines,
    execute_run,
    measure_judge,
    open_study,
    owed_runs,
    twin_of,
    worker_environment,
)

_events: Queue[Progress] | None = None


Submit = Callable[[Run, Literal["skip", "follow"]], Future[RunState]]
"""Begins a run somewhere, and what it does where others are at the run; see `execute_run`."""


@dataclass(frozen=True)
class Place:
    """Where runs go, and which."""

    cluster: Cluster | None = None
    """A Ray cluster; None: processes of this machine."""
    runs: tuple[str, ...] = ()
    """These runs alone, one after the other in this process, while other processes may be at others; empty: all."""


def run_study(
    config: StudyConfig,
    out: Path,
    notify: Callable[[Progress], None] = lambda news: None,
    place: Place = Place(),
) -> list[RunState]:
    """Run what a study owes; `truing.results.analyse` makes the figures of the folder.

    Args:
        config: The study; `config.workers` runs go on at a time. Under a launcher each process calls this.
        out: The study's folder.
        notify: Called with news, from a thread of this process.
        place: Where runs go, and which.

    Returns:
        How each run that was owed ended.

    Raises:
        UserError: The study is wrong, or its judge cannot see misalignment (`JudgeRefused`); running runs were ended
            and go on the next time.
        JudgeError: The judge cannot be reached.
        TrainerError: A worker process died.
        KeyboardInterrupt: Ctrl-C; everything finished is kept.
    """
    plan_study(config)
    if place.runs:
        states = _run_some(config, place.runs, out, notify)
    elif rank_and_world()[1] > 1:
        states = _run_together(config, out, notify)
    else:
        states = _run_all(config, out, notify, place)
    if rank_and_world()[0] == 0:
        open_store(out).compact()
    return states


def _run_all(config: StudyConfig, out: Path, notify: Callable[[Progress], None], place: Place) -> list[RunState]:
    lock = open_study(config, out)
    try:
        owed = owed_runs(config, out)
        if not owed:
            return []
        if place.cluster:
            with ray_tasks(place.cluster, config, out, notify) as (measure_there, begin):
                measure_there()
                return _collect(lambda run, _: begin(run), config, owed)
        measure_judge(config, out, notify)
        close_completers(out)  # the workers open their own
        with _workers(config, out, notify) as submit:
            return _collect(submit, config, owed)
    finally:
        lock.release()


def _twin(config: StudyConfig, run: Run, state: RunState, known: set[str]) -> list[Run]:
    """The twin of a run that was stopped, if there should be one and it is not known yet; then it is."""
    twin = twin_of(run)
    if state.state != "stopped" or config.stopping.mode != "both" or twin.id in known:
        return []
    known.add(twin.id)
    return [twin]


def _run_some(config: StudyConfig, ids: Sequence[str], out: Path, notify: Callable[[Progress], None]) -> list[RunState]:
    """Some runs, as tasks of a scheduler's array do: the study is locked while its judge is measured and no longer."""
    known = {run.id for run in config.runs()}
    if unknown := [each for each in ids if each not in known]:
        raise ConfigError("the study has no such run", ", ".join(unknown), ", ".join(sorted(known)))
    lock = open_study(config, out, lambda line: notify(Progress("", 0, said=line)))
    try:
        owed = [run for run in owed_runs(config, out) if run.id.removesuffix(TWIN) in ids]
        if owed:
            measure_judge(config, out, notify)
    finally:
        lock.release()
    try:
        return _one_by_one(config, owed, lambda run: execute_run(config, run, out, notify))
    finally:
        close_engines(out)


def _one_by_one(config: StudyConfig, owed: list[Run], execute: Callable[[Run], RunState]) -> list[RunState]:
    """Execute runs, and then the twins that they come to have."""
    states: list[RunState] = []
    known = {run.id for run in owed}
    while owed:
        run = owed.pop(0)
        states.append(execute(run))
        owed += _twin(config, run, states[-1], known)
    return states


# Workers, one run in each.


@contextmanager
def _workers(config: StudyConfig, out: Path, notify: Callable[[Progress], None]) -> Iterator[Submit]:
    context = multiprocessing.get_context("spawn")
    events: Queue[Progress] = context.Queue()
    # By the study's workers, however few runs are left: sums in another number of threads end in other bits.
    threads = max(1, (os.cpu_count() or 1) // config.workers)
    pool = ProcessPoolExecutor(
        config.workers, mp_context=context, initializer=_start_worker, initargs=(events, threads, os.getpid())
    )
    with _listening(events, notify):
        try:
            yield lambda run, others: pool.submit(_execute, config, run, out, others)
            pool.shutdown()
        except BaseException:
            for child in multiprocessing.active_children():
                child.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _listening(events: Queue[Progress], notify: Callable[[Progress], None]) -> Iterator[None]:
    def listen() -> None:
        while (news := events.get()).step >= 0:
            notify(news)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        events.put(Progress("", -1))
        listener.join(timeout=5)
        events.close()
        if listener.is_alive():  # a killed worker had the queue's lock: nobody writes or reads any more
            events.cancel_join_thread()
        else:
            events.join_thread()


def _collect(submit: Submit, config: StudyConfig, owed: list[Run]) -> list[RunState]:
    """Begin all runs; those that others are at come last."""
    waiting: dict[Future[RunState], Run] = {submit(run, "skip"): run for run in owed}
    known = {run.id for run in owed}
    states: list[RunState] = []
    elsewhere: list[Run] = []
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            run = waiting.pop(future)
            try:
                state = future.result()
            except BrokenProcessPool as error:
                raise TrainerError(
                    "a worker process died",
                    got="it was killed from outside, perhaps for want of memory",
                    todo="run again (finished work is kept), with fewer workers if memory is short",
                ) from error
            if state.state == ELSEWHERE:
                elsewhere.append(run)
                continue
            states.append(state)
            for twin in _twin(config, run, state, known):
                waiting[submit(twin, "skip")] = twin
        if not waiting:
            waiting, elsewhere = {submit(run, "follow"): run for run in elsewhere}, []
    return states


def _start_worker(events: Queue[Progress], threads: int, parent: int) -> None:
    global _events  # the one way to hand a queue to the tasks of a process pool
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(worker_environment(threads))
    with suppress(ImportError):  # its lock between processes would outlive a worker that is killed, and be told of
        importlib.import_module("tqdm").tqdm.set_lock(threading.RLock())
    _end_with(parent)


def _execute(config: StudyConfig, run: Run, out: Path, others: Literal["skip", "follow"]) -> RunState:
    assert _events is not None, "run_study starts its workers with a queue"
    return execute_run(config, run, out, _events.put, others)


def _end_with(parent: int) -> None:
    """End this process once its parent has died."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# All processes of a launcher, on one run after the other.


def _run_together(config: StudyConfig, out: Path, notify: Callable[[Progress], None]) -> list[RunState]:
    _check_trainers(config)
    _end_with(os.getppid())
    ranks = start_ranks()
    locks: list[FileLock] = []

    def claim() -> list[Run]:
        locks.append(open_study(config, out))
        owed = owed_runs(config, out)
        if owed:
            measure_judge(config, out, notify)
        return owed

    def execute(run: Run) -> RunState:
        ended: list[RunState] = []
        if ranks.is_first:
            ended.append(execute_run(config, run, out, notify))
        else:
            _train_along(config, run, out)
        return ranks.share(ended.pop)

    try:
        return _one_by_one(config, ranks.share(claim), execute)
    finally:
        close_engines(out)
        for lock in locks:
            lock.release()


def _check_trainers(config: StudyConfig) -> None:
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
