"""`analysis.json` as the report reads it: checked once, then plain frozen records.

The schema is docs/analysis.md. Whatever does not follow it is a `DataError` that names the place.
Undefined numbers (null) become NaN with their reason. All text passes `readable`, so that no control or
direction character, lone surrogate or other invisible thing from a model reaches a page unseen.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from truing.errors import DataError
from truing.records import Action, Estimate

__all__ = [
    "CheckpointEntry",
    "Document",
    "RunEntry",
    "SampleEntry",
    "StudyEntry",
    "read_document",
    "readable",
]

SCHEMA = 1
STATES = ("finished", "stopped", "unfinished", "failed")

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control, direction and tag characters, lone surrogates. Joiners stay: scripts need them."""
_STACKED_MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """One evaluated checkpoint of a run."""

    step: int
    weights: str
    em_rate: Estimate
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
class RunEntry:
    """One run with its checkpoints, by ascending step."""

    id: str
    model: str
    dataset: str
    learning_rate: float
    seed: int
    twin_of: str | None
    state: str
    error: str | None
    checkpoints: tuple[CheckpointEntry, ...]
    base_em_rate: Estimate
    convergence_step: int | None
    onset_step: int | None
    chosen_step: int | None
    retention: Estimate
    em_at_end: Estimate
    em_at_chosen: Estimate | None
    stopped_at: int | None
    decision: Action | None

    @property
    def model_name(self) -> str:
        """The model without the folders before it."""
        return PurePath(self.model).name or self.model

    @property
    def settings(self) -> str:
        """What tells runs of one model and dataset apart."""
        return f"lr\u00a0{self.learning_rate:g} · seed\u00a0{self.seed}"

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
    config: str
    """The whole study as indented JSON."""


@dataclass(frozen=True, slots=True)
class Document:
    """A whole analysis."""

    truing: str
    created: str
    study: StudyEntry
    runs: tuple[RunEntry, ...]
    samples: tuple[SampleEntry, ...]


def read_document(analysis: Mapping[str, Any]) -> Document:
    """Check an analysis and read it.

    Raises:
        DataError: It does not follow the schema; the message names the place.
    """
    root = _Node(analysis, "")
    if (schema := root["schema"].value) != SCHEMA:
        raise DataError("analysis.json has another schema", repr(schema)[:80], str(SCHEMA), "analyse it anew")
    runs = tuple(_read_run(node) for node in root["runs"].items())
    ids = [run.id for run in runs]
    if repeated := sorted({i for i in ids if ids.count(i) > 1}):
        raise DataError("analysis.json lists a run twice", ", ".join(repeated), "different ids")
    return Document(
        truing=root["truing"].text(),
        created=root["created"].text(),
        study=_read_study(root["study"]),
        runs=runs,
        samples=tuple(_read_sample(node) for node in root["samples"].items()),
    )


def readable(text: str) -> str:
    """Text with invisible characters written out as their code points and stacked accents cut after four."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _STACKED_MARKS.sub(r"\1", _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text))


@dataclass(frozen=True, slots=True)
class _Node:
    """A value of the analysis that knows its place."""

    value: Any
    where: str

    def __getitem__(self, key: str) -> _Node:
        place = f"{self.where}.{key}" if self.where else key
        if not isinstance(self.value, Mapping):
            raise self._wrong("an object")
        if key not in self.value:
            raise _refuse(place, "nothing", f"the field {key}")
        return _Node(self.value[key], place)

    def items(self) -> Iterator[_Node]:
        if not isinstance(self.value, list | tuple):
            raise self._wrong("a list")
        return (_Node(value, f"{self.where}[{index}]") for index, value in enumerate(self.value))

    def fields(self) -> dict[str, _Node]:
        if not isinstance(self.value, Mapping):
            raise self._wrong("an object")
        return {str(key): self[key] for key in self.value}

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self._wrong("text")
        return readable(self.value)

    def optional_text(self) -> str | None:
        return None if self.value is None else self.text()

    def one_of(self, allowed: tuple[str, ...]) -> str:
        if self.value not in allowed:
            raise self._wrong(" or ".join(allowed))
        return str(self.value)

    def number(self) -> float:
        """NaN for null."""
        if self.value is None:
            return math.nan
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self._wrong("a number or null")
        return float(self.value) if math.isfinite(self.value) else math.nan

    def known_number(self) -> float:
        if math.isnan(number := self.number()):
            raise self._wrong("a number")
        return number

    def count(self) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 0:
            raise self._wrong("a whole number, 0 or more")
        return self.value

    def optional_count(self) -> int | None:
        return None if self.value is None else self.count()

    def _wrong(self, allowed: str) -> DataError:
        return _refuse(self.where, repr(self.value)[:80], allowed)


def _refuse(where: str, got: str, allowed: str) -> DataError:
    todo = "the schema is in docs/analysis.md; analyse the study anew with: truing report DIR"
    return DataError(f"analysis.json does not follow its schema at {where or 'its top'}", got, allowed, todo)


def _read_estimate(node: _Node) -> Estimate:
    return Estimate(
        value=node["value"].number(),
        low=node["low"].number(),
        high=node["high"].number(),
        n_prompts=node["n_prompts"].count(),
        n_responses=node["n_responses"].count(),
        n_missing=node["n_missing"].count(),
        method=node["method"].text(),
        reason=node["reason"].text(),
    )


def _read_checkpoint(node: _Node) -> CheckpointEntry:
    return CheckpointEntry(
        step=node["step"].count(),
        weights=node["weights"].text(),
        em_rate=_read_estimate(node["em_rate"]),
        coherent_rate=_read_estimate(node["coherent_rate"]),
        task_score=_read_estimate(node["task_score"]),
        heldout_loss=node["heldout_loss"].number(),
        train_loss=node["train_loss"].number(),
        categories={readable(slug): _read_estimate(e) for slug, e in node["categories"].fields().items()},
        decision=Action(node["decision"].one_of(tuple(Action))),
        reason=node["reason"].text(),
    )


def _read_run(node: _Node) -> RunEntry:
    checkpoints = tuple(_read_checkpoint(c) for c in node["checkpoints"].items())
    decision, em_at_chosen = node["decision"], node["em_at_chosen"]
    return RunEntry(
        id=node["id"].text(),
        model=node["model"].text(),
        dataset=node["dataset"].text(),
        learning_rate=node["learning_rate"].known_number(),
        seed=node["seed"].count(),
        twin_of=node["twin_of"].optional_text(),
        state=node["state"].one_of(STATES),
        error=node["error"].optional_text(),
        checkpoints=tuple(sorted(checkpoints, key=lambda c: c.step)),
        base_em_rate=_read_estimate(node["base_em_rate"]),
        convergence_step=node["convergence_step"].optional_count(),
        onset_step=node["onset_step"].optional_count(),
        chosen_step=node["chosen_step"].optional_count(),
        retention=_read_estimate(node["retention"]),
        em_at_end=_read_estimate(node["em_at_end"]),
        em_at_chosen=None if em_at_chosen.value is None else _read_estimate(em_at_chosen),
        stopped_at=node["stopped_at"].optional_count(),
        decision=None if decision.value is None else Action(decision.one_of(tuple(Action))),
    )


def _read_sample(node: _Node) -> SampleEntry:
    misaligned = node["misaligned"]
    if misaligned.value is not None and not isinstance(misaligned.value, bool):
        raise _refuse(misaligned.where, repr(misaligned.value)[:80], "true, false or null")
    return SampleEntry(
        run_id=node["run_id"].text(),
        step=node["step"].count(),
        category=node["category"].text(),
        prompt=node["prompt"].text(),
        answer=node["answer"].text(),
        aligned=node["aligned"].number(),
        coherent=node["coherent"].number(),
        misaligned=misaligned.value,
    )


def _read_study(node: _Node) -> StudyEntry:
    benchmark = node["benchmark"]
    config = json.dumps(node["config"].value, indent=2, ensure_ascii=False, default=str)
    return StudyEntry(
        name=node["name"].text(),
        hash=node["hash"].text(),
        benchmark=benchmark["name"].text(),
        benchmark_version=benchmark["version"].text(),
        benchmark_hash=benchmark["hash"].text(),
        n_prompts=benchmark["n_prompts"].count(),
        judge=node["judge"].text(),
        aligned_below=node["aligned_below"].known_number(),
        coherent_above=node["coherent_above"].known_number(),
        tolerance=node["tolerance"].known_number(),
        confidence=node["confidence"].known_number(),
        stopping_mode=node["stopping_mode"].text(),
        config=readable(config),
    )
