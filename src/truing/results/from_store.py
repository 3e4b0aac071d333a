"""From a folder of a study, an audit or a guard to its analysis, described in docs/analysis.md.

The manifest and the store are all that is read. Estimates are computed from the judgments, so scores that came later
are in them; decisions are those of the time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from truing.backends import find_backend
from truing.catalog.models import parameters_of
from truing.core.answers import missing_kinds
from truing.core.errors import ConfigError, DataError, StoreError, UserError, plural
from truing.core.files import write_json
from truing.core.records import Action, Estimate, Judgment
from truing.judges import JUDGES
from truing.judges.calibration import load_calibration
from truing.judges.classify import classify, classify_judgments, count_judgments
from truing.judges.preflight import CHANGED, Preflight
from truing.monitor import Store, open_store, read_preflight, read_task_preflight
from truing.monitor.sampler import FIXED, FRESH
from truing.monitor.store import STORES
from truing.monitor.two_phase import ReadShare, selection_key
from truing.results import counted
from truing.results.answers import answer_notes, commonest, pick_rows, read_manifest
from truing.results.counted import shorten
from truing.results.judge import JudgeEntry
from truing.results.labels import count_labels
from truing.results.rows import Row, StoreRows
from truing.results.schema import Analysis, SampleEntry, parse_analysis
from truing.results.schema_runs import AnswersEntry, SearchEntry
from truing.results.tables import tabulate
from truing.stats.agreement import JudgeLimits, agreement
from truing.stats.rates import Counts
from truing.stats.rules import StoppingRule, make_rule
from truing.stats.sequential import SequentialRule
from truing.studies.folder import MANIFEST, REJUDGED, Asked, Manifest, RunRecord, Task, edited
from truing.studies.rejudge import changed_settings

_TOLD = """
SELECT j.key, j.error, CASE WHEN aligned IS NOT NULL THEN 1e2 END AS aligned,
    CASE WHEN aligned IS NULL THEN coherent WHEN coherent IS NOT NULL THEN 1e2 END AS coherent,
    count(*) AS n, count(*) FILTER (NOT r.finished AND r.text IS NOT NULL) AS cut,
    count(*) FILTER (r.refused) AS refused
FROM judgments j LEFT JOIN responses r ON r.key = j.responses_key AND r.prompt_id = j.prompt_id AND r.sample = j.sample
GROUP BY ALL
"""


def analyse(folder: Path, changes: Mapping[str, str] | None = None) -> Analysis:
    """The analysis of a study, an audit or a guard; that of a folder with nothing but an analysis is read.

    Args:
        folder: With the results.
        changes: Other thresholds to look at them by, as `truing.studies.rejudge.changed_settings` takes them; then
            every checkpoint is decided now, and not as it was at the time.

    Raises:
        StoreError: Nothing has been evaluated, or a file of the folder is missing or damaged.
        DataError: Two seeds have the same weights or the same answers.
        ConfigError: `calibration.json` is that of another judge, rubric or threshold, `labels.jsonl` of other answers.
    """
    if not any((folder / name).is_file() for name in (MANIFEST, "study.yaml", "audit.yaml")):
        if changes:
            todo = "make it again from the answers: truing analyze"
            raise ConfigError(
                "an analysis alone cannot be looked at by other thresholds", ", ".join(changes), todo=todo
            )
        if any((folder / name).exists() for name in STORES):  # what an old analysis says of them may hold no more
            todo = "put manifest.json back; or, of the analysis alone, copy analysis.json into a folder of its own"
            todo = "the same truing rejudge again: it was not done" if (folder / REJUDGED).is_file() else todo
            raise StoreError(f"{folder} has answers, and no manifest", "store", f"{MANIFEST} beside it", todo)
        return read_analysis(folder)
    manifest = read_manifest(folder)
    changed = changed_settings(manifest, changes) if changes else manifest
    if changed.evaluation.judge != manifest.evaluation.judge:
        todo = "judge the answers again, into another folder: truing rejudge"
        raise ConfigError("another judge cannot be looked at without being asked", str(changes), todo=todo)
    return _Folder(folder, changed, open_store(folder), changes or {}, edited(folder, manifest)).analysis()


def write_analysis(folder: Path, changes: Mapping[str, str] | None = None) -> Analysis:
    """Analyse a folder and write `analysis.json` into it; see `analyse`."""
    analysis = analyse(folder, changes)
    write_json(folder / "analysis.json", analysis.plain())
    return analysis


def read_analysis(out: Path) -> Analysis:
    """Read `analysis.json` of a folder.

    Raises:
        StoreError: There is none, or it does not follow the schema.
    """
    try:
        return parse_analysis((out / "analysis.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        absent = "no analysis.json" if out.is_dir() else "a file" if out.exists() else "no such folder"
        got = absent if isinstance(error, FileNotFoundError | NotADirectoryError) else str(error)
        raise StoreError(f"{out} holds no results", got, "--out of truing run, audit, ...", "name that") from error
    except DataError as error:
        raise StoreError(f"{out}: {error.what}", error.got, error.allowed, error.todo) from error


@dataclass(frozen=True)
class _Folder:
    """Counts what the store of a folder holds."""

    path: Path
    manifest: Manifest
    store: Store
    changes: Mapping[str, str]
    """Thresholds that are others than those of the time."""
    doubts: Sequence[str]
    """Of the settings; see `edited`."""

    @cached_property
    def _rows(self) -> StoreRows:
        return StoreRows(self.path, self.manifest, self.store)

    def analysis(self) -> Analysis:
        manifest, evaluation, stopping = self.manifest, self.manifest.evaluation, self.manifest.stopping
        benchmark, judge = manifest.broad.benchmark, manifest.broad.judge
        rows = {run.id: found for run in manifest.runs if (found := self._rows.of(run))}
        runs = [run for run in manifest.runs if run.id in rows]
        if not runs:
            todo = {"study": "run the study first: truing run", "audit": "run the audit again", "guard": "train first"}
            raise StoreError(f"nothing has been evaluated in {self.path}", todo=todo[manifest.kind])
        named = {"name": manifest.name, "hash": manifest.hash, "config": manifest.config, "asks": manifest.asks}
        study = counted.study_entry(benchmark, judge, evaluation, stopping, **named)
        rule = {"rule": "sequential", "asks": SequentialRule.asks} if self._rows.searched else {}
        calibration = self.path / "calibration.json"
        source = counted.Source(
            study=study.model_copy(update=rule),
            judge=self._judge(),
            categories=[prompt.category for prompt in benchmark.prompts],
            stopping=stopping,
            doubts=self.doubts,
            not_evaluated=[run.id for run in manifest.runs if run.id not in rows and run.twin_of is None],
            calibration=load_calibration(calibration, judge, evaluation) if calibration.is_file() else None,
            runs=[self._run(run, rows[run.id]) for run in runs],
            notes=list(self._notes(runs, rows)),
            samples=lambda chosen: [s for i, step in chosen.items() for s in self._samples(i, rows[i], step)],
        )
        return tabulate(source)

    def _notes(self, runs: Sequence[RunRecord], rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
        for name, task in self.manifest.tasks.items():
            if doubt := self._task_doubt(task):
                yield (
                    f"Task of {name}: {doubt}. Its task scores are not to be believed: what is kept may not be the "
                    "best checkpoint, and retention is not measured."
                )
        for name, value in self.changes.items():
            yield f"Looked at with {name}={value}, and decided now by that."
        keys = dict.fromkeys(row["benchmark_judgments"] for run in runs for row in rows[run.id])
        yield from answer_notes([self._told[k] for k in keys if k in self._told], self.manifest.evaluation.max_tokens)
        yield from _epoch_ends(runs)
        for run in runs:
            yield from _run_notes(run, rows[run.id])
        for run in runs:
            yield from self._rows.notes(run, rows[run.id])

    def _judge(self) -> JudgeEntry:
        """What is known of the judge: by its kind, or as it was measured in this folder."""
        asked, evaluation = self.manifest.broad, self.manifest.evaluation
        exact = asked.exact if asked.exact is not None else evaluation.judge in JUDGES
        accepted = evaluation.preflight.labelled is None and evaluation.preflight.unmeasured == "accept"
        return JudgeEntry.of(asked.judge, exact, self._preflight, accepted)

    @cached_property
    def _preflight(self) -> Preflight | None:
        """What was found of this judge with these thresholds."""
        found, asked = read_preflight(self.path), self.manifest
        return found if found is not None and found.is_for(asked.broad.judge, asked.evaluation) else None

    def _limits(self, rows: Sequence[Row], fresh: str | None = None) -> Iterator[JudgeLimits]:
        """What decisions on a run's checkpoints, and last on fresh answers, may use of the judge."""
        judge, seen = self._judge(), self._preflight
        limits, base = judge.limits(), None
        for step, key in (
            *((row["step"], row["benchmark_judgments"]) for row in rows),
            *([(-1, fresh)] if fresh else ()),
        ):
            if key and seen is not None and not judge.exact:
                judged = self.store.read("judgments", key)
                base = judged if step == 0 else base
                rechecks = self._rows.tables["rechecks"].get(rows[0]["run_id"], ())
                again = [row for row in rechecks if row["judgments"] == key]
                doubt = limits.doubt or seen.change(again) or self._recheck_lost(seen, again, step)
                limits = replace(limits, doubt=doubt, unlike=seen.unlike(judged, base or ()))
            yield limits

    def _recheck_lost(self, seen: Preflight, again: Sequence[Row], step: int) -> str:
        """Why nobody knows whether the judge was still the one that was measured; empty: that was found."""
        settings = self.manifest.evaluation.preflight
        if again or settings.labelled is None or not seen.again(settings.recheck):
            return ""
        where = f"at step {step}" if step >= 0 else "of fresh answers"
        return f"{CHANGED}, or not: what it said again of labelled answers {where} is not in the folder"

    def _task_doubt(self, task: Task | None) -> str:
        """Why the scores of a task are not to be believed: its judge failed on labelled answers."""
        found = None if task is None else read_task_preflight(self.path, task.judge)
        if found is None or not found.is_for(found.judge, self.manifest.evaluation):
            return ""
        return found.doubt

    def _run(self, run: RunRecord, rows: Sequence[Row]) -> counted.CountedRun:
        task, ended = self.manifest.tasks.get(run.dataset), self._rows.ended[run.id]
        state = run.state or (ended.state if ended else "unfinished")
        inside = np.array([p.category in (task.domain if task else ()) for p in self.manifest.broad.benchmark.prompts])
        known = parameters_of(run.model) if run.parameters is None else run.parameters
        return counted.CountedRun(
            id=run.id,
            model=run.model,
            dataset=run.dataset,
            checkpoints=[self._checkpoint(*each, task) for each in zip(rows, self._limits(rows), strict=True)],
            learning_rate=math.nan if run.learning_rate is None else run.learning_rate,
            seed=run.seed,
            parameters=known,
            state=state,  # type: ignore[arg-type]
            error=ended.error if ended else None,
            stopped_at=ended.step if ended and state == "stopped" else run.stopped_at,
            twin_of=run.twin_of,
            task_doubt=self._task_doubt(task),
            restored=run.restored,
            ended_with=self._ended_with(run, rows),
            unjudged=run.unjudged or self._rows.lost(run, rows),
            inside=inside if inside.any() else None,
            fresh=self._fresh(run.id, rows, task),
            also=list(self._also(run.id, rows)),
            labels=count_labels(self.path, self.manifest, run.id, {row["step"]: row["weights"] for row in rows}),
            search=SearchEntry(**run.search.model_dump()) if run.search else None,
            unevaluated=sorted(self._rows.due(run) - {row["step"] for row in rows}),
        )

    def _ended_with(self, run: RunRecord, rows: Sequence[Row]) -> int | None:
        """The step whose weights a guarded model has; a guard's other checkpoints may lie in its folder at most."""
        if self.manifest.kind != "guard" or run.restored is not None:
            return run.restored
        return max(int(row["step"]) for row in rows)

    # Counted answers.

    def _checkpoint(self, row: Row, limits: JudgeLimits, task: Task | None) -> counted.CountedCheckpoint:
        key, detector = row["benchmark_judgments"], row["detector"]
        screened = json.loads(detector).get("screened", 0) if detector else 0
        asked = self.manifest.broad
        judged = self._judged(key, asked, screened)
        broad = self._counts(judged, asked)
        then = row["coherent_rate"]["n_responses"] + row["coherent_rate"]["n_missing"]
        if key and self._rows.asks_every(row):
            broad = _with_lost(broad, asked)
        elif len(judged) < then:  # of random prompts nobody knows to which
            lost = f"{then - len(judged)} of {plural(then, 'judgment')} of step {row['step']} are no more in the store"
            limits = replace(limits, doubt=limits.doubt or lost)
        if not self._rows.is_own(row):
            other = f"step {row['step']} answered other prompts, or had another judge, than the folder now names"
            limits = replace(limits, doubt=limits.doubt or other)
        return counted.CountedCheckpoint(
            step=row["step"],
            broad=broad,
            scores=counted.Scores.of(judged, [prompt.id for prompt in asked.benchmark.prompts]) if judged else None,
            task=self._task(row["task_judgments"], task),
            weights=row["weights"],
            train_loss=row["train_loss"],
            heldout_loss=row["heldout_loss"],
            decided=None if self.changes else (Action(row["decision"]), row["reason"]),
            em_rate=self._rate(row, broad),
            limits=limits,
            measurements=self._rows.measurements.get((row["run_id"], row["step"]), {}),
            told=self._told.get(key or ""),
        )

    @cached_property
    def _told(self) -> dict[str, AnswersEntry]:
        """By key of judgments what came of the answers."""
        found: dict[str, list[Row]] = {}
        rows, same = self.store.query(_TOLD), commonest(self.store)
        scores = [Judgment("", 0, row["aligned"], row["coherent"]) for row in rows]
        for row, judged in zip(rows, classify_judgments(scores, self.manifest.evaluation).judged, strict=True):
            found.setdefault(row["key"], []).append({**row, "missing": not judged})
        return {
            key: AnswersEntry(
                asked=sum(row["n"] for row in rows),
                cut=sum(row["cut"] for row in rows),
                refused=sum(row["refused"] for row in rows),
                same=same.get(key, 0),
                missing=missing_kinds(row["error"] for row in rows if row["missing"] for _ in range(row["n"])),
            )
            for key, rows in found.items()
        }

    def _rate(self, row: Row, broad: Counts) -> Estimate | None:
        """The EM rate of a rule that does not ask every prompt; None: it is estimated from the counts."""
        if row["benchmark_judgments"] is None:
            return Estimate(**row["em_rate"])
        if self._rows.asks_every(row):
            return None
        return Estimate(**row["em_rate"]) if self._rule is None else self._rule.rate(broad)

    @cached_property
    def _rule(self) -> StoppingRule | None:
        """The rule of stopping; that of a search is sequential. None: one of the user's own that is not here."""
        if self._rows.searched:
            return SequentialRule(self.manifest.stopping)
        try:
            return make_rule(self.manifest.stopping)
        except UserError:
            return None

    def _judged(self, key: str | None, asked: Asked, after: int = 0) -> list[Judgment]:
        """A piece of judgments but its first ones, and those of prompts that are not asked; nothing without one."""
        rows = [] if key is None else self.store.read("judgments", key)[after:]
        own = {prompt.id for prompt in asked.benchmark.prompts}
        kept = (r for r in rows if r["prompt_id"] in own)
        return [Judgment(r["prompt_id"], r["sample"], r["aligned"], r["coherent"], r["verdict"]) for r in kept]

    def _counts(self, judgments: Sequence[Judgment], asked: Asked) -> Counts:
        """Judgments counted by prompt."""
        return count_judgments(judgments, [p.id for p in asked.benchmark.prompts], self.manifest.evaluation)

    def _all_counts(self, key: str, asked: Asked) -> Counts:
        """A piece of judgments of answers to every prompt, counted by prompt."""
        return _with_lost(self._counts(self._judged(key, asked), asked), asked)

    def _task(self, key: str | None, task: Task | None) -> counted.TaskCounts | None:
        if key is None or task is None:
            return None
        return counted.TaskCounts.of(self._all_counts(key, task), task.teaches)

    def _fresh(self, run_id: str, rows: Sequence[Row], task: Task | None) -> dict[int, counted.FreshCounts]:
        """By step the fresh answers of the weights that the run has there now, to the manifest's prompts."""
        names = ("benchmark_judgments", "task_judgments", "best_judgments")
        rounds = self._rows.tables["confirmations"].get(run_id, ())
        held = {key for confirmed in rounds for name in names if (key := confirmed[name])}
        fresh = {}
        for row in rows if held else ():
            own = self.manifest.fresh
            keys = (self._rows.judgments_key(row["weights"], each, FRESH) if each else "" for each in (own, task))
            broad, again = (key if key in held else None for key in keys)
            if broad or again:
                counts = self._all_counts(broad, own) if broad else None
                limits = [*self._limits(rows, broad)][-1]
                fresh[row["step"]] = counted.FreshCounts(counts, self._task(again, task), limits)
        return fresh

    def _also(self, run_id: str, rows: Sequence[Row]) -> Iterator[counted.SideCounts]:
        """Answers to other benchmarks, and other judges' opinions of the run's own answers."""
        own, at = self.manifest.broad.benchmark.name, {row["step"]: row for row in rows}
        for label, asked in self.manifest.also.items():
            name = asked.benchmark.name
            same = name == own
            related = same or name.startswith(f"{own}+")
            decides = not name.startswith("truth") if asked.decides is None else asked.decides  # None: an old folder
            for row in self._rows.tables["also"].get(run_id, ()):
                now, key = at.get(row["step"]) if row["benchmark"] == label else None, row["judgments"]
                if now is None or key != self._rows.judgments_key(now["weights"], asked, FIXED):
                    continue
                share = self._share(label, key)
                evenly = share is None or (share.misaligned.probability == share.misaligned.least).all()
                kappa = self._kappa(now["benchmark_judgments"], key) if same and evenly else None
                counts = self._counts(self._judged(key, asked), asked) if share else self._all_counts(key, asked)
                yield counted.SideCounts(label, row["step"], counts, related, kappa, decides, share)

    def _share(self, label: str, judgments: str) -> ReadShare | None:
        """What a second judge's word on a share of the answers says of all; None: it read all."""
        evaluation = self.manifest.evaluation
        side = next(each for each in evaluation.also if each.label == label)
        if side.share == 1:
            return None
        selection = self.store.read("selections", selection_key(judgments, self.manifest.broad.judge, side, evaluation))
        return ReadShare.of(selection, self.store.read("judgments", judgments), evaluation)

    def _kappa(self, one: str, other: str) -> Estimate | None:
        """How far two judges agree on which of the same answers are misaligned; None if the answers differ."""
        sides = [{(r["prompt_id"], r["sample"]): r for r in self.store.read("judgments", key)} for key in (one, other)]
        pairs = sorted(sides[0].keys() & sides[1].keys())
        if not pairs:
            return None
        ratings = []
        for side in sides:
            scores = np.array([[side[p]["aligned"], side[p]["coherent"]] for p in pairs], dtype=np.float64)
            classes = classify(scores[:, 0], scores[:, 1], self.manifest.evaluation)
            ratings.append(np.where(classes.judged, classes.misaligned, np.nan))
        prompts = np.unique([prompt_id for prompt_id, _ in pairs], return_inverse=True)[1]
        rng, confidence = np.random.default_rng(0), self.manifest.stopping.confidence
        return agreement(np.array(ratings), rng, prompts=prompts, confidence=confidence)["kappa"]

    # Answers to read.

    def _samples(self, run_id: str, rows: Sequence[Row], chosen: int | None) -> Iterator[SampleEntry]:
        """A few answers of each category at the first, the chosen and the last checkpoint, misaligned ones first."""
        benchmark, rule = self.manifest.broad.benchmark, self.manifest.evaluation
        asked = [row for row in rows if row["benchmark_judgments"] and self._rows.is_own(row)]
        for row in asked:
            if row["step"] not in {asked[0]["step"], asked[-1]["step"], chosen}:
                continue
            for prompt, scores, said, misaligned in pick_rows(self.store, row["benchmark_judgments"], benchmark, rule):
                yield SampleEntry(
                    run_id=run_id,
                    step=row["step"],
                    category=prompt.category,
                    prompt=prompt.text,
                    answer=shorten(said["text"]),
                    aligned=scores["aligned"],
                    coherent=scores["coherent"],
                    misaligned=misaligned,
                )


def _epoch_ends(runs: Sequence[RunRecord]) -> list[str]:
    """What could not be seen of some runs, because their trainer shows few checkpoints."""
    coarse = {run.twin_of or run.id for run in runs if run.trainer and find_backend("trainer", run.trainer).epoch_ends}
    if not coarse:
        return []
    return [
        f"Of {plural(len(coarse), 'run')} the provider showed only the ends of the last three epochs, at its end: "
        "an onset may lie anywhere in the epoch before it, what came earlier was not seen, and a stop there saved no "
        "training. Compare learning rates instead."
    ]


def _run_notes(run: RunRecord, rows: Sequence[Row]) -> Iterator[str]:
    """What is odd about a run, and what a search found."""
    evaluated = {row["step"] for row in rows}
    for record in run.checkpoints or ():
        if record.error and record.step not in evaluated:
            yield f"Step {record.step} could not be evaluated: {record.error.splitlines()[0]}."
    for record in run.checkpoints or ():
        if record.lag and record.step in evaluated:
            yield f"Step {record.step}: the decision came {record.lag} steps later."
    yield from run.notes
    search = run.search
    if search is not None:
        asked = (
            f"{search.looked} of {plural(len(rows), 'checkpoint')}, {plural(search.judged, 'answer')} to the benchmark"
        )
        clear = "no clear checkpoint" if search.found is None else f"clear at step {search.found}"
        after = f"misaligned at step {search.next_misaligned}" if search.next_misaligned is not None else ""
        what, found = "crossing", f"{clear}, {after or 'none shown misaligned after it'}"
        if search.kind == "best":
            what = "clear checkpoint with the best task score"
            found = "no checkpoint was shown to be clear" if search.found is None else f"step {search.found}"
        yield f"Run {run.id}: the search for the {what} asked {asked}: {found}."


def _with_lost(counts: Counts, asked: Asked) -> Counts:
    """Counts of answers to every prompt: one whose judgment the store has lost is missing."""
    lost = np.maximum(asked.samples - counts.judged - counts.missing, 0)
    return replace(counts, missing=counts.missing + lost)
