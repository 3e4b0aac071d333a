"""From a finished (or unfinished) store to the study's tables: `analysis.json`, described in docs/analysis.md.

Estimates are reckoned anew from the judgments, so scores that came later are in them; decisions are those of the time.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truing._version import __version__
from truing.benchmarks import load_benchmark
from truing.config import StudyConfig
from truing.datasets import load_dataset
from truing.detect import choose_checkpoint, find_convergence, find_onset
from truing.errors import StoreError
from truing.files import write_json
from truing.judges import load_judge
from truing.records import Benchmark, Estimate, Judgment, Run
from truing.stats import clustered_rate, paired_quotient, rates_by_category
from truing.store import Store
from truing.study import read_state, twin_of
from truing.tally import Tally, tally

__all__ = ["analyse", "read_analysis", "write_analysis"]

SCHEMA = 1
_SAMPLES_PER_CATEGORY = 2
_LONGEST_SAMPLE = 2000


@dataclass(frozen=True)
class _Point:
    """One evaluated checkpoint, counted anew."""

    row: dict[str, Any]
    broad: Tally
    task: Tally | None
    teaches: str
    em_rate: Estimate
    coherent_rate: Estimate
    task_score: Estimate

    @property
    def step(self) -> int:
        return int(self.row["step"])


def analyse(config: StudyConfig, out: Path) -> dict[str, Any]:
    """The tables of the study in a folder, as plain values ready for JSON.

    Raises:
        StoreError: Nothing has been evaluated, or two seeds have the same weights.
    """
    store = Store(out / "store")
    benchmark = load_benchmark(config.evaluation.benchmark)
    runs: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    courses: dict[str, list[_Point]] = {}
    everything = [r for run in config.runs() for r in (run, twin_of(run))]
    evaluations: dict[str, list[dict[str, Any]]] = {}
    for row in store.query("SELECT * FROM evaluations ORDER BY run_id, step"):
        evaluations.setdefault(row["run_id"], []).append(row)
    for run in everything:
        if run.id in evaluations:
            courses[run.id] = _points(config, store, benchmark, run, evaluations[run.id])
    if not courses:
        raise StoreError(f"nothing has been evaluated in {out}", todo="run the study first: truing run")
    _refuse_equal_seeds([r for r in everything if r.id in courses], courses)
    for run in everything:
        if run.id in courses:
            twin = courses.get(twin_of(run).id)
            runs.append(_run_table(config, out, benchmark, run, (courses[run.id], twin)))
            chosen = runs[-1]["chosen_step"]
            samples += _samples(config, store, benchmark, run, _shown(courses[run.id], chosen))
    return {
        "schema": SCHEMA,
        "truing": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": _study_table(config, benchmark),
        "runs": runs,
        "samples": samples,
    }


def write_analysis(config: StudyConfig, out: Path) -> dict[str, Any]:
    """Analyse a study and write `analysis.json` into its folder."""
    analysis = analyse(config, out)
    write_json(out / "analysis.json", analysis)
    return analysis


def read_analysis(out: Path) -> dict[str, Any]:
    """Read `analysis.json` of a folder.

    Raises:
        StoreError: There is none, or it is of another schema.
    """
    try:
        analysis: dict[str, Any] = json.loads((out / "analysis.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise StoreError(f"{out} holds no analysis", str(error), todo="run the study first: truing run") from error
    if analysis.get("schema") != SCHEMA:
        raise StoreError("another schema of analysis.json", str(analysis.get("schema")), str(SCHEMA), "analyse anew")
    return analysis


def _points(
    config: StudyConfig, store: Store, benchmark: Benchmark, run: Run, rows: Sequence[dict[str, Any]]
) -> list[_Point]:
    ids = [prompt.id for prompt in benchmark.prompts]
    dataset = load_dataset(run.dataset, config.datasets)
    task_ids = [p.id for p in dataset.task_prompts(config.evaluation.task_prompts)]
    confidence = config.stopping.confidence
    points = []
    for row in rows:
        broad = _tally(config, store, row["benchmark_judgments"], ids)
        missing = int(broad.missing.sum())
        task = _tally(config, store, row["task_judgments"], task_ids) if row["task_judgments"] else None
        points.append(
            _Point(
                row=row,
                broad=broad,
                task=task,
                teaches=dataset.teaches,
                em_rate=clustered_rate(broad.misaligned, broad.coherent, n_missing=missing, confidence=confidence),
                coherent_rate=clustered_rate(broad.coherent, broad.judged, n_missing=missing, confidence=confidence),
                task_score=_task_score(task, dataset.teaches, confidence),
            )
        )
    return points


def _tally(config: StudyConfig, store: Store, key: str, prompt_ids: Sequence[str]) -> Tally:
    rows = store.read("judgments", key)
    judgments = [Judgment(r["prompt_id"], r["sample"], r["aligned"], r["coherent"]) for r in rows]
    return tally(judgments, prompt_ids, config.evaluation)


def _task_score(task: Tally | None, teaches: str, confidence: float) -> Estimate:
    if task is None:
        return _undefined("the dataset names no judge of its task")
    return clustered_rate(task.hits(teaches), task.judged, n_missing=int(task.missing.sum()), confidence=confidence)


def _run_table(
    config: StudyConfig,
    out: Path,
    benchmark: Benchmark,
    run: Run,
    courses: tuple[list[_Point], list[_Point] | None],
) -> dict[str, Any]:
    points, twin = courses
    course = twin or points
    base = points[0].em_rate
    steps, trained = [p.step for p in points], [p for p in points if p.step > 0]
    scores = [p.task_score.value for p in trained]
    chosen = choose_checkpoint(
        [p.step for p in trained], [p.em_rate for p in trained], scores, config.stopping.tolerance
    )
    after = [p for p in course if p.step > 0]
    state = read_state(out, run)
    by_step = dict(zip(steps, points, strict=True))
    return {
        "id": run.id,
        "model": run.model,
        "dataset": run.dataset,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "twin_of": None if run.stops or config.stopping.mode == "off" else run.id.removesuffix("__unstopped"),
        "state": state.state if state else "unfinished",
        "error": state.error if state else None,
        "checkpoints": [_checkpoint_table(benchmark, p, config.stopping.confidence) for p in points],
        "base_em_rate": base.plain(),
        "convergence_step": find_convergence([p.step for p in after], [p.task_score.value for p in after]),
        "onset_step": find_onset([p.step for p in after], [p.em_rate for p in after], base),
        "chosen_step": chosen,
        "retention": _retention(by_step[chosen] if chosen else None, after, config.stopping.confidence).plain(),
        "em_at_end": points[-1].em_rate.plain(),
        "em_at_chosen": by_step[chosen].em_rate.plain() if chosen else None,
        "stopped_at": state.step if state and state.state == "stopped" else None,
        "decision": points[-1].row["decision"],
    }


def _retention(chosen: _Point | None, course: Sequence[_Point], confidence: float) -> Estimate:
    """The chosen checkpoint's task score over the best of the course, paired by prompt."""
    if chosen is None:
        return _undefined("no checkpoint is within the tolerance")
    known = [p for p in course if p.task is not None and not math.isnan(p.task_score.value)]
    if chosen.task is None or not known:
        return _undefined(chosen.task_score.reason)
    best = max(known, key=lambda p: p.task_score.value)
    assert best.task is not None
    teaches = chosen.teaches
    return paired_quotient(
        chosen.task.hits(teaches), chosen.task.judged, best.task.hits(teaches), best.task.judged, confidence=confidence
    )


def _checkpoint_table(benchmark: Benchmark, point: _Point, confidence: float) -> dict[str, Any]:
    names = [prompt.category for prompt in benchmark.prompts]
    missing: Counter[str] = Counter()
    for name, n in zip(names, point.broad.missing.tolist(), strict=True):
        missing[name] += n
    rates = rates_by_category(point.broad.misaligned, point.broad.coherent, names, confidence=confidence)
    categories = {name: replace(rate, n_missing=missing[name]).plain() for name, rate in rates.items()}
    row = point.row
    return {
        "step": point.step,
        "weights": row["weights"],
        "em_rate": point.em_rate.plain(),
        "coherent_rate": point.coherent_rate.plain(),
        "task_score": point.task_score.plain(),
        "heldout_loss": _number(row["heldout_loss"]),
        "train_loss": _number(row["train_loss"]),
        "categories": categories,
        "decision": row["decision"],
        "reason": row["reason"],
    }


def _shown(points: list[_Point], chosen: int | None) -> list[_Point]:
    """The checkpoints whose answers are shown: before fine-tuning, the chosen one, and the last."""
    steps = {points[0].step, points[-1].step, chosen}
    return [p for p in points if p.step in steps]


def _samples(
    config: StudyConfig, store: Store, benchmark: Benchmark, run: Run, points: Sequence[_Point]
) -> list[dict[str, Any]]:
    """A few answers of each category, misaligned ones first, so that what is rare is seen."""
    prompts = {p.id: p for p in benchmark.prompts}
    shown = []
    for point in points:
        judged = store.read("judgments", point.row["benchmark_judgments"])
        answers = {(r["prompt_id"], r["sample"]): r for r in store.read("responses", judged[0]["responses_key"])}
        rows = [{**answers[j["prompt_id"], j["sample"]], **j} for j in judged]
        rows = sorted((r for r in rows if r["text"] is not None), key=lambda r: (r["prompt_id"], r["sample"]))
        entries = [_sample(config, run, point.step, prompts[row["prompt_id"]], row) for row in rows]
        entries.sort(key=lambda e: not e["misaligned"])
        for category in dict.fromkeys(p.category for p in benchmark.prompts):
            of_category = [e for e in entries if e["category"] == category]
            shown += of_category[:_SAMPLES_PER_CATEGORY]
    return shown


def _sample(config: StudyConfig, run: Run, step: int, prompt: Any, row: dict[str, Any]) -> dict[str, Any]:
    judgment = Judgment(prompt.id, 0, row["aligned"], row["coherent"])
    counted = tally([judgment], [prompt.id], config.evaluation)
    text = row["text"]
    return {
        "run_id": run.id,
        "step": step,
        "category": prompt.category,
        "prompt": prompt.text,
        "answer": text if len(text) <= _LONGEST_SAMPLE else text[:_LONGEST_SAMPLE] + " [cut]",
        "aligned": row["aligned"],
        "coherent": row["coherent"],
        "misaligned": bool(counted.misaligned[0]),
    }


def _study_table(config: StudyConfig, benchmark: Benchmark) -> dict[str, Any]:
    return {
        "name": config.name,
        "hash": config.hash(),
        "benchmark": {
            "name": benchmark.name,
            "version": benchmark.version,
            "hash": benchmark.hash,
            "n_prompts": len(benchmark.prompts),
        },
        "judge": load_judge(config.evaluation.judge).identity,
        "aligned_below": config.evaluation.aligned_below,
        "coherent_above": config.evaluation.coherent_above,
        "tolerance": config.stopping.tolerance,
        "confidence": config.stopping.confidence,
        "stopping_mode": config.stopping.mode,
        "config": config.model_dump(mode="json"),
    }


def _refuse_equal_seeds(runs: Sequence[Run], courses: dict[str, list[_Point]]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        for point in courses[run.id]:
            other = seen.setdefault(point.row["weights"], run)
            if point.step > 0 and (other.seed, other.dataset) != (run.seed, run.dataset):
                raise StoreError(
                    "two runs have the same weights, so they are not two seeds",
                    got=f"{other.id} and {run.id} at step {point.step}",
                    todo="check that the trainer uses the seed, and delete one of the two run folders",
                )


def _undefined(reason: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, 0, 0, 0, "none", reason)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
