"""Counted answers out of a store: checkpoints, tasks, other benchmarks, and a few answers to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from truing.analysis.counted import Confirmation, CountedCheckpoint, SideCounts, TaskCounts
from truing.calibration import load_calibration
from truing.config import EvaluationConfig, SideConfig, StoppingConfig
from truing.datasets import Dataset
from truing.detect import anytime_rate
from truing.judges import load_judge
from truing.lookup import find_benchmark
from truing.records import Benchmark, Estimate, Judgment, Prompt
from truing.stats import BoolArray, Calibration, agreement
from truing.store import Store
from truing.tally import Tally, classify, tally

__all__ = ["StoreReader", "Task"]

_SAMPLES_PER_CATEGORY = 2
_LONGEST_SAMPLE = 2000


@dataclass(frozen=True)
class Task:
    """A dataset's held-out prompts."""

    prompt_ids: Sequence[str]
    teaches: str
    """Which answers show the task learnt."""


@dataclass(frozen=True)
class StoreReader:
    """Reads one study's store."""

    store: Store
    benchmark: Benchmark
    evaluation: EvaluationConfig
    stopping: StoppingConfig

    def evaluations(self) -> dict[str, list[dict[str, Any]]]:
        """By run id the rows of its evaluations, by ascending step."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in self.store.query("SELECT * FROM evaluations ORDER BY run_id, step"):
            rows.setdefault(row["run_id"], []).append(row)
        return rows

    def checkpoint(self, row: dict[str, Any], task: Task | None) -> CountedCheckpoint:
        """A checkpoint from the row of its evaluation."""
        broad = self.tally(row["benchmark_judgments"], [p.id for p in self.benchmark.prompts])
        return CountedCheckpoint(
            step=row["step"],
            broad=broad,
            task=self.task(row["task_judgments"], task),
            weights=row["weights"],
            train_loss=row["train_loss"],
            heldout_loss=row["heldout_loss"],
            decided=(row["decision"], row["reason"]),
            em_rate=self._looked_rate(broad) if row["detector"] else None,
        )

    def task_of(self, dataset: Dataset) -> Task:
        """A dataset's prompts, as many as are asked."""
        return Task([p.id for p in dataset.task_prompts(self.evaluation.task_prompts)], dataset.teaches)

    def inside(self, dataset: Dataset) -> BoolArray | None:
        """(P,) the benchmark's prompts of the dataset's own domain; None if there are none."""
        inside = np.array([p.category in dataset.domain for p in self.benchmark.prompts])
        return inside if inside.any() else None

    def confirmation(self, run_id: str, task: Task | None) -> Confirmation | None:
        """Fresh answers of the checkpoint that a run keeps, if there are such."""
        rows = self.store.query("SELECT * FROM confirmations WHERE run_id = ?", [run_id])
        if not rows:
            return None
        row, ids = rows[-1], [p.id for p in self.benchmark.prompts]
        return Confirmation(
            step=row["step"],
            broad=self.tally(row["benchmark_judgments"], ids) if row["benchmark_judgments"] else None,
            task=self.task(row["task_judgments"], task),
            best=self.task(row["best_judgments"], task),
        )

    def task(self, key: str | None, task: Task | None) -> TaskCounts | None:
        """How often the task shows in a piece of judgments."""
        if key is None or task is None:
            return None
        counts = self.tally(key, task.prompt_ids)
        hits, judged = counts.hits(task.teaches).astype(np.float64), counts.judged.astype(np.float64)
        return TaskCounts(hits, judged, int(counts.missing.sum()))

    def also(self, run_id: str) -> list[SideCounts]:
        """A run's answers to other benchmarks, and other judges' opinions of its answers."""
        if not self.evaluation.also:
            return []
        rows = self.store.query("SELECT * FROM also WHERE run_id = ? ORDER BY step", [run_id])
        evaluated = self.store.query("SELECT step, benchmark_judgments FROM evaluations WHERE run_id = ?", [run_id])
        first = {row["step"]: row["benchmark_judgments"] for row in evaluated}
        return [
            self._side(side, row, first[row["step"]])
            for side in self.evaluation.also
            for row in rows
            if row["benchmark"] == side.label
        ]

    def _side(self, side: SideConfig, row: dict[str, Any], first: str) -> SideCounts:
        plain, ids = self.evaluation.benchmark, [p.id for p in find_benchmark(side.benchmark).prompts]
        related = side.benchmark == plain or side.benchmark.startswith(f"{plain}+")
        kappa = self._kappa(first, row["judgments"]) if side.benchmark == plain else None
        return SideCounts(side.label, row["step"], self.tally(row["judgments"], ids), related, kappa)

    def _kappa(self, one: str, other: str) -> Estimate | None:
        """How far two judges agree on which of the same answers are misaligned; None if the answers differ."""
        sides = [{(r["prompt_id"], r["sample"]): r for r in self.store.read("judgments", key)} for key in (one, other)]
        pairs = sorted(sides[0].keys() & sides[1].keys())
        if not pairs:
            return None
        ratings = []
        for side in sides:
            scores = np.array([[side[p]["aligned"], side[p]["coherent"]] for p in pairs], dtype=np.float64)
            classes = classify(scores[:, 0], scores[:, 1], self.evaluation)
            ratings.append(np.where(classes.judged, classes.misaligned, np.nan))
        prompts = np.unique([prompt_id for prompt_id, _ in pairs], return_inverse=True)[1]
        rng, confidence = np.random.default_rng(0), self.stopping.confidence
        return agreement(np.array(ratings), rng, prompts=prompts, confidence=confidence)["kappa"]

    def study_table(self, name: str, key: str, config: dict[str, Any]) -> dict[str, Any]:
        """The table `study` of docs/analysis.md, from the study's name, hash and plain settings."""
        benchmark, evaluation, stopping = self.benchmark, self.evaluation, self.stopping
        return {
            "name": name,
            "hash": key,
            "benchmark": {
                "name": benchmark.name,
                "version": benchmark.version,
                "hash": benchmark.hash,
                "n_prompts": len(benchmark.prompts),
            },
            "judge": load_judge(evaluation.judge).identity,
            "aligned_below": evaluation.aligned_below,
            "coherent_above": evaluation.coherent_above,
            "tolerance": stopping.tolerance,
            "confidence": stopping.confidence,
            "stopping_mode": stopping.mode,
            "rule": "fixed" if stopping.sequential is None else "sequential",
            "config": config,
        }

    def calibration(self, path: Path) -> Calibration | None:
        """The judge's calibration, if the file is there.

        Raises:
            ConfigError: It is that of another judge, rubric or threshold.
        """
        if not path.is_file():
            return None
        return load_calibration(path, load_judge(self.evaluation.judge).identity, self.evaluation)

    def tally(self, key: str, prompt_ids: Sequence[str]) -> Tally:
        """The counts of a piece of judgments."""
        rows = self.store.read("judgments", key)
        judgments = [Judgment(r["prompt_id"], r["sample"], r["aligned"], r["coherent"]) for r in rows]
        return tally(judgments, prompt_ids, self.evaluation)

    def samples(self, run_id: str, rows: Sequence[dict[str, Any]], chosen: int | None) -> list[dict[str, Any]]:
        """A few answers of each category at the first, the chosen and the last checkpoint, misaligned ones first."""
        prompts = {p.id: p for p in self.benchmark.prompts}
        shown = []
        for row in (r for r in rows if r["step"] in {rows[0]["step"], rows[-1]["step"], chosen}):
            judged = self.store.read("judgments", row["benchmark_judgments"])
            texts = self.store.read("responses", judged[0]["responses_key"])
            answers = {(r["prompt_id"], r["sample"]): r for r in texts}
            merged = [{**answers[j["prompt_id"], j["sample"]], **j} for j in judged]
            merged = sorted((r for r in merged if r["text"] is not None), key=lambda r: (r["prompt_id"], r["sample"]))
            entries = [
                {"run_id": run_id, "step": row["step"], **self._sample(prompts[r["prompt_id"]], r)} for r in merged
            ]
            entries.sort(key=lambda e: not e["misaligned"])
            for category in dict.fromkeys(p.category for p in self.benchmark.prompts):
                shown += [e for e in entries if e["category"] == category][:_SAMPLES_PER_CATEGORY]
        return shown

    def _sample(self, prompt: Prompt, row: dict[str, Any]) -> dict[str, Any]:
        judgment = Judgment(prompt.id, 0, row["aligned"], row["coherent"])
        counted = tally([judgment], [prompt.id], self.evaluation)
        text = row["text"]
        return {
            "category": prompt.category,
            "prompt": prompt.text,
            "answer": text if len(text) <= _LONGEST_SAMPLE else text[:_LONGEST_SAMPLE] + " [cut]",
            "aligned": row["aligned"],
            "coherent": row["coherent"],
            "misaligned": bool(counted.misaligned[0]),
        }

    def _looked_rate(self, broad: Tally) -> Estimate:
        rule = self.stopping.sequential
        assert rule is not None  # a detector's state is there
        counts = (int(broad.misaligned.sum()), int(broad.coherent.sum()), int(broad.missing.sum()))
        return anytime_rate(counts, alpha=rule.alpha, beta=rule.beta)
