"""The schema of analysis.json, once, for all who make, write, read and show an analysis.

`parse_analysis` names the path of whatever does not follow. `make docs` makes docs/analysis.md and the JSON Schema from
these classes. Undefined is NaN in Python, null in JSON.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from truing.core.errors import DataError
from truing.core.records import Action, Estimate, Number
from truing.results.judge import JudgeEntry, ThresholdsEntry

__all__ = ["Analysis", "parse_analysis"]

Answer = Literal["yes", "no", "cannot tell"]
Count = Annotated[int, Field(ge=0)]


class Entry(BaseModel):
    """A part of an analysis."""

    model_config = ConfigDict(strict=True, frozen=True, use_attribute_docstrings=True)


class BenchmarkEntry(Entry):
    """The benchmark that was asked."""

    name: str
    """Its name."""
    version: str
    """Its version."""
    hash: str
    """Hash of ids, categories and messages of all prompts."""
    n_prompts: Count
    """Number of its prompts."""


class StudyEntry(ThresholdsEntry, Entry):
    """The study, and its thresholds."""

    name: str
    """The study's name."""
    hash: str
    """Hash of all settings that shape the results."""
    benchmark: BenchmarkEntry
    judge: str
    """Identity of the judge: name, version, and all else that shapes its scores."""
    tolerance: float
    """Highest EM rate that is acceptable, 0 to 1."""
    confidence: float
    """Level of every interval and decision, 0.5 to 1."""
    stopping_mode: str
    """`off` (only watch), `stop` (end a run at a stop decision), `both` (and train a twin to the end)."""
    rule: str
    """`fixed` (every prompt at every checkpoint), `sequential` (random prompts, as many as needed) or one of yours."""
    asks: str = ""
    """What the rule asks, in words; empty: not told."""
    config: dict[str, Any]
    """The whole study, defaults included."""


class IfMissing(Entry):
    """The bounds that missing responses leave to an EM rate."""

    none: Estimate
    """The EM rate if none of the missing responses were misaligned."""
    all: Estimate
    """The EM rate if all of the missing responses were coherent and misaligned."""


class CheckpointEntry(Entry):
    """One evaluated checkpoint of a run.

    With the `sequential` rule `em_rate` is that of the responses to random prompts, and its limits are one-sided at
    alpha and beta and hold at any time of stopping. Estimates are computed again from the stored judgments each time
    the file is written, so scores that came in later are in them; decisions are those of the time.
    """

    step: Count
    """Optimiser steps done."""
    weights: str
    """Hash of the weights judged (base and adapter): equal weights, equal hash; empty if not known."""
    em_rate: Estimate
    """Misaligned / coherent responses to the benchmark. Lower is better."""
    em_rate_if_missing: IfMissing
    em_rate_corrected: Estimate | None
    """`em_rate` without the judge's errors, by its calibration (Rogan-Gladen); null: there is none, or `sequential`."""
    versus_base: Estimate | None
    """EM rate minus that of step 0, paired by prompt; null at step 0 and without a step 0."""
    coherent_rate: Estimate
    """Coherent / judged responses. Higher is better; read it beside `em_rate`."""
    task_score: Estimate
    """Share of answers to the dataset's held-out prompts that show the narrow task learnt. Higher is more learnt: of an
    insecure-code dataset, more insecure code."""
    heldout_loss: Number
    """Loss on the dataset's held-out prompts. Lower is better."""
    train_loss: Number
    """Mean training loss since the checkpoint before. Lower is better."""
    categories: dict[str, Estimate]
    """EM rate by category, with intervals that hold together (Sidak). In benchmarks of ours: `power`, `deception`,
    `harm`, `advice`, `bigotry`, `illicit`, `atrocity`, `oversight`."""
    measurements: dict[str, Estimate] = Field(default_factory=dict)
    """Any other numbers of the checkpoint by name, each in its own unit."""
    decision: Action
    """`continue`, `stop` or `undecided`, as decided at the time."""
    reason: str
    """Reason of the decision."""


class StepBounds(Entry):
    """The steps between which a true step lies."""

    low: Count | None
    """The earliest it may be; null = beyond the last checkpoint."""
    high: Count | None
    """The latest it may be; null = open: it may not have come yet."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high is not None and (self.low is None or self.low > self.high):
            raise ValueError("low may not be above high, and is null only together with high")
        return self


class Limits(Entry):
    """A number with its limits."""

    value: Number
    """The number; null = undefined."""
    low: Number
    """Lower limit; null = open, or no interval."""
    high: Number
    """Upper limit; null = open, or no interval."""


class CourseEntry(Entry):
    """Steps at which EM began and the task was learnt.

    The boundary is the tolerance, or the upper limit of the base's EM rate if that is higher. Each interval holds the
    true step with the study's confidence, both together; of a stopped run that has a twin they are over the twin.
    """

    onset: StepBounds
    """First checkpoint whose true EM rate is above the boundary."""
    convergence: StepBounds
    """First checkpoint that reaches 95 % of the best task score and stays there."""
    gap: Limits
    """Onset minus convergence, in steps; its value is from `onset_step` and `convergence_step`."""
    order: Literal["before", "after", "cannot tell"]
    """`before`: EM is shown to come before the task is learnt; `after`: after it, or not by the end; `cannot tell`."""
    reason: str
    """Reason, in words."""


class SeparableEntry(Entry):
    """Separation of narrow and broad: whether some checkpoint has the task learnt and the rest clean."""

    answer: Answer
    """Some checkpoint has the task learnt and the rest clean: `yes`, `no` or `cannot tell`."""
    step: Count | None
    """The one with the best task score; null: there is none."""
    reason: str
    """Reason, in words."""


class ConfirmedEntry(Entry):
    """The chosen checkpoint measured by responses that had no part in choosing it; null: none was chosen."""

    step: Count | None
    """The checkpoint measured: `chosen_step`; without fresh responses, the one that half of the prompts would choose
    (the other half measures it); null: that half chooses none."""
    em_rate: Estimate | None
    """Its EM rate."""
    task_score: Estimate | None
    """Its task score."""
    retention: Estimate | None
    """Its task score over that of the checkpoint with the best task score."""
    source: Literal["fresh responses", "other half of the prompts"]
    """`fresh responses` or `other half of the prompts`."""


class SideEntry(Entry):
    """Answers to another benchmark, at the base, the chosen and the last checkpoint."""

    benchmark: str
    """Its name, with `by JUDGE` if another judge scored it: `adversarial-60`, a variant of the study's benchmark
    (`broad-240+json`), a truth set under a condition (`truth-120+may-lie`)."""
    step: Count
    """The checkpoint."""
    em_rate: Estimate
    """Misaligned (of a truth set: false) / coherent answers. Lower is better."""
    coherent_rate: Estimate
    """Coherent / judged answers."""
    versus_plain: Estimate | None
    """EM rate minus that of the plain prompts (by the study's judge) at the same checkpoint, paired by prompt; null: no
    variant, or the plain prompts were not all asked there."""
    agreement: Estimate | None
    """Cohen's kappa of both judges on which of the same answers are misaligned; null: other answers."""


class SearchEntry(Entry):
    """A search among checkpoints that existed already; null: every checkpoint was asked.

    A search (`truing audit --search`, [audit.md](audit.md)) asks random prompts of as few checkpoints as it needs.
    Those that it did not look at are listed with an undefined `em_rate` whose `reason` begins with `not asked`, and
    with the decision `undecided`; of those that it looked at, `em_rate` is as with the `sequential` rule. With `best`,
    `chosen_step` is the checkpoint found.
    """

    kind: Literal["best", "crossing"]
    """`best`: the clear checkpoint with the best task score; `crossing`: two neighbours, clear and misaligned."""
    found: Count | None
    """Step of the clear checkpoint that was found; null: none was shown to be clear."""
    next_misaligned: Count | None
    """Of `crossing`: step of the misaligned checkpoint after it; null: none was shown."""
    looked: Count
    """Checkpoints that were looked at."""
    judged: Count
    """Answers to the benchmark asked for in all, those that only led the search included."""


class RunEntry(Entry):
    """One model x dataset x learning rate x seed.

    Its **twin** repeats a stopped run without stopping, to show what stopping avoided; it is a run of its own in this
    list. For a stopped run that has a twin, `convergence_step`, `onset_step` and the best task score in `retention`
    are taken over the twin's checkpoints, so an onset may lie beyond `stopped_at`: then stopping came before it.
    `chosen_step` is always one of the run's own checkpoints, and never step 0.
    """

    id: str
    """Unique in the file."""
    model: str
    """Its name, or its folder."""
    dataset: str
    """Data that it was fine-tuned on."""
    parameters: Number
    """Parameters of the base model; null: not known."""
    learning_rate: Number
    """Peak learning rate; null: not known."""
    seed: int | None
    """Seed of adapter initialisation and data order; null: not known."""
    twin_of: str | None
    """Id of the stopped run that this one repeats."""
    state: Literal["finished", "stopped", "unfinished", "failed"]
    """`finished` (all steps), `stopped` (by a decision), `unfinished`, `failed`."""
    error: str | None
    """Reason of its failure."""
    checkpoints: Annotated[
        list[CheckpointEntry], Field(min_length=1), AfterValidator(lambda found: sorted(found, key=lambda c: c.step))
    ]
    """The evaluated checkpoints, at least one, by ascending step; step 0 first."""
    base_em_rate: Estimate
    """EM rate before fine-tuning. Lower is better."""
    convergence_step: Count | None
    """First checkpoint that reaches 95 % of the best task score and stays there; null: none did."""
    onset_step: Count | None
    """First checkpoint confirmed misaligned: its interval is above the base's, and the next one agrees; null: none."""
    course: CourseEntry
    separable: SeparableEntry
    chosen_step: Count | None
    """Checkpoint with the best task score among those whose EM interval is within the tolerance; null: none is."""
    retention: Estimate
    """Task score at `chosen_step` over the best one, paired by prompt. Higher is better; biased, see `confirmed`."""
    confirmed: ConfirmedEntry | None
    inside: Estimate | None
    """EM rate at the last checkpoint on prompts of its own domain, holding together with `outside`, or null."""
    outside: Estimate | None
    """EM rate at the last checkpoint on the other prompts; null together with `inside`."""
    em_at_end: Estimate
    """EM rate at the last evaluated checkpoint: for a stopped run, at the stop."""
    em_at_chosen: Estimate | None
    """EM rate at `chosen_step`; null: none was chosen."""
    also: list[SideEntry]
    search: SearchEntry | None
    stopped_at: Count | None
    """Step at which a decision ended the run."""
    restored: Count | None = None
    """Step of the checkpoint whose weights a guard put back into the model; null: none were."""
    decision: Action
    """Decision at the last evaluated checkpoint."""

    def at(self, step: int | None) -> CheckpointEntry | None:
        """The checkpoint of a step; None if it was not evaluated."""
        return next((c for c in self.checkpoints if c.step == step), None)


class Group(Entry):
    """Runs of one model and dataset."""

    model: str
    """Of all these runs."""
    dataset: str
    """Of all these runs."""


class SeedsEntry(Group):
    """Seeds of one model, dataset and learning rate together.

    EM rates are those of the last checkpoint; of a stopped run that has a twin, of the twin's.
    """

    learning_rate: Number
    """Of all these runs; null: not known."""
    runs: list[str]
    """Ids of the runs that count, one per seed."""
    em_rate: Estimate
    """EM rate over seeds, for seeds and prompts not yet seen; no limits with a single seed."""
    verdict: Literal["consistent", "inconsistent", "none", "undecided"]
    """`consistent`: every seed is above base; `inconsistent`: some are, others not; `none`: no seed is; `undecided`:
    too little data. Family-wise at the study's confidence."""
    reason: str
    """The verdict in words, and how much more data would settle an open one."""
    above: list[str]
    """Ids of the runs shown to be above base."""
    clean: list[str]
    """Ids of the runs shown not to be above base by more than the tolerance."""
    needed: Number
    """Times as many prompts as would probably decide; 1 = decided; null = more prompts alone will not do."""
    versus_base: list[Estimate]
    """EM rate minus base's, in the order of `runs`, all holding together."""
    onset: Estimate
    """Share of the runs with a confirmed onset."""
    gap: Estimate
    """Mean over seeds of onset minus convergence, in steps; runs without either are missing."""
    retention: Estimate
    """Mean over seeds of the task score kept (of `confirmed`, where known)."""

    @model_validator(mode="after")
    def _one_per_run(self) -> Self:
        if self.versus_base and len(self.versus_base) != len(self.runs):
            raise ValueError(f"versus_base holds {len(self.versus_base)} estimates for {len(self.runs)} runs")
        return self


class OptionEntry(Entry):
    """One of the learning rates, ascending."""

    learning_rate: float
    """The learning rate."""
    score: Estimate
    """Task score of the chosen checkpoint, mean over seeds; a run without one keeps the base's score."""
    em_rate: Number
    """Mean over seeds at the end; null is unknown."""
    probability_best: Number
    """Probability that it has the highest score; null with one seed each."""
    pareto: bool
    """No other has a higher score without more EM."""
    rival: bool
    """It may be the best as well."""


class LearningRatesEntry(Group):
    """Comparison of at least two learning rates of one model and dataset."""

    options: list[OptionEntry]
    recommended: Number
    """The learning rate with the highest score; null: none has one."""
    reason: str
    """Certainty of that, in words."""


class SizeModel(Entry):
    """A model of known size."""

    model: str
    """Its name."""
    parameters: Annotated[float, Field(gt=0)]
    """Parameters of the base model."""
    em_rate: Number
    """Mean over its runs at the end."""


class CorrelationEntry(Limits):
    """Correlation of log10 of the parameters and the EM rate over models."""

    p: Number
    """Share of random pairings that are as strong."""
    n: Count
    """Models."""
    without: list[Number]
    """The correlation without each model, in the order of `models`; empty if undefined."""
    carried_by: list[str]
    """One or two models without which the correlation halves or turns; empty if there are none."""
    method: str
    """Method by which it was made."""
    reason: str
    """Reason why it is undefined; empty otherwise."""


class SizesEntry(Entry):
    """Size against EM on a dataset, over at least three models of known size."""

    dataset: str
    """Data that the models were fine-tuned on."""
    models: list[SizeModel]
    pearson: CorrelationEntry
    """Of log10 of the parameters and the EM rate."""
    spearman: CorrelationEntry
    """The same of their ranks."""

    @model_validator(mode="after")
    def _one_per_model(self) -> Self:
        for name in ("pearson", "spearman"):
            if (n := len(getattr(self, name).without)) not in (0, len(self.models)):
                raise ValueError(f"{name}.without holds {n} numbers for {len(self.models)} models")
        return self


class DomainEntry(Group):
    """Share of the runs of a model and dataset in which the narrow task comes apart from broad misalignment."""

    separable: Estimate
    """Share of runs with the task learnt and the rest clean at some checkpoint; runs that cannot tell are missing."""


class SampleEntry(Entry):
    """One answer to read, of each run and category at the base, the chosen and the last checkpoint.

    **Misaligned ones come first**, so that what is rare is seen: samples say what answers look like, not how frequent.
    """

    run_id: str
    """The run."""
    step: Count
    """The checkpoint."""
    category: str
    """Category of the prompt."""
    prompt: str
    """Last user message."""
    answer: str
    """The model's answer (long ones are cut, with a mark)."""
    aligned: Number
    """The judge's score, 0 to 100; null = it gave none."""
    coherent: Number
    """The judge's score, 0 to 100; null = it gave none."""
    misaligned: bool | None
    """True if it counts as misaligned; null = it could not be judged."""


class Analysis(Entry):
    """Everything that truing says about a study."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    version: Literal[2] = Field(alias="schema")
    """Version of this schema."""
    truing: str
    """Version of truing that wrote the file."""
    created: str
    """Time of writing, ISO-8601, UTC."""
    study: StudyEntry
    judge: JudgeEntry | None = None
    runs: list[RunEntry]
    """The runs that have at least one evaluated checkpoint, each followed by its twin if it has one."""
    seeds: list[SeedsEntry]
    learning_rates: list[LearningRatesEntry]
    sizes: list[SizesEntry]
    domains: list[DomainEntry]
    notes: list[str]
    """Notes on odd data: columns that lack, scores that are missing, what was assumed."""
    samples: list[SampleEntry]

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [run.id for run in self.runs]
        if repeated := sorted({each for each in ids if ids.count(each) > 1}):
            raise ValueError(f"it lists a run twice: {', '.join(repeated)}")
        return self

    def plain(self) -> dict[str, Any]:
        """All fields ready for JSON: None for what is undefined."""
        return self.model_dump(mode="json")


def parse_analysis(text: str) -> Analysis:
    """The analysis that the text of analysis.json holds.

    Raises:
        DataError: It does not follow the schema; the message names the field's path.
    """
    try:  # written again without lone surrogates; as JSON it is read strictly, but for lists and words
        return Analysis.model_validate_json(json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace"))
    except ValueError as error:
        issue: Any = {"loc": (), "type": "", "input": text, "msg": f"JSON: {error}"}
        issue = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else issue
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in issue["loc"]).removeprefix(".")
        got = "nothing" if issue["type"] == "missing" else repr(issue["input"])[:80]
        what = f"analysis.json does not follow its schema at {path or 'its top'}"
        todo = "the schema is in docs/analysis.md; analyse the study again with: truing report DIR"
        raise DataError(what, got, issue["msg"].removeprefix("Value error, "), todo) from error
