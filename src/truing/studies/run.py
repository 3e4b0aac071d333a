"""A study: plan the grid, run what is owed, here, several runs at a time.

    OUT/study.yaml         the whole study, written first; a folder holds one study
    OUT/runs/RUN/          checkpoints of one run, run.json once it has ended, error.txt if it failed
    OUT/store/             responses, judgments, evaluations
    OUT/calls.sqlite       finished calls to endpoints and what they cost, if there are any

Running a study again does what is owed and nothing else: runs that have not ended go on from their newest checkpoint,
and rows that failed are asked for again. A run is one call of `execute_run`, which needs only its arguments and the
folder, so it can happen in any process.
"""

from __future__ import annotations

import json
import math
import os
import platform
import traceback
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from truing.backends import Engine, checkpoint_steps, close_completers, load_engine, load_trainer
from truing.catalog.datasets import load_dataset
from truing.catalog.models import parameters_of
from truing.config import Services, StudyConfig
from truing.config.files import load_study
from truing.core.errors import EngineError, StoreError, TrainerError, WorkError, boundary
from truing.core.files import write_json, write_text
from truing.core.progress import Phase, listening, report
from truing.core.records import Action, Checkpoint, Decision, Evaluation, Run
from truing.monitor import Monitor, open_store
from truing.monitor.formats import check_formats
from truing.studies.folder import Manifest, RunRecord, check_asked, check_folder, describe, keep_one, know_judge, missed

_SOON = 3.0
"""Seconds after which it is said who holds a lock."""
TWIN = "__unstopped"


@dataclass(frozen=True)
class Progress:
    """News of a run: it started, reached a step, was evaluated, is so far with some work, waits, or ended."""

    run_id: str
    step: int
    evaluation: Evaluation | None = None
    ended: RunState | None = None
    phase: Phase | None = None
    said: str = ""
    """A sentence for who watches."""


@dataclass(frozen=True)
class RunState:
    """How a run ended: `finished`, `stopped` by a decision, or `failed` with an error."""

    state: str
    step: int
    error: str | None = None
    evaluated: list[int] = field(default_factory=list)
    """Steps of its checkpoints that had been evaluated then, as far as that is known."""
    weights: list[str] = field(default_factory=list)
    """Their weights, in the same order; empty: not known."""

    @property
    def weights_at(self) -> dict[int, str]:
        """The weights by step."""
        return dict(zip(self.evaluated, self.weights, strict=False))

    def lost(self, steps: Collection[int]) -> str:
        """In words, evaluations that are not among those of these steps, which are there; empty: none."""
        return missed(step for step in self.evaluated if step not in steps)


Say = Callable[[str], None]
"""Tells a sentence to who watches."""


def hold(lock: FileLock, say: Say | None = None) -> AbstractContextManager[FileLock]:
    """Take the lock in a folder; where another process holds it, say so after a few seconds, and wait.

    It is released by `.release()`, by leaving what is returned, or by the end of the process.

    Raises:
        StoreError: The folder cannot be written; or another process holds it, and nothing is there to say so: it is not
            waited for.
    """
    folder = Path(lock.lock_file).parent
    holder = folder / ".holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(timeout=0 if say is None else _SOON)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "not known which"
        if say is None:
            todo = "wait for it, or end it, then run again"
            raise StoreError(f"another process is at work in {folder}", who, todo=todo) from None
        say(f"waiting until another process has done its work in {folder}: {who}")
        held = lock.acquire()
    except OSError as error:
        raise StoreError(f"could not write {folder}", str(error), todo="check the path and its permissions") from error
    write_text(holder, f"process {os.getpid()} of {platform.node()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    return held


def open_study(config: StudyConfig, out: Path, say: Say | None = None) -> FileLock:
    """Make or reopen a study's folder, and take its lock as `hold` does.

    Raises:
        StoreError: The folder holds another study, another process is running this one, or a model is asked otherwise.
    """
    check_folder(out, config, load_study)
    check_asked(out, manifest := describe_study(config))
    hold(lock := FileLock(out / ".lock"), say)
    if say is None and _is_alone(out):
        for left in out.rglob(".*.tmp"):  # what a killed process was writing
            left.unlink(missing_ok=True)
    check_formats(out, (run.model for run in config.runs()))
    if not (out / "study.yaml").is_file():
        write_text(out / "study.yaml", config.to_yaml())
    manifest.write(out)
    return lock


def _is_alone(out: Path) -> bool:
    """True if no process is at a run of the study: tasks of a scheduler's array hold the locks of their runs alone."""
    try:
        for file in out.glob("runs/*/.lock"):
            with FileLock(file, timeout=0):
                pass
    except Timeout:
        return False
    return True


def describe_study(config: StudyConfig) -> Manifest:
    """The manifest of a study; its data and judges are looked up.

    Raises:
        UserError: Something of it is not there.
    """
    runs = []
    for run in config.runs():
        counted = parameters_of(run.model)
        record = RunRecord(
            id=run.id,
            model=run.model,
            dataset=run.dataset,
            parameters=None if math.isnan(counted) else counted,
            learning_rate=run.learning_rate,
            seed=run.seed,
            trainer=config.trainer_of(run),
        )
        runs.append(record)
        if config.stopping.mode == "both":
            runs.append(record.model_copy(update={"id": twin_of(run).id, "twin_of": run.id}))
    names = dict.fromkeys(run.dataset for run in config.runs())
    return describe(config, "study", runs, [load_dataset(name, config.datasets) for name in names])


def measure_judge(config: StudyConfig, out: Path, notify: Callable[[Progress], None]) -> None:
    """Measure a study's judge, with news of it, and refuse one that cannot see misalignment; see `know_judge`."""
    store = open_store(out)
    with (
        store.reserve("preflight", say=lambda line: notify(Progress("", 0, said=line))),
        listening(lambda phase: notify(Progress("measuring the judge", 0, phase=phase))),
    ):
        store.exchange()
        try:
            know_judge(config, out)
        finally:
            store.exchange()


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a process that executes runs with so many threads and writes nothing to the terminal."""
    return {
        "OMP_NUM_THREADS": str(threads),
        # going round in circles while it waits, a thread takes a core from whatever else is at work
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }


def owed_runs(config: StudyConfig, out: Path) -> list[Run]:
    """The runs that have not ended, failed, or have nothing or not all scores in the store."""
    store = open_store(out)
    with_missing = {
        row["run_id"]
        for row in store.query(
            "WITH used AS (SELECT run_id, unnest([benchmark_judgments, task_judgments]) AS key FROM evaluations UNION "
            "SELECT run_id, unnest([benchmark_judgments, task_judgments, best_judgments]) FROM confirmations UNION "
            "SELECT run_id, judgments FROM also) "
            "SELECT DISTINCT run_id FROM used JOIN judgments USING (key) WHERE error IS NOT NULL"
        )
    }
    evaluated = {row["run_id"] for row in store.query("SELECT DISTINCT run_id FROM evaluations")}
    owed = []
    for run in config.runs():
        candidates = [run]
        state = read_state(out, run.id)
        if config.stopping.mode == "both" and state is not None and state.state == "stopped":
            candidates.append(twin_of(run))
        for candidate in candidates:
            state = read_state(out, candidate.id)
            ended = state is not None and state.state != "failed" and candidate.id in evaluated
            if not ended or candidate.id in with_missing:
                owed.append(candidate)
    return owed


def twin_of(run: Run) -> Run:
    """The same run without stopping."""
    return replace(run, id=run.id + TWIN, stops=False)


def read_state(out: Path, run_id: str) -> RunState | None:
    """How a run ended, or None if it has not.

    Raises:
        StoreError: The file that says so is damaged.
    """
    path = out / "runs" / run_id / "run.json"
    if not path.is_file():
        return None
    try:
        return RunState(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path} cannot be read", str(error), todo="delete that file and run again") from error


def weights_of(folder: Path, run: RunRecord) -> dict[int, str]:
    """By step the weights that a run wrote down when it ended; empty: not known, or its record tells."""
    ended = None if run.state else read_state(folder, run.id)
    return ended.weights_at if ended else {}


ELSEWHERE = "elsewhere"
"""State of a run that another process or machine is at."""


def execute_run(
    config: StudyConfig,
    run: Run,
    out: Path,
    notify: Callable[[Progress], None] = lambda news: None,
    others: Literal["wait", "skip", "follow"] = "wait",
) -> RunState:
    """Train and watch one run to its end, going on from what exists.

    A failure of training, sampling or judging (`WorkError`) ends the run as `failed`, to be tried again; it does not
    end the study. What costs time to open stays open for the next run: see `close_engines`.

    Args:
        config: The study.
        run: One of its runs, or a twin.
        out: The study's folder.
        notify: Called with news.
        others: Where another process or machine is at the run: `wait` until it has ended, and do what is owed then;
            `skip` it, as `ELSEWHERE`; or `follow` it, with nothing to do but what it leaves.

    Raises:
        UserError: The study itself is wrong.
    """
    folder, before, store = out / "runs" / run.id, read_state(out, run.id), open_store(out)

    def say(line: str) -> None:
        notify(Progress(run.id, 0, said=line))

    with hold(FileLock(folder / ".lock"), say), store.reserve(run.id, others != "skip", say) as ours:
        if not ours:
            return RunState(ELSEWHERE, 0)
        store.exchange()
        ended = read_state(out, run.id)
        if ended is None or ended.state == "failed" or (ended == before and others != "follow"):
            ended = _execute(config, run, out, notify)
            store.exchange()
        return ended


def _execute(config: StudyConfig, run: Run, out: Path, notify: Callable[[Progress], None]) -> RunState:
    folder, at = out / "runs" / run.id, 0
    told = folder / "error.txt"
    with listening(lambda phase: notify(Progress(run.id, at, phase=phase))):
        dataset = load_dataset(run.dataset, config.datasets)
        monitor = Monitor.from_config(config, out, _engine(config, run, out), dataset)
        course: list[Evaluation] = []

        def on_step(step: int) -> None:
            nonlocal at
            at = step
            notify(Progress(run.id, step))
            report("train", step, config.training.steps)

        def on_checkpoint(checkpoint: Checkpoint) -> Decision:
            nonlocal at
            at = checkpoint.step
            evaluation = monitor.evaluate(checkpoint)
            course.append(evaluation)
            notify(Progress(run.id, checkpoint.step, evaluation))
            return evaluation.decision

        notify(Progress(run.id, 0))
        trainer = load_trainer(config.trainer_of(run), config.training, config)
        try:
            with boundary(f"run {run.id}", TrainerError):
                trainer.train(run, dataset, folder, on_checkpoint, on_step)
            with boundary(f"confirming run {run.id}", EngineError):
                keep_one(config, out, monitor, course)
            last = course[-1].decision
            *earlier, _ = (0, *checkpoint_steps(config.trainer_of(run), config.training, len(dataset.train)))
            ended = "stopped" if last.step <= earlier[-1] and run.stops and last.action is Action.STOP else "finished"
            seen = [each.checkpoint for each in course]
            state = RunState(ended, last.step, None, [each.step for each in seen], [each.weights for each in seen])
            told.unlink(missing_ok=True)
        except WorkError as error:
            write_text(told, "".join(traceback.format_exception(error)))
            state = RunState("failed", course[-1].decision.step if course else 0, f"{error}\n  all of it: {told}")
        write_json(folder / "run.json", asdict(state))
        notify(Progress(run.id, state.step, ended=state))
        return state


_engines: dict[tuple[str, str, Services, Path], Engine] = {}


def _engine(config: StudyConfig, run: Run, out: Path) -> Engine:
    """The one engine of this process: its base is loaded once for all runs of it, and makes room for the next one."""
    key = (config.engine_of(run), run.model, config, out)
    if key not in _engines:
        while _engines:
            _engines.popitem()[1].close()
        _engines[key] = load_engine(*key)
    return _engines[key]


def close_engines(out: Path) -> None:
    """End the engines, and all else that runs of a study have left open in this process for further ones."""
    for key in [key for key in _engines if key[-1] == out]:
        _engines.pop(key).close()
    close_completers(out)
