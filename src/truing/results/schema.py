"""The schema of analysis.json, once, for all who make, write, read and show an analysis.

`parse_analysis` names the path of whatever does not follow. `make docs` makes docs/analysis.md and the JSON Schema from
these classes. Undefined is NaN in Python, null in JSON.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from truing.core.errors import DataError, plural
from truing.core.files import load_json
from truing.core.records import Estimate, Number
from truing.results.judge import JudgeEntry
from truing.results.schema_runs import Count, Entry, Limits, RunEntry, StudyEntry


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
    """Ids of the runs that have ended and are shown not to be above base by more than the tolerance, whatever the judge
    may have missed."""
    needed: Number
    """Times as many prompts as would probably decide; 1 = decided; null = more prompts alone will not do."""
    versus_base: list[Estimate]
    """EM rate minus base's, in the order of `runs`, all holding together."""
    onset: Estimate
    """Share of the runs with an onset."""
    gap: Estimate
    """Mean over seeds of onset minus convergence, in steps; runs without either are missing."""
    retention: Estimate
    """Mean over seeds of the task score kept (of `confirmed`, where known)."""

    @model_validator(mode="after")
    def _one_per_run(self) -> Self:
        if self.versus_base and len(self.versus_base) != len(self.runs):
            raise ValueError(f"versus_base holds {len(self.versus_base)} estimates for {plural(len(self.runs), 'run')}")
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
                raise ValueError(f"{name}.without holds {plural(n, 'number')} for {plural(len(self.models), 'model')}")
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
    not_evaluated: list[str] = Field(default_factory=list)
    """Ids of the runs that belong to the study and have no evaluated checkpoint yet."""
    doubts: list[str] = Field(default_factory=list)
    """Why nothing of this is clear, whatever was decided: settings that were changed by hand after the work began."""
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

    def __repr_args__(self) -> list[tuple[str, Any]]:
        """What a console shows of it, in place of all its figures: the study's name, and the runs."""
        return [("name", self.study.name), ("runs", [run.id for run in self.runs])]

    def plain(self) -> dict[str, Any]:
        """All fields ready for JSON: None for what is undefined."""
        return self.model_dump(mode="json")


def parse_analysis(text: str, name: str = "analysis.json") -> Analysis:
    """The analysis that the text of a file holds; `name` is that of the file, for messages.

    Raises:
        DataError: It does not follow the schema; the message names the field's path.
    """
    try:  # written again without lone surrogates; as JSON it is read strictly, but for lists and words
        return Analysis.model_validate_json(json.dumps(load_json(text), ensure_ascii=False).encode("utf-8", "replace"))
    except ValueError as error:
        issue: Any = {"loc": (), "type": "", "input": text, "msg": f"JSON: {error}"}
        issue = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else issue
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in issue["loc"]).removeprefix(".")
        got = "nothing" if issue["type"] == "missing" else repr(issue["input"])[:80]
        what = f"{name} does not follow the schema of an analysis at {path or 'its top'}"
        todo = "name the folder of the results, or its analysis.json; to make that again: truing report DIR"
        raise DataError(what, got, issue["msg"].removeprefix("Value error, "), todo) from error
