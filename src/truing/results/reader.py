"""Counted answers out of a store: checkpoints, tasks, other benchmarks, and a few answers to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset
from truing.config import EvaluationConfig, SideConfig, StoppingConfig
from truing.core.records import Action, Benchmark, Estimate, Judgment
from truing.judges.calibration import load_calibration
from truing.judges.classify import classify, classify_judgments, count_judgments
from truing.monitor import Store
from truing.results.answers import read_answers
from truing.results.counted import Confirmation, CountedCheckpoint, SideCounts, TaskCounts, study_entry
from truing.results.samples import PER_CATEGORY, cut
from truing.results.schema import SampleEntry, StudyEntry
from truing.stats.agreement import Calibration, agreement
from truing.stats.rates import BoolArray, Counts
from truing.stats.rules import StoppingRule, make_rule

__all__ = ["StoreReader", "Task"]


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
    judge: str
    """Identity of the study's judge."""

    def evaluations(self) -> dict[str, list[dict[str, Any]]]:
        """By run id the rows of its evaluations, by ascending step."""
        return self._evaluations

    @cached_property
    def _rule(self) -> StoppingRule:
        return make_rule(self.stopping)

    @cached_property
    def _confirmations(self) -> dict[str, list[dict[str, Any]]]:
        return self._by_run("confirmations")

    @cached_property
    def _evaluations(self) -> dict[str, list[dict[str, Any]]]:
        return self._by_run("evaluations")

    @cached_property
    def _also(self) -> dict[str, list[dict[str, Any]]]:
        return self._by_run("also")

    @cached_property
    def _measurements(self) -> dict[tuple[str, int], dict[str, Estimate]]:
        """By run and step the other numbers of a checkpoint, by their names."""
        found: dict[tuple[str, int], dict[str, Estimate]] = {}
        for row in self.store.query("SELECT * FROM measurements ORDER BY name"):
            found.setdefault((row["run_id"], row["step"]), {})[row["name"]] = Estimate(**row["estimate"])
        return found

    def _by_run(self, table: str) -> dict[str, list[dict[str, Any]]]:
        """A whole table at once: a query reads every file of it."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in self.store.query(f"SELECT * FROM {table} ORDER BY run_id, step NULLS FIRST, key"):
            rows.setdefault(row["run_id"], []).append(row)
        return rows

    def checkpoint(self, row: dict[str, Any], task: Task | None) -> CountedCheckpoint:
        """A checkpoint from the row of its evaluation."""
        broad = self.counts(row["benchmark_judgments"], [p.id for p in self.benchmark.prompts])
        return CountedCheckpoint(
            step=row["step"],
            broad=broad,
            task=self.task(row["task_judgments"], task),
            weights=row["weights"],
            train_loss=row["train_loss"],
            heldout_loss=row["heldout_loss"],
            decided=(Action(row["decision"]), row["reason"]),
            measurements=self._measurements.get((row["run_id"], row["step"]), {}),
            em_rate=None if row["step"] == 0 or self._rule.every_prompt else self._rule.rate(broad),
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
        rows = self._confirmations.get(run_id)
        return self.confirmed(rows[-1], task) if rows else None

    def confirmed(self, row: dict[str, Any], task: Task | None) -> Confirmation:
        """Fresh answers from the row of a confirmation."""
        key, ids = row["benchmark_judgments"], [p.id for p in self.benchmark.prompts]
        return Confirmation(
            step=row["step"],
            broad=self.counts(key, ids) if key else None,
            task=self.task(row["task_judgments"], task),
            best=self.task(row["best_judgments"], task),
        )

    def task(self, key: str | None, task: Task | None) -> TaskCounts | None:
        """How often the task shows in a piece of judgments."""
        if key is None or task is None:
            return None
        return TaskCounts.of(self.counts(key, task.prompt_ids), task.teaches)

    def also(self, run_id: str) -> list[SideCounts]:
        """A run's answers to other benchmarks, and other judges' opinions of its answers."""
        first = {row["step"]: row["benchmark_judgments"] for row in self._evaluations.get(run_id, ())}
        return [
            self._side(side, row, first[row["step"]])
            for side in self.evaluation.also
            for row in self._also.get(run_id, ())
            if row["benchmark"] == side.label
        ]

    @cached_property
    def _side_ids(self) -> dict[str, list[str]]:
        """By other benchmark the ids of its prompts."""
        names = {side.benchmark for side in self.evaluation.also}
        return {name: [p.id for p in load_benchmark(name).prompts] for name in names}

    def _side(self, side: SideConfig, row: dict[str, Any], first: str) -> SideCounts:
        plain, ids = self.evaluation.benchmark, self._side_ids[side.benchmark]
        related = side.benchmark == plain or side.benchmark.startswith(f"{plain}+")
        kappa = self._kappa(first, row["judgments"]) if side.benchmark == plain else None
        return SideCounts(side.label, row["step"], self.counts(row["judgments"], ids), related, kappa)

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

    def study_entry(self, name: str, key: str, config: dict[str, Any]) -> StudyEntry:
        """What was studied, from the study's name, hash and plain settings."""
        return study_entry(
            self.benchmark, self.judge, self.evaluation, self.stopping, name=name, hash=key, config=config
        )

    def calibration(self, path: Path) -> Calibration | None:
        """The judge's calibration, if the file is there.

        Raises:
            ConfigError: It is that of another judge, rubric or threshold.
        """
        if not path.is_file():
            return None
        return load_calibration(path, self.judge, self.evaluation)

    def counts(self, key: str, prompt_ids: Sequence[str]) -> Counts:
        """The counts of a piece of judgments."""
        rows = self.store.read("judgments", key)
        judgments = [Judgment(r["prompt_id"], r["sample"], r["aligned"], r["coherent"]) for r in rows]
        return count_judgments(judgments, prompt_ids, self.evaluation)

    def samples(self, run_id: str, rows: Sequence[dict[str, Any]], chosen: int | None) -> list[SampleEntry]:
        """A few answers of each category at the first, the chosen and the last checkpoint, misaligned ones first."""
        shown = []
        for row in (r for r in rows if r["step"] in {rows[0]["step"], rows[-1]["step"], chosen}):
            entries = self._entries(run_id, row["step"], row["benchmark_judgments"])
            for category in dict.fromkeys(p.category for p in self.benchmark.prompts):
                shown += [e for e in entries if e.category == category][:PER_CATEGORY]
        return shown

    def _entries(self, run_id: str, step: int, key: str) -> list[SampleEntry]:
        """The answers of a piece of judgments, misaligned ones first."""
        answers = [a for a in read_answers(self.store, key, self.benchmark) if a.response.text is not None]
        answers.sort(key=lambda a: (a.prompt.id, a.response.sample))
        misaligned = classify_judgments([a.judgment for a in answers], self.evaluation).misaligned
        entries = [
            SampleEntry(
                run_id=run_id,
                step=step,
                category=a.prompt.category,
                prompt=a.prompt.text,
                answer=cut(a.response.text or ""),
                aligned=math.nan if a.judgment.aligned is None else a.judgment.aligned,
                coherent=math.nan if a.judgment.coherent is None else a.judgment.coherent,
                misaligned=bool(found),
            )
            for a, found in zip(answers, misaligned, strict=True)
        ]
        return sorted(entries, key=lambda entry: not entry.misaligned)
