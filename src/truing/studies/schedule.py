"""Runs of a study in worker processes on this machine.

Workers ignore Ctrl-C (the parent kills them: every file they write appears whole or not at all) and end by themselves
when the parent dies, however it dies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path

from truing.config import StudyConfig
from truing.core.errors import TrainerError
from truing.core.records import Run
from truing.studies.plan import plan_study
from truing.studies.run import Progress, RunState, execute_run, open_study, owed_runs, twin_of

__all__ = ["run_study"]

_events: Queue[Progress] | None = None


def run_study(config: StudyConfig, out: Path, notify: Callable[[Progress], None] = lambda news: None) -> list[RunState]:
    """Run what a study owes, `config.workers` runs at a time; `notify` is called from a thread of this process.

    Returns:
        How each run that was owed ended.

    Raises:
        UserError: The study must be mended; running runs were ended and go on the next time.
        TrainerError: A worker process died.
        KeyboardInterrupt: Ctrl-C; everything finished is kept.
    """
    plan_study(config)
    lock = open_study(config, out)
    try:
        owed = owed_runs(config, out)
        return _run_all(config, owed, out, notify) if owed else []
    finally:
        lock.release()


def _run_all(config: StudyConfig, owed: list[Run], out: Path, notify: Callable[[Progress], None]) -> list[RunState]:
    context = multiprocessing.get_context("spawn")
    events: Queue[Progress] = context.Queue()
    # By the study's workers, however few runs are left: sums in another number of threads end in other bits.
    threads = max(1, (os.cpu_count() or 1) // config.workers)
    listener = threading.Thread(target=_listen, args=(events, notify), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(
        config.workers, mp_context=context, initializer=_start_worker, initargs=(events, threads, os.getpid())
    )
    try:
        states = _collect(pool, config, owed, out)
        pool.shutdown()
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        events.put(Progress("", -1))
        listener.join(timeout=5)
        events.close()
        if listener.is_alive():  # a killed worker had the queue's lock: nobody writes or reads any more
            events.cancel_join_thread()
        else:
            events.join_thread()
    return states


def _collect(pool: ProcessPoolExecutor, config: StudyConfig, owed: list[Run], out: Path) -> list[RunState]:
    waiting: dict[Future[RunState], Run] = {pool.submit(_execute, config, run, out): run for run in owed}
    known = {run.id for run in owed}
    states = []
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
            states.append(state)
            twin = twin_of(run)
            if state.state == "stopped" and config.stopping.mode == "both" and twin.id not in known:
                known.add(twin.id)
                waiting[pool.submit(_execute, config, twin, out)] = twin
    return states


def _listen(events: Queue[Progress], notify: Callable[[Progress], None]) -> None:
    while (news := events.get()).step >= 0:
        notify(news)


def _start_worker(events: Queue[Progress], threads: int, parent: int) -> None:
    global _events  # the one way to hand a queue to the tasks of a process pool
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(
        OMP_NUM_THREADS=str(threads),
        TOKENIZERS_PARALLELISM="false",
        TRANSFORMERS_VERBOSITY="error",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TQDM_DISABLE="1",
    )
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _execute(config: StudyConfig, run: Run, out: Path) -> RunState:
    assert _events is not None, "run_study starts its workers with a queue"
    return execute_run(config, run, out, _events.put)
