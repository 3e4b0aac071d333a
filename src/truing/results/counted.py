"""What an analysis is made from: judged responses counted by prompt, wherever they come from.

A study's store and files of judged responses both become a `Source`; everything after that is the same.

Shapes: P benchmark prompts, Q held-out prompts of a dataset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from truing.config import EvaluationConfig, StoppingConfig
from truing.core.records import Benchmark, Estimate
from truing.stats import BoolArray, Calibration, Counts, FloatArray

__all__ = [
    "Confirmation",
    "CountedCheckpoint",
    "CountedRun",
    "SearchCounts",
    "SideCounts",
    "Source",
    "TaskCounts",
    "study_table",
]


@dataclass(frozen=True)
class TaskCounts:
    """How many answers to each held-out prompt show the task learnt."""

    hits: FloatArray
    """(Q,) answers that show it, or scores in [0, 1] added up."""
    judged: FloatArray
    """(Q,) answers that were scored."""
    missing: int = 0
    """Answers without a score."""

    @classmethod
    def of(cls, counts: Counts, teaches: str) -> TaskCounts:
        """From answers counted by prompt; `teaches` says which of them show it, see `Counts.hits`."""
        hits, judged = counts.hits(teaches).astype(np.float64), counts.judged.astype(np.float64)
        return cls(hits, judged, int(counts.missing.sum()))


@dataclass(frozen=True)
class CountedCheckpoint:
    """One evaluated checkpoint."""

    step: int
    broad: Counts
    """(P,) answers to the benchmark."""
    task: TaskCounts | None = None
    """None if nothing measured the task."""
    weights: str = ""
    """Hash of the weights; empty if not known."""
    answers: str = ""
    """Hash of the answers' texts; empty if not known."""
    train_loss: float = math.nan
    heldout_loss: float = math.nan
    decided: tuple[str, str] | None = None
    """Action and reason at the time; None: decided now, from the interval."""
    em_rate: Estimate | None = None
    """Of the sequential rule, whose stopping its limits allow for; None: estimated from the counts."""


@dataclass(frozen=True)
class Confirmation:
    """Fresh responses that had no part in choosing."""

    step: int | None
    """The chosen checkpoint; None if none was chosen."""
    broad: Counts | None
    """Its answers to the benchmark."""
    task: TaskCounts | None
    best: TaskCounts | None
    """Of the run's checkpoint with the best task score, to compare with."""


@dataclass(frozen=True)
class SideCounts:
    """Answers of one checkpoint to another benchmark."""

    benchmark: str
    step: int
    counts: Counts
    """(K,) of its K prompts."""
    is_variant: bool
    """Whether its prompts are those of the study's benchmark, perhaps changed: then K = P, in the same order."""
    agreement: Estimate | None = None
    """Cohen's kappa with the study's judge on the same answers; None for other answers."""


@dataclass(frozen=True)
class SearchCounts:
    """A search among checkpoints that exist already: those it did not look at have no EM rate."""

    kind: Literal["best", "crossing"]
    found: int | None
    """Step of the clear checkpoint that was found."""
    next_misaligned: int | None
    """Step of the misaligned checkpoint after it (`crossing`)."""
    looked: int
    """Checkpoints that were looked at."""
    judged: int
    """Answers asked for in all."""


@dataclass(frozen=True)
class CountedRun:
    """One run with its checkpoints by ascending step."""

    id: str
    model: str
    dataset: str
    checkpoints: Sequence[CountedCheckpoint]
    learning_rate: float = math.nan
    """NaN if not known."""
    seed: int | None = None
    parameters: float = math.nan
    """Of the base model; NaN if not known."""
    state: Literal["finished", "stopped", "unfinished", "failed"] = "finished"
    error: str | None = None
    stopped_at: int | None = None
    twin_of: str | None = None
    """Id of the stopped run that this one repeats without stopping."""
    inside: BoolArray | None = None
    """(P,) prompts of the dataset's own domain; None if the benchmark has none."""
    confirmation: Confirmation | None = None
    also: Sequence[SideCounts] = ()
    """Other benchmarks."""
    search: SearchCounts | None = None
    """None: every checkpoint was asked."""


@dataclass(frozen=True)
class Source:
    """Everything that an analysis needs."""

    study: Mapping[str, Any]
    """The table `study` of docs/analysis.md."""
    categories: Sequence[str]
    """(P,) the category of each benchmark prompt."""
    tolerance: float
    confidence: float
    runs: Sequence[CountedRun]
    floor: float = -math.inf
    """Lowest task score that a chosen checkpoint may have."""
    calibration: Calibration | None = None
    """How often the judge is right, from labelled answers; None if it was not calibrated."""
    samples: Sequence[Mapping[str, Any]] = ()
    """The table `samples` of docs/analysis.md."""
    notes: Sequence[str] = field(default_factory=tuple)


def study_table(
    name: str,
    key: str,
    config: Mapping[str, Any],
    benchmark: Benchmark,
    judge: str,
    settings: tuple[EvaluationConfig, StoppingConfig],
) -> dict[str, Any]:
    """The table `study` of docs/analysis.md.

    Args:
        name: What the study is called.
        key: Its hash.
        config: All its settings, as plain values.
        benchmark: What was asked.
        judge: Identity of who judged.
        settings: Thresholds, and the rule of stopping.
    """
    evaluation, stopping = settings
    return {
        "name": name,
        "hash": key,
        "benchmark": {
            "name": benchmark.name,
            "version": benchmark.version,
            "hash": benchmark.hash,
            "n_prompts": len(benchmark.prompts),
        },
        "judge": judge,
        "aligned_below": evaluation.aligned_below,
        "coherent_above": evaluation.coherent_above,
        "tolerance": stopping.tolerance,
        "confidence": stopping.confidence,
        "stopping_mode": stopping.mode,
        "rule": stopping.rule_name,
        "config": config,
    }
