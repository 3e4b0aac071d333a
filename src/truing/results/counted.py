"""Material of an analysis: judged responses counted by prompt, wherever they come from.

A study's store and files of judged responses both become a `Source`; everything after that is the same.

Shapes: P benchmark prompts, Q held-out prompts of a dataset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from truing.config import MisalignedRule, StoppingConfig
from truing.core.records import Action, Benchmark, Estimate, Judgment
from truing.judges.classify import classify
from truing.monitor.two_phase import ReadShare
from truing.results.judge import JudgeEntry
from truing.results.schema import SampleEntry
from truing.results.schema_runs import AnswersEntry, BenchmarkEntry, SearchEntry, StudyEntry
from truing.stats.agreement import Calibration, JudgeLimits
from truing.stats.labels import LabelCounts
from truing.stats.rates import BoolArray, Counts, FloatArray, IntArray, clustered_rate, missing_bounds
from truing.stats.rules import make_rule

PER_CATEGORY = 2
"""Answers of each category that are shown of a checkpoint."""
_LONGEST = 2000


def shorten(text: str) -> str:
    """A text as it is shown: the end of a long one is left out, and that is said."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " [cut]"


def class_of(sample: SampleEntry, rule: MisalignedRule) -> str:
    """The class of an answer, one of `Classes.names`."""
    return classify(np.array([sample.aligned]), np.array([sample.coherent]), rule).names[0]


@dataclass(frozen=True)
class TaskCounts:
    """Answers to each held-out prompt that show the task learnt."""

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
class Scores:
    """Scores of the R answers of a checkpoint to the benchmark."""

    prompt: IntArray
    """(R,) index of the prompt."""
    aligned: FloatArray
    """(R,) 0 to 100; NaN: none."""
    coherent: FloatArray
    """(R,) 0 to 100; NaN: none."""
    word: IntArray
    """(R,) what stands in place of a score: 0 nothing, 1 the word for a refusal, 2 another word."""

    @classmethod
    def of(cls, judgments: Sequence[Judgment], prompt_ids: Sequence[str]) -> Scores:
        """From judgments of answers to these prompts."""
        index = {prompt_id: i for i, prompt_id in enumerate(prompt_ids)}
        return cls(
            np.array([index[j.prompt_id] for j in judgments], dtype=np.int64),
            np.array([j.aligned for j in judgments], dtype=np.float64),
            np.array([j.coherent for j in judgments], dtype=np.float64),
            np.array([(1 if "refus" in j.verdict.lower() else 2) if j.verdict else 0 for j in judgments], np.int64),
        )


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
    decided: tuple[Action, str] | None = None
    """Action and reason at the time; None: decided now, from the interval."""
    em_rate: Estimate | None = None
    """Of the sequential rule, whose stopping its limits allow for; None: estimated from the counts."""
    limits: JudgeLimits | None = None
    """What decisions may use of the judge by then; None: what it was shown to see at first."""
    measurements: Mapping[str, Estimate] = field(default_factory=dict)
    """Any other numbers by name, each in its own unit."""
    scores: Scores | None = None
    """Of the same answers as `broad`; None: not known."""
    told: AnswersEntry | None = None
    """What came of its answers; None: not known."""


@dataclass(frozen=True)
class FreshCounts:
    """Fresh answers of one checkpoint, which had no part in choosing it."""

    broad: Counts | None
    """(P,) answers to the benchmark; None if only the task was asked again."""
    task: TaskCounts | None
    limits: JudgeLimits | None = None
    """What decisions may use of the judge by then; None: what it was shown to see at first."""


@dataclass(frozen=True)
class SideCounts:
    """Answers of one checkpoint to another benchmark."""

    benchmark: str
    step: int
    counts: Counts
    """(K,) of its K prompts."""
    is_variant: bool
    """True if its prompts are those of the study's benchmark, perhaps changed: then K = P, in the same order."""
    agreement: Estimate | None = None
    """Cohen's kappa with the study's judge on the same answers; None for other answers."""
    decides: bool = True
    """It counts in the gate."""
    share: ReadShare | None = None
    """Of a second judge that read a share of the answers; `counts` are then of these alone. None: it read all."""

    def rates(self, confidence: float) -> tuple[Estimate, Estimate]:
        """The EM rate and the coherent rate."""
        if self.share is not None:
            return self.share.rates(confidence)
        counts, missing = self.counts, int(self.counts.missing.sum())
        return (
            clustered_rate(counts.misaligned, counts.coherent, n_missing=missing, confidence=confidence),
            counts.coherent_rate(confidence),
        )

    def bounds(self, confidence: float) -> tuple[Estimate, Estimate]:
        """The EM rate if none of the answers without scores were misaligned, and if all were."""
        if self.share is not None:
            return self.share.bounds(confidence)
        counts = self.counts
        tables = (counts.misaligned[None], counts.coherent[None], counts.missing[None])
        return missing_bounds(*tables, confidence=confidence)[0]


@dataclass(frozen=True)
class OwnLabels:
    """What a person said of one checkpoint's answers."""

    step: int
    fresh: bool
    """True of the fresh answers that confirm a choice."""
    counts: LabelCounts
    """Those without a label count as misaligned."""
    flagged: int
    """Answers that the judge flagged."""
    unlabelled: int
    """Answers of the set that have no label."""


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
    task_doubt: str = ""
    """Why the task scores are not to be believed; empty: nothing is known against them."""
    inside: BoolArray | None = None
    """(P,) prompts of the dataset's own domain; None if the benchmark has none."""
    restored: int | None = None
    """Step of the weights that a guard put back into the model."""
    ended_with: int | None = None
    """Step of the weights that a guarded model has: put back, or of the last evaluated step; None: no guard."""
    unjudged: str = ""
    """Why nobody judged the weights that a guarded model has; empty: they are of `ended_with`."""
    fresh: Mapping[int, FreshCounts] = field(default_factory=dict)
    """By step: fresh answers of the checkpoint that was chosen, and of the one with the best task score."""
    also: Sequence[SideCounts] = ()
    """Other benchmarks."""
    labels: OwnLabels | None = None
    """A person's labels of one checkpoint's answers."""
    search: SearchEntry | None = None
    """None: every checkpoint was asked."""
    unevaluated: Sequence[int] = ()
    """Steps that were not evaluated."""


@dataclass(frozen=True)
class Source:
    """Everything that an analysis needs."""

    study: StudyEntry
    categories: Sequence[str]
    """(P,) the category of each benchmark prompt."""
    stopping: StoppingConfig
    """Tolerance, confidence, the lowest task score, and the rule."""
    runs: Sequence[CountedRun]
    judge: JudgeEntry | None = None
    """None: nothing is known of it."""
    calibration: Calibration | None = None
    """Counts of how often the judge is right, from labelled answers; None if it was not calibrated."""
    samples: Callable[[Mapping[str, int | None]], Sequence[SampleEntry]] = lambda chosen: ()
    """Picks answers to read, given the chosen step of each run by its id."""
    notes: Sequence[str] = field(default_factory=tuple)
    not_evaluated: Sequence[str] = ()
    doubts: Sequence[str] = ()
    """Ids of runs that have no evaluated checkpoint yet."""

    @property
    def tolerance(self) -> float:
        """Highest EM rate that is acceptable, in (0, 1)."""
        return self.stopping.tolerance

    @property
    def confidence(self) -> float:
        """Level of every interval."""
        return self.stopping.confidence

    @property
    def limits(self) -> JudgeLimits:
        """What the judge was shown to see."""
        return JudgeLimits() if self.judge is None else self.judge.limits()


def study_entry(
    benchmark: Benchmark, judge: str, misaligned: MisalignedRule, stopping: StoppingConfig, **named: Any
) -> StudyEntry:
    """The study as an analysis names it.

    `named`: `name`, `hash` and `config` (all settings, as plain values) of the entry; `asks`, if the rule is at hand.
    """
    if "asks" not in named:
        named["asks"] = make_rule(stopping).asks
    n_prompts = len(benchmark.prompts)
    return StudyEntry(
        benchmark=BenchmarkEntry(
            name=benchmark.name, version=benchmark.version, hash=benchmark.hash, n_prompts=n_prompts
        ),
        judge=judge,
        **misaligned.thresholds(),
        tolerance=stopping.tolerance,
        confidence=stopping.confidence,
        stopping_mode=stopping.mode,
        rule=stopping.rule_name,
        **named,
    )
