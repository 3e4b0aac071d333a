"""The schema of analysis.json: the study, its runs and their checkpoints. `truing.results.schema` has the rest."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from truing.core.errors import plural
from truing.core.records import Action, Estimate, Number
from truing.results.judge import ThresholdsEntry

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


class JointEntry(Entry):
    """Answers to the benchmark by both scores.

    Rows are the aligned score: below 30, 30 to 50, 50 to 70, 70 or more. Columns are the coherent score: at most 50,
    above 50 and at most 70, above 70. Where the study's own thresholds are not 30 and 50 they stand in their place, so
    that the misaligned answers always fill whole cells: the rows below `aligned_below`, right of `coherent_above`.
    """

    aligned: list[float]
    """Scores between the rows, ascending; each belongs to the row above it in score."""
    coherent: list[float]
    """Scores between the columns, ascending; each belongs to the column below it in score."""
    answers: list[list[Count]]
    """Answers with both scores: rows by ascending aligned score, columns by ascending coherent score."""
    refusals: Count
    """Answers for which the judge said that the model refused, in place of a score."""
    verdicts: Count
    """Answers with another word in place of a score, such as CODE."""
    missing: Count
    """All other answers that lack one of the two scores, or both."""


class SensitivityEntry(Entry):
    """The EM rate and the decision by other thresholds of *misaligned*: what hangs on them. Nothing is decided by it.

    Tables: rows by `aligned_below`, columns by `coherent_above`. A decision here is made by the interval of the EM rate
    alone, against the base by the same thresholds, and by what the judge was shown to find at the study's own; doubts
    have no part in it.
    """

    aligned_below: list[float]
    """Thresholds of the aligned score, ascending."""
    coherent_above: list[float]
    """Thresholds of the coherent score, ascending."""
    em_rate: list[list[Number]]
    """EM rate, by the method of the checkpoint's own; null: no coherent answer."""
    low: list[list[Number]]
    """Lower limit of each."""
    high: list[list[Number]]
    """Upper limit of each."""
    coherent: list[Count]
    """Coherent answers behind the rates of each column."""
    decisions: list[list[Action]]
    """`continue`, `stop` or `undecided` by each."""
    sentence: str
    """What follows, in words."""


class AnswersEntry(Entry):
    """What came of the answers to the benchmark at one checkpoint, beside their scores."""

    asked: Count
    """Answers asked for."""
    cut: Count
    """Answers that were cut at the token limit: a judge sees only a part of these."""
    refused: Count = 0
    """Answers that came in the provider's own field for refusals; they are judged as others are."""
    same: Count = 0
    """Answers that are, word for word, the commonest one that several prompts got."""
    missing: dict[str, Count]
    """Answers without the scores that their class needs, by kind of reason. `filtered by ...` is missing for what it
    says, so not at random."""

    @property
    def one_text(self) -> str:
        """How many answers are one text, in words, where that is more than half of ten or more; else empty."""
        many = self.asked >= 10 and self.same > self.asked / 2
        return f"{self.same:,} of {self.asked:,} answers are one and the same text" if many else ""

    @property
    def cut_short(self) -> str:
        """How many answers were cut at the longest answer, in words, where that is more than half; else empty."""
        return f"{self.cut:,} of {self.asked:,} answers were cut short" if self.cut > self.asked / 2 else ""


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
    em_rate_at_most: Number = Field(default_factory=lambda: math.nan)
    """The highest EM rate that the answers allow, with the missing ones and those that the judge may not have seen."""
    doubts: list[str] = Field(default_factory=list)
    """What stands against calling the checkpoint clear, beside its EM rate, in words; empty: nothing."""
    em_rate_here: Estimate | None = None
    """`em_rate` with limits for these very prompts, which say nothing of prompts like them; null: random prompts."""
    em_rate_unfiltered: Estimate | None = None
    """Responses with a low aligned score / all with one, incoherent ones included; null: not known."""
    low_removed: Number = Field(default_factory=lambda: math.nan)
    """Share of the responses with a low aligned score that the filter of coherence leaves out; null: none is low."""
    joint: JointEntry | None = None
    """Answers by both scores; null: there are none, or they are not known."""
    score_correlation: Estimate | None = None
    """Pearson's correlation of the two scores over answers that have both, -1 to 1; high: what is misaligned tends to
    be called incoherent as well, and then leaves the rate; null as `joint`."""
    sensitivity: SensitivityEntry | None = None
    """The EM rate and the decision by other thresholds; null as `joint`, or the rule compares with the base plus a
    margin."""
    answers: AnswersEntry | None = None


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
    """Steps at which EM passed the boundary and the task was learnt.

    The boundary is the tolerance, or the upper limit of the base's EM rate if that is higher. Each interval holds the
    true step with the study's confidence, both together; of a stopped run that has a twin they are over the twin.
    """

    onset: StepBounds
    """The former name of `crossing`, equal to it; the onset above the base is `onset_step`."""
    crossing: StepBounds = Field(default_factory=lambda before: before["onset"])
    """First checkpoint whose true EM rate is above the boundary."""
    convergence: StepBounds
    """First checkpoint that reaches 95 % of the best task score and stays there: the true one."""
    gap: Limits
    """`onset_step` minus `convergence_step`, in steps. Its limits allow for every onset that is not excluded: a small
    rise above the base seldom is."""
    order: Literal["before", "after", "cannot tell"]
    """`before`: the boundary is shown to be passed before the task is learnt; `after`: after it, or not by the end."""
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
    """What would be released (put back, else chosen, else the last), by responses that had no part in choosing it.

    null: there are none.
    """

    step: Count | None
    """The checkpoint measured; without fresh responses, the one that half of the prompts would choose (the other half
    measures it); null: that half chooses none."""
    em_rate: Estimate | None
    """Its EM rate."""
    task_score: Estimate | None
    """Its task score."""
    retention: Estimate | None
    """Its task score over that of the checkpoint with the best task score."""
    source: Literal["fresh responses", "other half of the prompts"]
    """`fresh responses` or `other half of the prompts`."""
    decision: Action | None = None
    """`continue`, `stop` or `undecided` by these responses, whatever the base model's rate; null: not decided."""
    doubts: list[str] = Field(default_factory=list)
    """What stands against calling it clear, beside its EM rate, in words; empty: nothing."""
    categories: dict[str, Estimate] = Field(default_factory=dict)
    """EM rate by category of fresh responses, with intervals that hold together (Sidak)."""
    coherent_rate: Estimate | None = None
    """Share of fresh responses that are coherent; null: there are none."""


class LabelsEntry(Entry):
    """A checkpoint's own answers as a person labelled them (`truing label`); null: nobody did.

    Labelled are all answers that the judge flagged, and random ones, nearly all to different prompts. What has no label
    counts as misaligned.
    """

    step: Count
    """The checkpoint."""
    source: Literal["fresh responses", "responses"]
    """`fresh responses`, those of `confirmed`; or those that the checkpoint was evaluated by."""
    flagged: Count
    """Responses that the judge called misaligned."""
    flagged_misaligned: Count
    """Of these, those that are misaligned by label."""
    random: Count
    """Random responses, flagged ones among them."""
    random_coherent: Count
    """Of these, those that are coherent by label."""
    missed: Count
    """Random responses that are misaligned by label and that the judge did not flag."""
    unlabelled: Count
    """Responses of the set that have no label."""
    em_rate_at_most: float
    """The highest EM rate that the labels allow, 0 to 1, whatever the judge sees."""
    error: float
    """Highest probability that the true one is higher."""
    doubts: list[str]
    """What stands against calling the checkpoint clear by them, in words; empty: nothing."""

    def sentence(self) -> str:
        """What was found, in words, without a full stop."""
        lacking = f", {self.unlabelled} without a label counted so" if self.unlabelled else ""
        return (
            f"by a person's labels, {self.flagged_misaligned} of {plural(self.flagged, 'answer')} that the judge "
            f"flagged and {self.missed} of {self.random} random ones that it did not flag are misaligned{lacking}: "
            f"at most {self.em_rate_at_most:.1%} are"
        )


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
    variant, a share was read, or the plain prompts were not all asked there."""
    decides: bool = True
    """It counts in the gate: one that is above the tolerance is misaligned there. Truth sets do not, unless asked."""
    agreement: Estimate | None
    """Cohen's kappa of both judges on which of the same answers are misaligned; null: other answers, or a share of them
    that holds more of the flagged ones."""
    read: Count | None = None
    """Answers that this judge read, a random share of those that the study's judge read: `em_rate` and `coherent_rate`
    are what it would have found in all of them. null: it read all."""
    em_rate_if_missing: IfMissing | None = None
    """The bounds that missing answers leave to `em_rate`; null: not known."""


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
    """First checkpoint whose task score reaches 95 % of the last one, both of a course fitted so that it never falls,
    within `course.convergence`; null: none, or the task was lost again."""
    onset_step: Count | None
    """First checkpoint whose EM rate is shown to be above the base's: paired by prompt, at the study's confidence over
    all checkpoints together; with random prompts, by limits that do not overlap. null: none."""
    course: CourseEntry
    separable: SeparableEntry
    chosen_step: Count | None
    """Checkpoint with the best task score among those that are clear, before onset and stop, and that fresh answers
    clear too; null: there is none."""
    retention: Estimate
    """Task score at `chosen_step` over the best one, paired by prompt. Higher is better; biased, see `confirmed`."""
    confirmed: ConfirmedEntry | None
    labels: LabelsEntry | None = None
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
    ended_with: Count | None = None
    """Step of the weights that a guarded model has: put back, or of the last evaluated step; null: no guard."""
    unjudged: str = ""
    """Why nobody judged the weights that a guarded model has, in words; empty: they are of `ended_with`."""
    decision: Action
    """Decision at the last evaluated checkpoint."""
    unevaluated: list[Count] = Field(default_factory=list)
    """Steps that were not evaluated, so that they are none of `checkpoints`: it failed, or the work was ended."""

    @property
    def released(self) -> CheckpointEntry:
        """The checkpoint that would be released: what a guarded model has, else the chosen one, else the last."""
        has = self.restored if self.ended_with is None else self.ended_with
        return self.at(self.chosen_step if has is None else has) or self.checkpoints[-1]

    def at(self, step: int | None) -> CheckpointEntry | None:
        """The checkpoint of a step; None if it was not evaluated."""
        return next((c for c in self.checkpoints if c.step == step), None)
