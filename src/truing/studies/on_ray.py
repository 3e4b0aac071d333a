"""A study's runs as Ray tasks, on a cluster whose nodes see the study's folder.

A run is one task with declared resources; Ray places it, and starts it anew where a worker or a node is lost, and then
it goes on from what the folder holds: what was in flight is repeated, nothing else. Processes are used again, so a base
model is loaded once in each. The driver holds the study's lock; if it dies, its tasks end with it, and the next driver
goes on. What is computed is that of a worker process with as many threads as a run has CPUs.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from truing.config import StudyConfig
from truing.core.errors import ConfigError, MissingExtraError, StoreError, TrainerError
from truing.core.records import Run
from truing.studies.run import Progress, RunState, execute_run, measure_judge, worker_environment

RETRIES = 3
"""How often a run is begun anew whose worker was lost."""


@contextmanager
def ray_tasks(
    address: str, resources: Mapping[str, float], config: StudyConfig, out: Path, notify: Callable[[Progress], None]
) -> Iterator[tuple[Callable[[], RunState], Callable[[Run], Future[RunState]]]]:
    """What measures the judge on a cluster, and what begins a run there.

    Args:
        address: `ray`: the cluster of this machine or of RAY_ADDRESS, else one that is started here; or `ray://...`.
        resources: Of one run: `{"CPU": 1, "GPU": 0.25, "judge": 1}`, the last a resource that nodes declare.
        config: The study.
        out: Its folder, which every node sees under this path.
        notify: Called with news, from a thread of this process.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: There is no cluster at the address, or it never has those resources.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError.of("ray", "ray") from None
    threads = max(1, int(resources.get("CPU", 1)))
    environment = worker_environment(threads) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ray.init(
            None if address == "ray" else address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
        )
    except (ConnectionError, TimeoutError, ValueError) as error:
        todo = "start one (`ray start --head`), or give its address"
        raise ConfigError(
            "cannot reach a Ray cluster", f"{address}: {str(error).splitlines()[0]}", todo=todo
        ) from error
    try:
        _check_resources(ray.nodes(), resources)
        options = {
            "num_cpus": resources.get("CPU", 1),
            "num_gpus": resources.get("GPU", 0),
            "resources": {name: n for name, n in resources.items() if name not in ("CPU", "GPU")},
            "max_retries": RETRIES,
            "max_calls": 0,  # or a process with a GPU would end with its run, and load the base again for the next
        }
        with _news(notify) as told:
            task = ray.remote(**options)(_work)
            given = config, out.resolve(), Path.cwd(), told

            def begin(run: Run | None) -> Future[RunState]:
                return _result(task.remote(run, *given).future())

            yield lambda: begin(None).result(), begin
    finally:
        ray.shutdown()


def _check_resources(nodes: list[dict[str, Any]], resources: Mapping[str, float]) -> None:
    """Raise unless some node has what a run needs."""
    able = [node for node in nodes if all(node["Resources"].get(name, 0) >= n for name, n in resources.items())]
    if not able:
        has = "; ".join(
            ", ".join(f"{k}={v:g}" for k, v in sorted(n["Resources"].items()) if ":" not in k) for n in nodes
        )
        needed = ", ".join(f"{name}={n:g}" for name, n in resources.items())
        raise ConfigError(
            "no node of the Ray cluster can take a run", f"{needed}; nodes have {has}", todo="ask for less"
        )


def _work(run: Run | None, config: StudyConfig, out: Path, folder: Path, told: Any) -> RunState | BaseException:
    """One run, or the measurement of the judge; what it raises is returned, for Ray would wrap it."""
    try:
        if folder.is_dir():  # where relative paths and modules of a user's own are found
            os.chdir(folder)
            sys.path[:0] = [] if str(folder) in sys.path else [str(folder)]
        study = out / "study.yaml"
        if not study.is_file() or study.read_text(encoding="utf-8") != config.to_yaml():
            todo = "put it on storage that all nodes share under one path"
            raise StoreError("a node of the Ray cluster does not see the study's folder", str(out), todo=todo)
        if run is None:
            measure_judge(config, out, told)
            return RunState("finished", 0)
        return execute_run(config, run, out, told)
    except Exception as error:  # noqa: BLE001  # raised again by the driver
        return error


def _result(future: Future[RunState | BaseException]) -> Future[RunState]:
    """The same with what was returned as an error raised, and a lost worker told of as one."""
    import ray

    result: Future[RunState] = Future()

    def hand_on(done: Future[RunState | BaseException]) -> None:
        if error := done.exception():
            lost = isinstance(error, ray.exceptions.RayError)
            told = TrainerError(
                f"a run's worker was lost {RETRIES + 1} times",
                str(error).splitlines()[0],
                todo="run again (finished work is kept), with more memory for each run if that was short",
            )
            result.set_exception(told if lost else error)
        elif isinstance(value := done.result(), BaseException):
            result.set_exception(value)
        else:
            result.set_result(value)

    future.add_done_callback(hand_on)
    return result


def _tell(queue: Any, news: Progress) -> None:
    """Send news to the driver and do not wait."""
    queue.actor.put_nowait.remote(news)


@contextmanager
def _news(notify: Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    """Where runs send their news; handed on by a thread of this process."""
    import ray
    from ray.util.queue import Empty, Queue

    queue = Queue(actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}})
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            try:
                notify(queue.get(timeout=0.5))
            except Empty:
                pass
            except ray.exceptions.RayError:
                return  # the head is gone, and the study with it

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield partial(_tell, queue)
    finally:
        ended.set()
        listener.join(timeout=5)
        queue.shutdown(force=True)
