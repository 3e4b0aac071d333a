"""A watch: the audit of a folder or URL into which a training is still saving, one checkpoint after the other.

    OUT/audit.yaml, manifest.json, store/   the audit of that folder: `truing audit` goes on with it, if asked the same
    OUT/watch.json                          what was seen of each checkpoint, and what was done on stop
    OUT/fetched/                            copies of checkpoints at a URL, until they were evaluated

A checkpoint is taken up once it is whole and nothing in its folder has changed between two polls. Then every one that
was taken up is evaluated, as an audit does: the answers of those that were evaluated before are stored. So they may
arrive in any order, and a process that begins again goes on. What is not whole, cannot be evaluated
or is gone is told and passed over, and tried again. On the first decision to stop, what was asked for is done, each
thing once. Only the end of a watch confirms what the run keeps; until then the run is unfinished, and the gate says
undecided.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock

from truing.catalog.models import resolve_model
from truing.config import AuditConfig
from truing.core.errors import DataError, EngineError, StoreError, TruingError, UserError, WorkError, boundary
from truing.core.files import content_key, write_text
from truing.core.records import Action, Checkpoint, Estimate, Evaluation
from truing.monitor import Monitor
from truing.monitor.formats import check_formats
from truing.studies import folder
from truing.studies.audit import Auditor, check_audit, describe_audit
from truing.studies.checkpoints import FoundRun, find_in_folders, merging, note_copies
from truing.studies.places import place_of, step_of
from truing.studies.run import hold
from truing.studies.watch_state import WATCH, Done, Seen, Stop, WatchState, load_watch
from truing.studies.watched import check_saved, watched, words_of

_AGAIN = 600.0
"""Seconds after which what failed or lacks scores is asked again, if nothing else comes before."""
_GONE = "it was deleted before it was whole"


@dataclass
class Watch:
    """Looks at a folder again and again; `poll` it, and `finish` it at the end.

    Args:
        config: The audit; its one entry of `checkpoints` is the folder or the URL.
        out: The watch's own folder.
        on_stop: What is done on the first decision to stop, by name; each raises `OSError` or `StoreError` if it fails.
        tell: Called with lines about what happens.
        notify: Called with each new evaluation.
        begin: Called with each checkpoint before it is asked.

    Raises:
        StoreError: Another process watches by this folder, it holds something else, or the URL cannot be listed.
        UserError: A name or a setting is wrong, or the judge cannot see misalignment.
        JudgeError: The judge cannot be reached.
    """

    config: AuditConfig
    out: Path
    on_stop: dict[str, Callable[[Stop], None]] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda line: None
    notify: Callable[[Evaluation], None] = lambda evaluation: None
    begin: Callable[[Checkpoint], None] = lambda checkpoint: None

    def __post_init__(self) -> None:
        config, out, tell = self.config, self.out, self.tell
        self.watched, self._away, self._here = watched(config.checkpoints[0], out), "", set[str]()
        benchmark, self.dataset = check_audit(config, out)
        folder.check_prompts(config.stopping, benchmark)
        if config.base is not None:
            resolve_model(config.base)
        self.lock = FileLock(out / ".lock")
        hold(self.lock)
        write_text(out / "audit.yaml", config.to_yaml())
        for line in self.watched.told:
            tell(line)
        self.state = load_watch(out) or WatchState(directory=self.watched.place)
        self.state.ended = False
        for name, done in self.state.done.items():
            if done.ended is None:
                tell(f"{name} on stop was begun, and the process ended before it was known how it went: not done again")
        self.moved, self._first = time.monotonic(), 0
        self._again = 0.0 if self._taken() else math.inf
        self.auditor = Auditor(
            config, out, self.dataset, self.notify, self.begin, self._bring, tell, merging(config, out)
        )
        self._remember()
        folder.know_judge(config, out)

    @property
    def run_id(self) -> str:
        """The run's name: that of the folder."""
        return self.watched.here.name

    def poll(self) -> bool:
        """Look once, and evaluate what has become whole; true if anything was evaluated.

        Raises:
            UserError: What concerns every checkpoint is wrong: the base, the disk, the judge.
        """
        changed = False
        for name in self._names():
            try:
                changed |= self._look(name)
            except OSError as error:  # it is being written or deleted, or the network's disk is away
                self._pass_over(name, "changing", f"it cannot be read now ({words_of(error)})")
            if changed and self.watched.one_by_one:
                break
        changed |= time.monotonic() >= self._again
        evaluated = self._evaluate() if changed else False
        for name in list(self.on_stop):
            self._act(name)
        if changed or time.time() - self.state.polled > 30:
            self._remember()
        return evaluated

    @property
    def idle(self) -> float:
        """Seconds since something changed in the folder or was evaluated, or the folder could not be read."""
        return time.monotonic() - self.moved

    @property
    def settled(self) -> bool:
        """True if nothing has changed since the poll before, so that nothing whole is left to take up."""
        return not self._away and all(seen.state != "changing" for seen in self.state.seen.values())

    @property
    def last_step(self) -> int:
        """Highest step of a checkpoint that was evaluated; 0: none was."""
        seen = self.state.seen.values()
        return max((s.record.step for s in seen if s.record and s.state == "evaluated"), default=0)

    def finish(self) -> bool:
        """Evaluate once more what is owed, confirm what the run keeps, and say that it has ended; true if any was."""
        evaluated = self._round(last=True)
        for name in list(self.on_stop):
            self._act(name)
        self.state.ended = True
        self._remember()
        return evaluated

    def close(self) -> None:
        """End the engine, and let others watch."""
        self.auditor.close()
        self.lock.release()

    # What lies in the folder.

    def _names(self) -> list[str]:
        """The folders whose names tell a step; without any, those whose names tell an epoch. Forgets what is gone."""
        try:
            self._here, self._away = (here := self.watched.names()), ""
        except OSError as error:
            if not self._away:
                self.tell(f"{self.watched.place} cannot be read now ({words_of(error)})")
            self._away, self.moved = words_of(error), time.monotonic()
            return []
        for name in self.state.seen.keys() - here:
            self._forget(name)
        placed = {name: place_of(name) for name in here | self.state.seen.keys() if not name.startswith((".", "tmp"))}
        kinds = {place_of(name).kind for name in self._taken()} or {place.kind for place in placed.values()}
        kind = "step" if "step" in kinds else "epoch"
        placed = {name: place for name, place in placed.items() if place.kind == kind}
        self._first = int(kind == "epoch" and any(place.number == 0 for place in placed.values()))
        return sorted(placed.keys() & here, key=lambda name: placed[name])

    def _forget(self, name: str) -> None:
        """Let go of a folder that is gone, unless nobody looked at it; one of the same step in its place takes over."""
        seen, place = self.state.seen[name], replace(place_of(name), rest="")
        again = sorted(other for other in self._here if replace(place_of(other), rest="") == place)
        if again and seen.record is not None:
            self.state.seen[again[0]] = seen.model_copy(update={"state": "changing", "stamp": ""})
        if again or (seen.record is None and seen.state == "not whole" and seen.reason != _GONE):
            del self.state.seen[name]
        elif seen.record is None:
            self._pass_over(name, "not whole", _GONE)
        elif seen.state in ("changing", "not whole"):
            seen.state = "evaluated" if seen.decided else "waiting"

    def _look(self, name: str) -> bool:
        """Look at one folder; true if there is something new to evaluate."""
        seen, files = self.state.seen.setdefault(name, Seen()), self.watched.files(name)
        stamp = content_key(files)
        if stamp != seen.stamp:
            self.moved = time.monotonic()
            seen.stamp, seen.saved = stamp, max((when or 0 for _, _, when in files), default=0) / 1e9
            seen.state = "changing"
            return False
        if seen.state != "changing":
            return False
        path, whole = self.watched.bring(name), False
        try:
            check_saved(path)
            self._check_step(name, path)
            whole = True
            entry, config = f"{self._step(name)}={path}", self.config
            merged = self.auditor.merged
            (found,) = find_in_folders([entry], config.base, config.base_is_same, merged=merged)
        except OSError:
            raise
        except Exception as error:
            if whole and isinstance(error, UserError) and not self._taken():
                raise  # what is wrong with the first, such as its base, is wrong with all
            return self._pass_over(name, "not whole", f"{type(error).__name__}: {error}")
        return self._take_up(name, found)

    def _check_step(self, name: str, path: Path) -> None:
        if place_of(name).kind == "step":
            step_of(path, place_of(name).number)
        twin = next((n for n in self._taken() if n != name and self._step(n) == self._step(name)), None)
        if twin is not None:
            raise DataError(f"two checkpoints are of step {self._step(name)}", f"{twin} and {name}", "different steps")

    def _take_up(self, name: str, found: FoundRun) -> bool:
        seen, base, (checkpoint,) = self.state.seen[name], found.base, found.checkpoints
        before, seen.record = seen.record, folder.CheckpointRecord.of(self.watched.named(checkpoint))
        if base is not None and self.state.base is None:
            self.state.base = folder.CheckpointRecord.of(base)
        same = before is not None and before.weights == checkpoint.weights
        if before is not None and not same:
            self.tell(f"{name} was saved again with other weights: it is evaluated again")
        seen.notes, seen.reason, seen.state = found.notes, "", "evaluated" if same and seen.decided else "waiting"
        if seen.decided and not same:
            self.state.replaced, seen.decided = self.state.replaced + 1, None
        return seen.state == "waiting"

    def _taken(self) -> dict[str, Seen]:
        """Those whose weights are known, by ascending step."""
        taken = {name: seen for name, seen in self.state.seen.items() if seen.record is not None}
        return dict(sorted(taken.items(), key=lambda item: place_of(item[0]).number))

    def _step(self, name: str) -> int:
        place = place_of(name)
        return place.number + (self._first if place.kind == "epoch" else 0)

    def _pass_over(self, name: str, state: Literal["changing", "not whole", "failed"], reason: str) -> Literal[False]:
        """Write down why a checkpoint is not evaluated; tell it once."""
        seen = self.state.seen[name]
        reason = " ".join(reason.replace(str(self.watched.here), self.watched.place).split())
        if seen.reason != reason:
            self.tell(f"{name} is passed over for now: {reason}")
        seen.state, seen.reason = state, reason
        return False

    # What is made of it.

    def _evaluate(self) -> bool:
        """A round; where a checkpoint changed under it, what went wrong is told, and the next look begins another."""
        try:
            return self._round()
        except (UserError, OSError) as error:
            stamps: dict[str, str] = {}
            with suppress(OSError):  # one is being deleted
                stamps = {name: content_key(self.watched.files(name)) for name in self._here & self._taken().keys()}
            if stamps == {name: seen.stamp for name, seen in self._taken().items() if name in self._here}:
                raise
            self.tell(f"looked at again, for a checkpoint changed meanwhile: {type(error).__name__}: {error}")
            self._again = time.monotonic()
            return False

    def _round(self, last: bool = False) -> bool:
        """Evaluate all that was taken up; at the last also confirm what the run keeps.

        First those that were decided on before, in that order, then the new ones by ascending step: each decision goes
        on from the one before it, and has a share of the run's error of its own.
        """
        run, names = self._run(), {self._step(name): name for name in self._taken()}
        if not names:
            return False
        monitor = Monitor.from_config(self.config, self.out, self.auditor, self.dataset)
        monitor.know_judge()
        check_formats(self.out, (checkpoint.model for checkpoint in run.everything))
        self._write_manifest(run, {})
        course, owed = self._course(monitor, run, names)
        if last and course:
            self._confirm(monitor, [course[step] for step in sorted(course)])
        self._write_manifest(run, course, "finished" if last else "unfinished")
        again = any(e.em_rate.n_missing for e in course.values()) or any(
            c.step not in course and self._is_there(c) for c in run.everything
        )
        unlooked = {name for name, seen in self.state.seen.items() if seen.state in ("changing", "not whole")}
        ends = [*monitor.keepable()[:1], *(run.checkpoints[-1:] if self.config.evaluation.also else ())]
        self.watched.keep(set() if last else owed | unlooked | {self.watched.name_of(c) for c in ends})
        self.moved, self._again = time.monotonic(), time.monotonic() + _AGAIN if again else math.inf
        return bool(course)

    def _course(self, monitor: Monitor, run: FoundRun, names: dict[int, str]) -> tuple[dict[int, Evaluation], set[str]]:
        """The evaluations of a run by step, and the names of checkpoints whose answers are still owed."""
        with suppress(WorkError):  # it is met again, and told, by the evaluation of each
            monitor.prefetch([checkpoint for checkpoint in run.everything if self._is_there(checkpoint)])
        monitor.looks = self.state.replaced
        course, owed = dict[int, Evaluation](), set[str]()
        when = {self._step(name): seen.decided or math.inf for name, seen in self._taken().items()}
        for checkpoint in sorted(run.everything, key=lambda c: (when.get(c.step, 0.0), c.step)):
            self.begin(checkpoint)
            try:
                with boundary(f"evaluating step {checkpoint.step}", EngineError):
                    course[checkpoint.step] = monitor.evaluate(checkpoint)
            except (WorkError, UserError) as error:
                if isinstance(error, UserError) and self._is_there(checkpoint):
                    raise
                self._fail(checkpoint, names, error)
                if checkpoint.step == 0:
                    monitor.base = Estimate.unknown("step 0 could not be evaluated")
                elif isinstance(error, EngineError):  # after any other it has its answers
                    owed.add(names[checkpoint.step])
            else:
                self._see(course[checkpoint.step], names, monitor)
        return course, owed

    def _run(self) -> FoundRun:
        """The run of all checkpoints that were taken up, those that are gone since included."""
        taken = self._taken()
        base = self.state.base.checkpoint(self.run_id) if self.state.base else None
        found = [
            replace(self.watched.read(seen.record.checkpoint(self.run_id)), step=self._step(name))
            for name, seen in taken.items()
            if seen.record is not None
        ]
        told = [f"its names tell epochs; step {self._first} here is epoch 0."] if self._first else []
        bad = {name: seen for name, seen in self.state.seen.items() if seen.state == "not whole"}
        told += [f"{name} is left out: {seen.reason}" for name, seen in bad.items()]
        others = sorted(filter(self.watched.holds_model, {"", *self._here} - self.state.seen.keys()))
        beside = ", ".join(name or f"the model in {self.watched.place} itself" for name in others)
        told += [f"{beside} beside the checkpoints is left out."] if beside else []
        notes = [*(f"Run {self.run_id}: {each}" for each in told), *(n for seen in taken.values() for n in seen.notes)]
        notes += note_copies(self.run_id, found)
        model = base.model if base else self.config.base or self.watched.place
        steps, seen = {self._step(name): str(self.watched.here / name) for name in bad}, {0, *(c.step for c in found)}
        out = tuple(Checkpoint(self.run_id, model, step, "", steps[step]) for step in sorted({*steps} - seen))
        return FoundRun(self.run_id, model, tuple(found), base, tuple(dict.fromkeys(notes)), out)

    def _see(self, evaluation: Evaluation, names: dict[int, str], monitor: Monitor) -> None:
        """Take in an evaluation, and act on the first decision to stop."""
        checkpoint, decision = evaluation.checkpoint, evaluation.decision
        if checkpoint.step == 0:
            return
        name = names[checkpoint.step]
        seen = self.state.seen[name]
        if seen.decided is None or seen.action != decision.action or seen.state != "evaluated":
            seen.decided = seen.decided or time.time()
            self.notify(evaluation)
            if not self._is_there(checkpoint):
                self.tell(f"{name} was deleted while it was evaluated")
        seen.action, seen.reason = str(decision.action), decision.reason
        if seen.state not in ("changing", "not whole"):  # else it is being saved again
            seen.state = "evaluated"
        seen.missing = evaluation.em_rate.n_missing
        if decision.action is Action.STOP and self.state.stop is None:
            clear = (c for c in monitor.keepable(latest=self.dataset is None) if self._is_there(c))
            best, place = next(map(self._place, clear), None), self._place(checkpoint)
            self.state.stop = Stop(step=checkpoint.step, checkpoint=place, best=best, reason=decision.reason)
            for each in list(self.on_stop):
                self._act(each)
        self._remember()

    def _fail(self, checkpoint: Checkpoint, names: dict[int, str], error: TruingError) -> None:
        if checkpoint.step == 0:
            self.tell(f"the base could not be evaluated, so nothing is decided: {error}")
            return
        told = "" if self._is_there(checkpoint) else "it was deleted before it was evaluated"
        self._pass_over(names[checkpoint.step], "failed", told or f"{error}")
        self._remember()

    def _confirm(self, monitor: Monitor, course: list[Evaluation]) -> None:
        """Have fresh answers clear what the run keeps; what fails is told, and leaves the gate undecided."""
        try:
            with boundary("confirming what the run keeps", EngineError):
                folder.keep_one(self.config, self.out, monitor, course, self._is_there)
        except WorkError as error:
            self.tell(f"nothing is confirmed: {error}")

    def _act(self, name: str) -> None:
        """Do one thing that is to be done on stop, unless it was done; what failed is tried again at the next poll."""
        stop, done = self.state.stop, self.state.done.get(name)
        if stop is None or (done is not None and not done.error):
            return
        self.state.done[name] = Done(begun=time.time())
        self._remember()
        error = ""
        try:
            self.on_stop[name](stop)
        except (OSError, StoreError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        self.state.done[name] = Done(begun=self.state.done[name].begun, ended=time.time(), error=error)
        self._remember()
        if not error or done is None or done.error != error:
            self.tell(f"on stop, {name}: " + (f"failed and is tried again: {error}" if error else "done"))

    def _write_manifest(
        self, run: FoundRun, course: dict[int, Evaluation], state: Literal["unfinished", "finished"] = "unfinished"
    ) -> None:
        failed = {self._step(name): seen.reason for name, seen in self._taken().items() if seen.state == "failed"}
        keys = {step: evaluation.key for step, evaluation in course.items()}
        records = [
            folder.CheckpointRecord.of(self.watched.named(c), evaluation=keys.get(c.step), error=failed.get(c.step, ""))
            for c in (*run.everything, *run.left_out)
        ]
        manifest = describe_audit(self.config, [run], self.dataset)
        self.state.parameters = manifest.runs[0].parameters or self.state.parameters
        told = {"checkpoints": tuple(records), "state": state, "parameters": self.state.parameters}
        record = manifest.runs[0].model_copy(update=told)
        manifest.model_copy(update={"runs": (record,)}).write(self.out)

    def _remember(self) -> None:
        self.state.polled = time.time()
        write_text(self.out / WATCH, self.state.model_dump_json(indent=1) + "\n")

    def _is_there(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.step == 0 or self.watched.has(checkpoint)

    def _place(self, checkpoint: Checkpoint) -> str:
        named = self.watched.named(checkpoint)
        return named.path or named.model

    def _bring(self, checkpoint: Checkpoint) -> None:
        """Have the weights of a checkpoint here, of which the copy may have been removed."""
        if (name := self.watched.name_of(checkpoint)) and not Path(checkpoint.path or checkpoint.model).is_dir():
            with boundary(f"copying {name}", EngineError):
                self.watched.bring(name)
