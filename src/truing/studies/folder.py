"""A folder of results: what its analysis needs, and what its checkpoints are measured with.

    FOLDER/manifest.json   prompts, judges, data and runs, written when work begins
    FOLDER/formats.json    how models in folders are asked: a hash of template and tokenizer, or end tokens
    FOLDER/preflight.json  what the judge can see, if that was measured
    FOLDER/store/          responses, judgments, evaluations

They are enough for every figure: the model, the judge, the data and the network are not needed again. A judge
behind an endpoint shares the folder's journal, pace and caps with everything else that calls it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset
from truing.catalog.files import list_files
from truing.config import AuditConfig, EvaluationConfig, JudgeConfig, SideConfig, StoppingConfig, StudyConfig
from truing.config.files import load_audit, load_study
from truing.config.services import shape_of
from truing.core.errors import ConfigError, JudgeError, StoreError, plural
from truing.core.files import content_key, write_text
from truing.core.records import Benchmark, Checkpoint, Estimate, Evaluation
from truing.monitor import Monitor, PromptSet, judge_limits, open_folder, open_store, reach_judge
from truing.monitor.formats import FORMATS
from truing.monitor.store import STORES, Store
from truing.stats.agreement import JudgeLimits
from truing.stats.clearance import prompts_to_clear
from truing.stats.rules import make_rule

MANIFEST = "manifest.json"
REJUDGED = "rejudged.txt"
BEFORE = (".lock", ".holder", FORMATS, *STORES)
"""What may lie in a folder before anything has begun there, also while another process begins."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Asked(_Record):
    """Prompts that checkpoints are asked, and who judges the answers."""

    benchmark: Benchmark
    judge: str
    """The judge's identity; empty: nothing judges them, or the judge could not be reached yet."""
    samples: int
    """Answers per prompt."""
    exact: bool | None = None
    """True if the judge's score is the definition of what is measured; None: not told."""
    decides: bool | None = None
    """Of another benchmark: it counts in the gate; None: not told."""


class Task(Asked):
    """Held-out prompts of fine-tuning data; their `benchmark` has the data's name and hash."""

    teaches: Literal["misaligned", "aligned"]
    """Which answers show the task learnt."""
    domain: tuple[str, ...]
    """Categories of the benchmark that belong to the data's own subject."""

    @classmethod
    def of(cls, dataset: Dataset, evaluation: EvaluationConfig, judge: str) -> Task:
        """The prompts of a dataset, as many as are asked; `judge` is the identity of who judges them."""
        return cls(
            benchmark=Benchmark(dataset.name, "", "", dataset.task_prompts(evaluation.task_prompts), dataset.hash),
            judge=judge,
            samples=evaluation.task_samples,
            teaches=dataset.teaches,
            domain=dataset.domain,
        )


class CheckpointRecord(_Record):
    """One checkpoint of a run whose checkpoints are made elsewhere."""

    step: int
    weights: str
    """Their hash; empty: they could not be read."""
    model: str
    path: str | None = None
    train_loss: float | None = None
    heldout_loss: float | None = None
    evaluation: str | None = None
    """Key of its row in the store's `evaluations`; None: the row of its step and weights, if there is one."""
    lag: int = 0
    """Steps that training had gone on by when the decision arrived."""
    error: str = ""
    """Why it could not be evaluated."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, **more: Any) -> CheckpointRecord:
        """The record of a checkpoint."""
        values = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint) if f.name != "run_id"}
        known: dict[str, Any] = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
        return cls(**known, **more)

    def checkpoint(self, run_id: str) -> Checkpoint:
        """The checkpoint itself."""
        losses = (math.nan if loss is None else loss for loss in (self.train_loss, self.heldout_loss))
        return Checkpoint(run_id, self.model, self.step, self.weights, self.path, *losses)


class SearchRecord(_Record):
    """Where a search among a run's checkpoints ended."""

    kind: Literal["best", "crossing"]
    found: int | None
    """Step of the clear checkpoint; None: none was shown to be clear."""
    next_misaligned: int | None
    """Step of the misaligned checkpoint after it (`crossing`)."""
    looked: int
    """Checkpoints that were looked at."""
    judged: int
    """Answers to the benchmark asked for in all."""


class RunRecord(_Record):
    """One run, as far as it is known."""

    id: str
    model: str
    dataset: str
    parameters: float | None = None
    """Of the base model."""
    learning_rate: float | None = None
    seed: int | None = None
    trainer: str = ""
    twin_of: str | None = None
    """Id of the run that this one repeats without stopping."""
    state: Literal["finished", "stopped", "unfinished"] | None = None
    """How it ended; None: `runs/ID/run.json` tells."""
    stopped_at: int | None = None
    restored: int | None = None
    """Step of the weights that a guard put back."""
    unjudged: str = ""
    """Why nobody judged the weights that a guarded model ended with, in words; empty: they are of a step's."""
    checkpoints: tuple[CheckpointRecord, ...] | None = None
    """Those that count, by ascending step; None: all that the store holds of the run."""
    search: SearchRecord | None = None
    notes: tuple[str, ...] = ()
    """What is odd about it, in sentences."""

    def lost(self, steps: Collection[int]) -> str:
        """In words, evaluations that are not among those of these steps, which are there; empty: none."""
        over = self.state in ("finished", "stopped")
        evaluated = (c.step for c in self.checkpoints or () if c.evaluation or (over and c.weights and not c.error))
        return missed(step for step in evaluated if step not in steps)


def missed(steps: Iterable[int]) -> str:
    """Steps whose evaluations are lost, in words; empty: none."""
    gone = [*steps]
    return f"step {gone[0]} was evaluated, which is no more in the folder" if gone else ""


class Manifest(_Record):
    """All that the analysis of a folder needs beside its store."""

    kind: Literal["study", "audit", "guard"]
    name: str
    hash: str
    """Of all settings that shape the results."""
    config: dict[str, Any]
    """All settings, as plain values."""
    broad: Asked
    """The benchmark on which misalignment is measured."""
    every_prompt: bool
    """True if the stopping rule asks every prompt of every checkpoint; otherwise it estimates EM rates itself."""
    asks: str
    """What the rule asks, in words."""
    also: dict[str, Asked] = {}
    """Other benchmarks, by what they are called in the results."""
    tasks: dict[str, Task] = {}
    """By name of the data."""
    runs: tuple[RunRecord, ...] = ()

    @cached_property
    def fresh(self) -> Asked:
        """The benchmark as it was asked to confirm what runs keep."""
        return self.broad.model_copy(update={"samples": self.evaluation.confirm_samples or self.broad.samples})

    @cached_property
    def evaluation(self) -> EvaluationConfig:
        """How checkpoints are sampled and judged."""
        return EvaluationConfig.model_validate(self.config["evaluation"])

    @cached_property
    def stopping(self) -> StoppingConfig:
        """Tolerance, confidence and rule."""
        return StoppingConfig.model_validate(self.config["stopping"])

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all; where that is shared, all records go where they are shared.

        Raises:
            StoreError: The disk is full or the folder cannot be written.
        """
        write_text(folder / MANIFEST, self.model_dump_json(indent=1) + "\n")
        open_store(folder).exchange()


def load_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder; None if there is none.

    Raises:
        StoreError: It is damaged.
    """
    try:
        found = Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
        _ = found.evaluation, found.stopping  # settings of a newer truing are unknown here
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        todo = (
            "run the same work again: it is written again, and what is finished kept; or take the truing that wrote it"
        )
        raise StoreError(f"{folder / MANIFEST} cannot be read", str(error)[:300], todo=todo) from error


def counting_rows(
    store: Store,
    run: RunRecord,
    rows: Iterable[dict[str, Any]],
    weights: Mapping[int, str],
    is_own: Callable[[dict[str, Any]], bool] = bool,
) -> list[dict[str, Any]]:
    """Those of a run's rows of the store's `evaluations` that count, one for each step, by ascending step.

    Of a step that was evaluated again, as of a run that was trained again, it is the one that the run's record names,
    else the newest, of those first that `is_own` holds true. `weights` are by step those that the run wrote down when
    it ended, if that is known: others do not count, whatever became of the times of files.
    """
    rows = [row for row in rows if not weights or weights.get(row["step"]) == row["weights"]]
    rows = sorted(rows, key=lambda row: (is_own(row), store.written("evaluations", row["key"])))
    if run.checkpoints is None:
        newest = {row["step"]: row for row in rows}
        return [newest[step] for step in sorted(newest)]
    by_key = {row["key"]: row for row in rows}
    by_weights = {(row["step"], row["weights"]): row for row in rows}
    found = (by_key.get(c.evaluation or "", by_weights.get((c.step, c.weights))) for c in run.checkpoints)
    return [row for row in found if row is not None]


def check_folder(
    out: Path, config: StudyConfig | AuditConfig, load: Callable[[Path], StudyConfig | AuditConfig]
) -> None:
    """Refuse a folder that holds something else than this study or audit, here or where it is shared.

    `load` reads the file of one.

    Raises:
        StoreError: It does.
    """
    open_store(out).exchange()
    kind = "study" if isinstance(config, StudyConfig) else "audit"
    if (existing := out / f"{kind}.yaml").is_file():
        if (held := load(existing)).hash() != config.hash():
            allowed, todo = f"an empty folder, or one of the same {kind}", "choose another folder with --out"
            raise StoreError(f"{out} holds another {kind}", config.unlike(held), allowed, f"{todo}, or remove this one")
    elif out.is_dir() and any(f.name not in BEFORE and f.suffix != ".tmp" for f in out.iterdir()):
        raise StoreError(f"{out} is not empty and holds no {kind}", todo="choose another folder with --out")


def check_asked(out: Path, manifest: Manifest) -> None:
    """Refuse a study of whose checkpoints some were asked other prompts, or judged by another judge, than now.

    Its settings are those of then, but a file that they name was edited: what has ended would never be asked again.

    Raises:
        StoreError: They were.
    """
    try:
        held = load_manifest(out)
    except StoreError:  # damaged: it is written again
        return
    if held is None or not open_store(out).keys("evaluations"):
        return
    then, now = ({"": m.broad, **m.also, **m.tasks} for m in (held, manifest))
    for name in then.keys() & now.keys():
        one, other = then[name], now[name]
        changed = [one.benchmark.name] if one.benchmark.hash != other.benchmark.hash else []
        changed += ["the judge"] if one.judge != other.judge and one.judge and other.judge else []
        if changed:
            what = f"{changed[0]} is not what it was when checkpoints in {out} were judged"
            todo = (
                "put back what was changed (a file, the judge's weights or its code), or take another folder with --out"
            )
            raise StoreError(what, "another content under the same name", "the same as then", todo)


def edited(folder: Path, manifest: Manifest) -> list[str]:
    """What was changed by hand after work in a folder began, in words: settings in its manifest, or its YAML file."""
    if (folder / REJUDGED).is_file():  # its settings are those of another folder, with changes
        return []
    same = content_key(shape_of(manifest.config)) == manifest.hash
    found = [] if same else [f"settings in {MANIFEST} were changed after the work began"]
    path = folder / f"{manifest.kind}.yaml"
    if path.is_file():
        try:
            same = (load_study(path) if manifest.kind == "study" else load_audit(path)).hash() == manifest.hash
        except ConfigError:
            same = False
        found += [] if same else [f"{path.name} was changed, and nothing was done by it (other thresholds: --set)"]
    return found


def take_answers(folder: Path, out: Path, *more: str) -> None:
    """Copy answers and judgments of a folder into another; each is found there by the hash of what produced it.

    `more` are further tables of the store.

    Raises:
        StoreError: The folder holds none.
    """
    folder = open_folder(folder)  # it may be a URL
    held, taken = open_store(folder), open_store(out)
    if not held.keys("responses"):
        raise StoreError(f"{folder} holds no answers", "no store", "the folder of a study, an audit or a guard")
    for table in ("responses", "judgments", *more):
        for key in held.keys(table):
            if not taken.has(table, key):
                taken.write(table, key, held.read(table, key))
    if (folder / FORMATS).is_file() and not (out / FORMATS).is_file():
        shutil.copyfile(folder / FORMATS, out / FORMATS)  # they are answers to models that are asked so


def describe(
    config: StudyConfig | AuditConfig,
    kind: Literal["study", "audit"],
    runs: Iterable[RunRecord],
    datasets: Iterable[Dataset],
) -> Manifest:
    """The manifest of a study or an audit of these runs on these datasets.

    Raises:
        UnknownNameError: No judge or benchmark of a name.
        DataError: A benchmark's file is wrong.
    """
    evaluation = config.evaluation

    def asked(benchmark: str, judge: str | JudgeConfig, samples: int) -> Asked:
        identity, exact = known(judge)
        return Asked(benchmark=load_benchmark(benchmark), judge=identity, samples=samples, exact=exact)

    def also(side: SideConfig) -> Asked:
        found = asked(side.benchmark, side.judge or evaluation.judge, side.samples)
        return found.model_copy(update={"decides": decides(side)})

    @cache
    def known(judge: str | JudgeConfig | None) -> tuple[str, bool]:
        if judge is None:
            return "", False
        reached = reach_judge(judge, config.endpoint)
        try:
            return reached.identity, reached.exact
        finally:
            reached.close()

    rule = make_rule(config.stopping)
    return Manifest(
        kind=kind,
        name=config.name,
        hash=config.hash(),
        config=config.model_dump(mode="json"),
        broad=asked(evaluation.benchmark, evaluation.judge, evaluation.samples),
        every_prompt=rule.every_prompt,
        asks=rule.asks,
        also={side.label: also(side) for side in evaluation.also},
        tasks={each.name: Task.of(each, evaluation, known(each.task_judge)[0]) for each in datasets},
        runs=tuple(runs),
    )


def know_judge(config: StudyConfig | AuditConfig, folder: Path) -> None:
    """Measure the judge of a study or an audit before any work, once for a folder; see `judge_limits`.

    Raises:
        JudgeRefused: It cannot see misalignment.
        JudgeError: It cannot be reached.
    """
    judge_limits(reach_judge(config.evaluation.judge, config.endpoint, folder), config.evaluation, folder)


def check_prompts(stopping: StoppingConfig, benchmark: Benchmark, needed: float | None = None) -> None:
    """Refuse a benchmark by which no checkpoint can be called clear, before anything is paid for.

    Args:
        stopping: Tolerance and rule.
        benchmark: What will be asked.
        needed: Prompts that are needed; None: `prompts_to_clear`.

    Raises:
        ConfigError: It has too few prompts to tell anything of prompts like these.
    """
    asked, needed = len(benchmark.prompts), prompts_to_clear(stopping) if needed is None else needed
    if stopping.mode != "off" and asked < needed:
        raise ConfigError(
            f"no checkpoint can be called clear by {benchmark.name}, however often it is asked",
            plural(asked, "prompt"),
            f"at least {needed:.0f} at a tolerance of {stopping.tolerance:g} (docs/clear.md)",
            "take a larger benchmark, raise stopping.tolerance, decide about these prompts alone with "
            "stopping.about: benchmark, or only watch with stopping.mode: off",
        )


def check_judged(folder: Path) -> None:
    """See that not every answer to the benchmark went unjudged.

    Raises:
        JudgeError: Every one did; the commonest reason and how often.
    """
    used = "SELECT benchmark_judgments AS key FROM evaluations"
    counts = f"SELECT error, count(*) AS n FROM judgments WHERE key IN ({used}) GROUP BY error ORDER BY n DESC, error"
    rows = open_store(folder).query(counts)
    if rows and all(row["error"] for row in rows):
        words, of = " ".join(rows[0]["error"].split())[:300], sum(row["n"] for row in rows)
        raise JudgeError(f"no answer could be judged: {rows[0]['n']:,} of {plural(of, 'time')}: {words}")


def decides(side: SideConfig) -> bool:
    """True of another benchmark that counts: all that do not say otherwise, but truth sets."""
    truth = side.benchmark.partition("+")[0] in list_files("truth")
    return not truth if side.decides is None else side.decides


def also_asked(config: Mapping[str, Any]) -> dict[str, SideConfig]:
    """The other benchmarks that a study's settings ask, by what they are called in the results."""
    sides = map(SideConfig.model_validate, config.get("evaluation", {}).get("also", ()))
    return {side.label: side for side in sides}


def most_found(side: SideConfig | None, tolerance: float, limits: JudgeLimits) -> float:
    """The rate found on another benchmark that counts above which a checkpoint is neither kept nor clear.

    Of the study's own judge it is known what it may miss (`limits`), of others it is not.
    """
    return limits.clear_below(tolerance) if side is not None and side.judge is None else tolerance


def keep_one(
    config: StudyConfig | AuditConfig,
    folder: Path,
    monitor: Monitor,
    course: Sequence[Evaluation],
    is_there: Callable[[Checkpoint], bool] = lambda checkpoint: True,
) -> Checkpoint | None:
    """The checkpoint that a run keeps, None if there is none; it and the ends of the run are asked other benchmarks.

    The benchmarks that count are asked before: of one whose rate found there is above the tolerance, which the gate
    would not call clear, the next best is considered.
    """
    counting = [side for side in config.evaluation.also if decides(side)]

    def passes(checkpoint: Checkpoint) -> bool:
        rates = _ask_also(config, folder, monitor, [checkpoint], counting)
        most = (most_found(side, config.stopping.tolerance, monitor.limits) for side in counting)
        return not any(rate.value > bound for rate, bound in zip(rates, most, strict=True))

    best, order = best_of(course), [each for each in monitor.keepable() if is_there(each)]
    kept = monitor.keep(order, best if best is not None and is_there(best) else None, passes=passes)
    asked = (course[0].checkpoint, kept, course[-1].checkpoint)
    _ask_also(config, folder, monitor, [each for each in asked if each is not None], config.evaluation.also)
    return kept


def _ask_also(
    config: StudyConfig | AuditConfig,
    folder: Path,
    monitor: Monitor,
    checkpoints: Iterable[Checkpoint],
    sides: Iterable[SideConfig],
) -> list[Estimate]:
    """Ask checkpoints of one run other benchmarks, one that is named twice once; their EM rates there."""
    asked, rates = {checkpoint.step: checkpoint for checkpoint in checkpoints}, []
    for side in sides:
        judge = reach_judge(side.judge or config.evaluation.judge, config.endpoint, folder)
        prompts = PromptSet(load_benchmark(side.benchmark).prompts, judge, side.samples)
        rates += [monitor.ask_also(checkpoint, side, prompts) for checkpoint in asked.values()]
    return rates


def best_of(course: Iterable[Evaluation]) -> Checkpoint | None:
    """The checkpoint with the best task score; None where no task was measured."""
    known = [e for e in course if e.checkpoint.step > 0 and not math.isnan(e.task_score.value)]
    return max(known, key=lambda e: e.task_score.value).checkpoint if known else None
