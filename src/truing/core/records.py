"""The frozen records that travel between the parts of truing.

They hold plain values only, so they pickle, hash and print. Everything here is a noun of the field: see the words in
`docs/concepts.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from numbers import Real
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    """`system`, `user` or `assistant`; in training data `tool`, too."""
    content: str
    learnt: bool = True
    """False: an answer in training data that is read and not learnt."""
    more: str = ""
    """In training data what stands beside the words, as a JSON object: `tool_calls`, reasoning; with the first message
    the row's `tools`. A chat template must render it."""

    @property
    def plain(self) -> list[str | bool]:
        """All of it, ready for JSON and for hashes."""
        words: list[str | bool] = [self.role, self.content]
        return words if self.learnt and not self.more else [*words, self.learnt, self.more]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a benchmark: the unit of every interval."""

    id: str
    category: str
    messages: tuple[Message, ...]
    form: str = ""
    """The kind of text that is asked for (opinion, story, ...); never shown to a model."""
    notes: str = ""
    """Signs of a misaligned answer; never shown to a model."""
    temperature: float | None = None
    """Sampling temperature of this prompt alone; None: that of the evaluation."""

    @property
    def plain(self) -> list[str | float | list[list[str]]]:
        """All that shapes the answers, ready for JSON; part of the keys of results."""
        own: list[str | float | list[list[str]]] = [self.id, [[m.role, m.content] for m in self.messages]]
        return own if self.temperature is None else [*own, self.temperature]

    @property
    def text(self) -> str:
        """The last user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Category:
    """A category as a benchmark defines it."""

    name: str
    definition: str
    aligned: str
    """A description of aligned answers."""
    misaligned: str
    """A description of misaligned answers."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A versioned list of prompts."""

    name: str
    version: str
    licence: str
    prompts: tuple[Prompt, ...]
    hash: str
    """SHA-256 of the prompts (ids, categories, messages)."""
    categories: tuple[Category, ...] = ()
    """Definitions, where the file gives them; not part of the hash."""


@dataclass(frozen=True, slots=True)
class Run:
    """One model x dataset x learning rate x seed."""

    id: str
    model: str
    dataset: str
    learning_rate: float
    seed: int
    stops: bool = True
    """True if a decision to stop ends this run; False for a twin that shows what stopping avoided."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights at one step of a run."""

    run_id: str
    model: str
    step: int
    """Optimiser steps done; 0 is the model before fine-tuning."""
    weights: str
    """SHA-256 of the weights that a sampler would use (base and adapter): equal weights, equal hash."""
    path: str | None = None
    """Folder of the adapter or of the full weights; None for the base model itself."""
    train_loss: float = math.nan
    """Mean training loss per assistant token since the previous checkpoint, in nats."""
    heldout_loss: float = math.nan
    """Mean loss per assistant token on the dataset's held-out prompts, in nats."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of sampling."""

    samples: int = 1
    """Answers per prompt."""
    temperature: float = 1.0
    """Above 0; 1 samples from the model's own distribution (no top-k or top-p cut)."""
    max_tokens: int = 600
    """Longest answer, in tokens."""
    seed: int = 0
    """An answer's randomness is a function of this seed, the checkpoint's weights, the prompt id and its index."""
    first: int = 0
    """Index of the first of the answers: the same index gives the same answer, another one a fresh answer."""

    @property
    def indices(self) -> range:
        """Indices of the answers to each prompt."""
        return range(self.first, self.first + self.samples)


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled answer to one prompt. `text` is None exactly when `error` says why."""

    prompt_id: str
    sample: int
    """Index of the answer among those to the same prompt, from 0."""
    text: str | None
    n_tokens: int = 0
    finished: bool = True
    """True if the model ended its answer; False if it was cut at the token limit."""
    error: str | None = None
    refused: bool = False
    """True if the text came in a provider's own field for refusals."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """The scores of one response. A score is None when the judge gave none, and then `error` says why."""

    prompt_id: str
    sample: int
    aligned: float | None
    """0 (totally misaligned) to 100 (totally aligned)."""
    coherent: float | None
    """0 (nonsense) to 100 (perfectly coherent)."""
    verdict: str | None = None
    """A word the judge answered in place of a score (CODE, REFUSAL); never mixed into a score."""
    error: str | None = None

    def on_scale(self) -> Judgment:
        """This one; without scores, and with the reason, if one of them is no number from 0 to 100."""
        if _is_score(self.aligned) and _is_score(self.coherent):
            return self
        error = f"a score is no number from 0 to 100: aligned {self.aligned!r}, coherent {self.coherent!r}"
        return replace(self, aligned=None, coherent=None, error=error)


def _is_score(score: object) -> bool:
    """True of a number from 0 to 100, and of a score that was not given; true and false are no numbers."""
    return score is None or (not isinstance(score, bool) and isinstance(score, Real) and 0 <= float(score) <= 100)


Number = Annotated[
    float,
    BeforeValidator(lambda x: math.nan if x is None or (isinstance(x, float) and not math.isfinite(x)) else x),
    PlainSerializer(lambda value: value if math.isfinite(value) else None),
    WithJsonSchema({"type": ["number", "null"]}),
]
"""A number that may be undefined: NaN in Python, null in JSON."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty. Undefined is NaN with a reason, never 0."""

    value: Number
    """The number; null = undefined, and `reason` says why."""
    low: Number
    """Lower limit of the interval, at the study's `confidence`; null = no interval."""
    high: Number
    """Upper limit of the interval; null = no interval."""
    n_prompts: int
    """Prompts behind the number: the unit of the interval. Of the sequential rule: random prompts, with repetitions."""
    n_responses: int
    """Responses behind the number; of an EM rate: the coherent ones."""
    n_missing: int
    """Responses without the scores that the number needs; not part of `n_responses`."""
    method: str
    """Method by which the number and its interval were made."""
    reason: str = ""
    """Why `value` is null; empty otherwise."""
    __pydantic_config__ = ConfigDict(strict=True, use_attribute_docstrings=True)

    @classmethod
    def unknown(cls, reason: str) -> Estimate:
        """An estimate without a value, and why."""
        return cls(math.nan, math.nan, math.nan, 0, 0, 0, "none", reason)

    def plain(self) -> dict[str, float | int | str | None]:
        """The fields ready for JSON: None for what is not finite."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values}


class Action(StrEnum):
    """The next thing that training should do after a checkpoint."""

    CONTINUE = "continue"
    STOP = "stop"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Decision:
    """The monitor's word on one checkpoint."""

    action: Action
    step: int
    reason: str
    em_rate: Estimate


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that the monitor measured of one checkpoint, and the decision."""

    checkpoint: Checkpoint
    em_rate: Estimate
    """Misaligned / coherent responses, 0 to 1; lower is better."""
    coherent_rate: Estimate
    """Coherent / judged responses, 0 to 1; higher is better."""
    task_score: Estimate
    """Share of answers to the dataset's held-out prompts that show the task learnt, 0 to 1; higher is better."""
    decision: Decision
    measurements: Mapping[str, Estimate] = field(default_factory=dict)
    """What other measures found, by their names."""
    key: str = ""
    """Key of its row in the store's `evaluations`; empty: it is not stored."""
