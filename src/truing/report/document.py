"""What the report knows of an analysis: plain frozen records, as `reading.py` makes them from `analysis.json`.

The schema is docs/analysis.md, where every field is explained. Undefined numbers are NaN with their reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from truing.core.records import Action, Estimate

__all__ = [
    "CheckpointEntry",
    "ConfirmedEntry",
    "CorrelationEntry",
    "CourseEntry",
    "Document",
    "DomainEntry",
    "OptionEntry",
    "RatesEntry",
    "RunEntry",
    "SampleEntry",
    "SearchEntry",
    "SeedsEntry",
    "SeparableEntry",
    "SideEntry",
    "SizeModel",
    "SizesEntry",
    "StepBounds",
    "StudyEntry",
    "rate_words",
    "short_name",
]


def short_name(model: str) -> str:
    """A model without the folders before it."""
    return PurePath(model).name or model


def rate_words(learning_rate: float) -> str:
    """A learning rate in words; NaN is not known."""
    return "lr\u00a0unknown" if math.isnan(learning_rate) else f"lr\u00a0{learning_rate:g}"


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """One evaluated checkpoint of a run."""

    step: int
    weights: str
    """Hash; empty if not known."""
    em_rate: Estimate
    if_none: Estimate
    """EM rate if none of the missing responses were misaligned."""
    if_all: Estimate
    """EM rate if all of the missing responses were misaligned."""
    corrected: Estimate | None
    """The EM rate that a judge without error would have found; None without a calibration."""
    versus_base: Estimate | None
    """EM rate minus that of step 0, in [-1, 1]."""
    coherent_rate: Estimate
    task_score: Estimate
    heldout_loss: float
    """Nats per token; NaN if not measured."""
    train_loss: float
    """Nats per token; NaN if not measured."""
    categories: Mapping[str, Estimate]
    """EM rate by category slug."""
    decision: Action
    reason: str


@dataclass(frozen=True, slots=True)
class StepBounds:
    """The steps between which a true step lies."""

    low: int | None
    """Earliest; None is beyond the last checkpoint."""
    high: int | None
    """Latest; None is open: it may lie beyond the last checkpoint."""


@dataclass(frozen=True, slots=True)
class CourseEntry:
    """When EM began and when the task was learnt."""

    onset: StepBounds
    convergence: StepBounds
    gap: float
    """Onset minus convergence by the point estimates, in steps; NaN is unknown."""
    gap_low: float
    gap_high: float
    """Limits of the gap, in steps; NaN is open."""
    order: str
    """`before`, `after` or `cannot tell`."""
    reason: str


@dataclass(frozen=True, slots=True)
class ConfirmedEntry:
    """A chosen checkpoint measured by responses that had no part in choosing it."""

    step: int | None
    em_rate: Estimate | None
    task_score: Estimate | None
    retention: Estimate | None
    source: str


@dataclass(frozen=True, slots=True)
class SeparableEntry:
    """Whether some checkpoint has the task learnt and the rest clean."""

    answer: str
    """`yes`, `no` or `cannot tell`."""
    step: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class SideEntry:
    """One checkpoint's answers to another benchmark."""

    benchmark: str
    step: int
    em_rate: Estimate
    coherent_rate: Estimate
    versus_plain: Estimate | None
    agreement: Estimate | None
    """Cohen's kappa with the study's judge on the same answers."""


@dataclass(frozen=True, slots=True)
class SearchEntry:
    """A search among checkpoints that existed already."""

    kind: str
    """`best` or `crossing`."""
    found: int | None
    """Step of the clear checkpoint."""
    next_misaligned: int | None
    """Step of the misaligned one after it."""
    looked: int
    judged: int


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run with its checkpoints, by ascending step."""

    id: str
    model: str
    dataset: str
    parameters: float
    """Of the base model; NaN if not known."""
    learning_rate: float
    """NaN if not known."""
    seed: int | None
    twin_of: str | None
    state: str
    error: str | None
    checkpoints: tuple[CheckpointEntry, ...]
    base_em_rate: Estimate
    convergence_step: int | None
    onset_step: int | None
    course: CourseEntry
    separable: SeparableEntry
    chosen_step: int | None
    retention: Estimate
    confirmed: ConfirmedEntry | None
    inside: Estimate | None
    outside: Estimate | None
    also: tuple[SideEntry, ...]
    em_at_end: Estimate
    em_at_chosen: Estimate | None
    search: SearchEntry | None
    """None: every checkpoint was asked."""
    stopped_at: int | None
    decision: Action | None

    @property
    def model_name(self) -> str:
        """The model without the folders before it."""
        return short_name(self.model)

    @property
    def settings(self) -> str:
        """What tells runs of one model and dataset apart: their id where the seed is not known."""
        seed = self.id if self.seed is None else f"seed\u00a0{self.seed}"
        return seed if math.isnan(self.learning_rate) else f"{rate_words(self.learning_rate)} · {seed}"

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{self.model_name} on {self.dataset}, {self.settings}"

    @property
    def last(self) -> CheckpointEntry | None:
        """The last evaluated checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def measured(self) -> bool:
        """Whether the EM rate is known at any checkpoint after the base."""
        return any(c.step > 0 and not math.isnan(c.em_rate.value) for c in self.checkpoints)

    def at(self, step: int | None) -> CheckpointEntry | None:
        """The checkpoint of a step, if it was evaluated."""
        return next((c for c in self.checkpoints if c.step == step), None)


@dataclass(frozen=True, slots=True)
class SeedsEntry:
    """What the seeds of one model, dataset and learning rate say together."""

    model: str
    dataset: str
    learning_rate: float
    """NaN if not known."""
    runs: tuple[str, ...]
    """Ids, one per seed."""
    em_rate: Estimate
    verdict: str
    """`consistent`, `inconsistent`, `none` or `undecided`."""
    reason: str
    above: tuple[str, ...]
    clean: tuple[str, ...]
    needed: float
    """How many times as many prompts would decide; NaN: more prompts alone will not do."""
    versus_base: tuple[Estimate, ...]
    """EM rate minus base's, in the order of `runs`."""
    onset: Estimate
    gap: Estimate
    """In steps."""
    retention: Estimate


@dataclass(frozen=True, slots=True)
class OptionEntry:
    """One learning rate of several."""

    learning_rate: float
    score: Estimate
    em_rate: float
    """Mean over seeds at the end; NaN is unknown."""
    probability_best: float
    """NaN is unknown."""
    pareto: bool
    rival: bool


@dataclass(frozen=True, slots=True)
class RatesEntry:
    """Which learning rate to use for a model and dataset."""

    model: str
    dataset: str
    options: tuple[OptionEntry, ...]
    recommended: float
    """NaN if none is."""
    reason: str


@dataclass(frozen=True, slots=True)
class SizeModel:
    """A model of known size."""

    model: str
    parameters: float
    em_rate: float
    """Mean over its runs at the end; NaN is unknown."""


@dataclass(frozen=True, slots=True)
class CorrelationEntry:
    """How size and EM go together over models. NaN with a reason when undefined."""

    value: float
    low: float
    high: float
    p: float
    n: int
    without: tuple[float, ...]
    """Without each model, in the order of the models; empty if undefined."""
    carried_by: tuple[str, ...]
    method: str
    reason: str


@dataclass(frozen=True, slots=True)
class SizesEntry:
    """Size against EM on one dataset."""

    dataset: str
    models: tuple[SizeModel, ...]
    pearson: CorrelationEntry
    spearman: CorrelationEntry


@dataclass(frozen=True, slots=True)
class DomainEntry:
    """Whether the narrow task comes apart from broad misalignment, for a model and dataset."""

    model: str
    dataset: str
    separable: Estimate


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One answer to show. Scores are NaN if the judge gave none."""

    run_id: str
    step: int
    category: str
    prompt: str
    answer: str
    aligned: float
    coherent: float
    misaligned: bool | None
    """None if it could not be judged."""


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """What was studied, and by which thresholds."""

    name: str
    hash: str
    benchmark: str
    benchmark_version: str
    benchmark_hash: str
    n_prompts: int
    judge: str
    aligned_below: float
    coherent_above: float
    tolerance: float
    confidence: float
    stopping_mode: str
    rule: str
    """`fixed` or `sequential`."""
    config: str
    """The whole study as indented JSON."""


@dataclass(frozen=True, slots=True)
class Document:
    """A whole analysis."""

    truing: str
    created: str
    study: StudyEntry
    runs: tuple[RunEntry, ...]
    seeds: tuple[SeedsEntry, ...]
    learning_rates: tuple[RatesEntry, ...]
    sizes: tuple[SizesEntry, ...]
    domains: tuple[DomainEntry, ...]
    notes: tuple[str, ...]
    samples: tuple[SampleEntry, ...]
