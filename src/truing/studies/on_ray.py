"""A study's runs as Ray tasks, on a cluster whose nodes see the study's folder.

A run is one task with declared resources; Ray places it, and starts it anew where a worker or a node is lost, and then
it goes on from what the folder holds: what was in flight is repeated, nothing else. Processes are used again, so a base
model is loaded once in each, and each keeps to its GPU. A judge that is a model on these machines may be one actor that
all runs ask, instead of one in each process. The driver holds the study's lock; if it dies, its tasks end with it, and
the next driver goes on. What is computed is that of a worker process with as many threads as a run has CPUs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from truing.backends import LENT, load_completer, local_completers
from truing.config import StudyConfig
from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.errors import ConfigError, JudgeError, MissingExtraError, StoreError, TrainerError
from truing.core.records import Run
from truing.studies.run import Progress, RunState, execute_run, measure_judge, worker_environment

RETRIES = 3
"""How often a run is begun anew whose worker was lost."""
RESTARTS = 20
"""How often the judge of all runs is. Calls are repeated until then: one that comes while it is away fails at once."""
LOST, PLACING = 60.0, 900.0
"""Seconds after which a judge that does not answer is told to be lost, and after which the study ends for it."""

_GPUS: list[dict[str, list[str]]] = []
"""What Ray gave each run of this process; CUDA keeps to the first."""
_BESIDE = "beside"
"""The group of calls that an actor answers while it answers others."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what is taken of it: `{"CPU": 1, "GPU": 0.25, "big": 1}`, the last declared by its nodes."""

    address: str
    """`ray`: the cluster of this machine or of RAY_ADDRESS, else one that is started here; or `ray://...`."""
    run: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    """Of one run."""
    judge: Mapping[str, float] = field(default_factory=dict)
    """Of the judge that all runs share; empty: each process has its own."""


@contextmanager
def ray_tasks(
    cluster: Cluster, config: StudyConfig, out: Path, notify: Callable[[Progress], None]
) -> Iterator[tuple[Callable[[], RunState], Callable[[Run], Future[RunState]]]]:
    """What measures the judge on a cluster, and what begins a run there.

    Args:
        cluster: Which one.
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
    before = signal.getsignal(signal.SIGTERM)
    environment = _environment(cluster.run) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ray.init(
            None if cluster.address == "ray" else cluster.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
        )
    except (ConnectionError, TimeoutError, ValueError) as error:
        todo = "start one (`ray start --head`), or give its address"
        raise ConfigError(
            "cannot reach a Ray cluster", f"{cluster.address}: {str(error).splitlines()[0]}", todo=todo
        ) from error
    with suppress(ValueError):  # outside of the main thread
        signal.signal(signal.SIGTERM, before)  # in place of Ray's own, which prints a dump
    try:
        judges = _shared_judges(cluster, ray.nodes())
        with _news(notify) as told:
            # without max_calls a process with a GPU would end with its run, and load the base again for the next
            task = ray.remote(**_options(cluster.run), max_retries=RETRIES, max_calls=0)(_work)
            given = config, out.resolve(), Path.cwd(), told, judges
            begun: list[Future[RunState]] = []

            def begin(run: Run | None) -> Future[RunState]:
                begun.append(_result(task.remote(run, *given).future()))
                return begun[-1]

            with _watching(judges, cluster.judge, begun, notify):
                yield lambda: begin(None).result(), begin
    finally:
        ray.shutdown()


def _environment(resources: Mapping[str, float]) -> dict[str, str]:
    return worker_environment(max(1, int(resources.get("CPU", 1))))


def _options(resources: Mapping[str, float]) -> dict[str, Any]:
    own = {name: n for name, n in resources.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": resources.get("CPU", 1), "num_gpus": resources.get("GPU", 0), "resources": own}


def _check_resources(who: str, nodes: list[dict[str, Any]], resources: Mapping[str, float]) -> None:
    """Raise unless some node has what a run or the judge needs."""
    able = [node for node in nodes if all(node["Resources"].get(name, 0) >= n for name, n in resources.items())]
    if not able:
        has = "; ".join(
            ", ".join(f"{k}={v:g}" for k, v in sorted(n["Resources"].items()) if ":" not in k) for n in nodes
        )
        needed = ", ".join(f"{name}={n:g}" for name, n in resources.items())
        raise ConfigError(
            f"no node of the Ray cluster can take {who}", f"{needed}; nodes have {has}", todo="ask for less"
        )


# A judge that all runs share.


class _Actor:
    """Loads models as judges once, and answers one caller after the other; beside that it says where it is."""

    def __init__(self, name: str, folder: Path) -> None:
        _enter(folder)
        self._completer = load_completer(name)

    def place(self) -> str:
        """The node on which it is."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def complete(self, requests: list[ChatRequest]) -> list[ChatResult] | Exception:
        """The results; what is raised is returned, for Ray would wrap it."""
        try:
            return self._completer.complete(requests)
        except Exception as error:  # noqa: BLE001  # raised again by the caller
            return error


class SharedCompleter(Completer):
    """Has an actor answer: all requests of a call at once, so the results are those of a model here, bit for bit."""

    def __init__(self, name: str, actor: Any) -> None:
        self._here, self._actor = load_completer(name), actor
        self.together = self._here.together

    def identify(self, model: str) -> str:
        """As the completer here does, which loads no model for that."""
        return self._here.identify(model)

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order.

        Raises:
            JudgeError: The model cannot be loaded or run, or its worker was lost again and again.
        """
        import ray

        try:
            # not ray.get, which would give this run's CPUs to another run meanwhile
            results = self._actor.complete.remote(list(requests)).future().result()
        except ray.exceptions.RayError as error:
            todo = "run again (finished work is kept), with more memory for the judge if that was short"
            raise JudgeError("the judge's worker was lost", str(error).splitlines()[0], todo=todo) from error
        if isinstance(results, Exception):
            raise results
        yield from results


def _shared_judges(cluster: Cluster, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Start the actors: name of a completer that loads models -> actor; then the rest must do for a run."""
    import ray

    actors: dict[str, Any] = {}
    for name in local_completers() if cluster.judge else ():
        _check_resources("the judge", nodes, cluster.judge)
        often = {"max_restarts": RESTARTS, "max_task_retries": -1, "concurrency_groups": {_BESIDE: 1}}
        kind = ray.remote(**_options(cluster.judge), **often)(_Actor)
        environment = {"env_vars": _environment(cluster.judge)}
        actors[name] = kind.options(runtime_env=environment).remote(name, Path.cwd())
        taken = ray.get(actors[name].place.options(concurrency_group=_BESIDE).remote())
        for own in (node["Resources"] for node in nodes if node["NodeID"] == taken):
            own.update({name: own.get(name, 0) - n for name, n in cluster.judge.items()})
    _check_resources("a run", nodes, cluster.run)
    return actors


@contextmanager
def _watching(
    judges: Mapping[str, Any],
    needed: Mapping[str, float],
    begun: list[Future[RunState]],
    notify: Callable[[Progress], None],
) -> Iterator[None]:
    """Have a judge that was lost and finds no place end all that was begun."""
    ended = threading.Event()

    def watch(judge: Any) -> None:
        error = _wait_for_loss(judge, ", ".join(f"{name}={n:g}" for name, n in needed.items()), notify, ended)
        for future in begun if error else ():
            with suppress(InvalidStateError):  # it is done
                future.set_exception(error)

    watchers = [threading.Thread(target=watch, args=(judge,), daemon=True) for judge in judges.values()]
    for watcher in watchers:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join(timeout=5)


def _wait_for_loss(
    judge: Any, needed: str, notify: Callable[[Progress], None], ended: threading.Event
) -> JudgeError | None:
    """Ask a judge where it is, again and again; an error once it has been lost for too long, None at the end.

    Ray places it anew by itself. But a run may have taken what it needs, and then wait for it.
    """
    import ray

    def ask() -> tuple[Any, float, bool]:
        return judge.place.options(concurrency_group=_BESIDE).remote(), time.monotonic(), False

    asked, since, told = ask()
    while not ended.wait(LOST / 12):
        silent = time.monotonic() - since
        if ray.wait([asked], timeout=0)[0]:
            if told:
                notify(Progress("", 0, said="the judge of all runs is there again"))
            asked, since, told = ask()
        elif silent > PLACING:
            return JudgeError(
                "the judge of all runs was lost and finds no place",
                f"no node had {needed} free in {PLACING / 60:.0f} minutes; runs that wait for it may have taken it",
                todo="run again (finished work is kept); declare a resource for it alone on two nodes "
                "(`ray start --resources '{\"judge\": 1}'`, --judge-resources judge=1), or let runs take less",
            )
        elif silent > LOST and not told:
            told = True
            notify(Progress("", 0, said=f"the judge of all runs was lost and waits for a node with {needed} free"))
    return None


# What happens on a node.


def _enter(folder: Path) -> None:
    """Go where the study was started, if it is there: relative paths and modules of a user's own are found in it."""
    if folder.is_dir():
        os.chdir(folder)
        sys.path[:0] = [] if str(folder) in sys.path else [str(folder)]


def _keep_to_one_gpu() -> None:
    """End a process that is given another GPU than it uses; Ray begins the run in another one.

    Ray's own way is to end every process that used a GPU with its task, so that the next would load the base again.
    """
    import ray

    _GPUS.append(ray.get_runtime_context().get_accelerator_ids())
    if _GPUS[-1] != _GPUS[0]:
        os._exit(1)


def _work(
    run: Run | None, config: StudyConfig, out: Path, folder: Path, told: Any, judges: dict[str, Any]
) -> RunState | BaseException:
    """One run, or the measurement of the judge; what it raises is returned, for Ray would wrap it."""
    try:
        _enter(folder)
        _keep_to_one_gpu()
        LENT.clear()
        LENT.update({name: SharedCompleter(name, actor) for name, actor in judges.items()})
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
        error = done.exception()
        if isinstance(error, ray.exceptions.RayError):
            error = TrainerError(
                f"a run's worker was lost {RETRIES + 1} times",
                str(error).splitlines()[0],
                todo="run again (finished work is kept), with more memory for each run if that was short",
            )
        value = error or done.result()
        with suppress(InvalidStateError):  # the study has ended for another reason
            if isinstance(value, BaseException):
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

    there = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}, "max_restarts": -1}
    queue = Queue(actor_options=there)
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            try:
                notify(queue.get(timeout=0.5))
            except Empty:
                pass
            except ray.exceptions.RayError:
                ended.wait(1)  # it was killed and starts anew, or the head is gone, and the study with it

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield partial(_tell, queue)
    finally:
        ended.set()
        listener.join(timeout=5)
        queue.shutdown(force=True)
