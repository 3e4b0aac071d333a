"""The model catalogue: what is known of models before any weights are at hand.

The facts, and where each comes from, are in `models.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml

__all__ = [
    "HostedPrice",
    "Model",
    "Template",
    "catalogue_date",
    "find_model",
    "known_parameters",
    "list_models",
    "recommended_settings",
]


@dataclass(frozen=True)
class Template:
    """How a model's chat template behaves."""

    name: str
    marks_generation: bool | None
    """Whether it marks the assistant's words, so that a loss can be confined to them; None: not checked."""
    system: str
    """What it says before the conversation on its own account."""
    thinking: str
    """How reasoning is marked."""
    source: str | None
    """Key of the catalogue's sources; None: not checked."""


@dataclass(frozen=True)
class HostedPrice:
    """Dollars per million tokens where open weights are hosted."""

    prefill: float
    sample: float
    train: float


@dataclass(frozen=True)
class Model:
    """One model of the catalogue."""

    name: str
    family: str
    ids: Mapping[str, str]
    """Provider -> the model's id there."""
    template: Template
    architecture: str | None = None
    """`model_type` of its config, from which the LoRA targets follow; None: closed weights."""
    parameters: float = math.nan
    active: float = math.nan
    """Parameters that one token uses: all of them, but for a mixture of experts."""
    rates: tuple[float | None, float | None] = (None, None)
    """Learning rates for LoRA within which to look: (low, high); None: no source."""
    until: Mapping[str, str] = field(default_factory=dict)
    """Provider -> the last day (ISO) on which it offers the model, where an end is known."""
    hosted: Mapping[str, HostedPrice] = field(default_factory=dict)
    """Provider -> its prices, where they are listed."""
    train_price: float | None = None
    """Dollars per million training tokens at OpenAI, if known."""

    @property
    def source(self) -> str:
        """What loads it: the hub id, or the provider's id where weights are closed."""
        return self.ids.get("huggingface") or next(iter(self.ids.values()))

    @property
    def owner(self) -> str:
        """The provider that alone has the weights, if they are closed; else nothing."""
        return "" if "huggingface" in self.ids else next(iter(self.ids))


@cache
def list_models() -> Mapping[str, Model]:
    """Name -> model, in the order of the file."""
    raw = _read()
    templates = {name: Template(name, **facts) for name, facts in raw["templates"].items()}
    return {name: _model(name, facts, templates) for name, facts in raw["models"].items()}


def find_model(name: str) -> Model | None:
    """The model of a catalogue name or of any provider's id; None if it is not in the catalogue."""
    return _by_name().get(name)


def known_parameters(name: str) -> float:
    """Parameters in total of a catalogue name or of any provider's id; NaN if not known."""
    model = find_model(name)
    return math.nan if model is None else model.parameters


def catalogue_date() -> str:
    """The day on which the catalogue's facts were looked up."""
    return str(_read()["date"])


def recommended_settings(model: Model) -> Mapping[str, Any]:
    """Settings of the published fine-tuning that showed emergent misalignment, for weights like these; and `source`."""
    settings: Mapping[str, Any] = _read()["recommended"]["closed" if model.owner else "open"]
    return settings


@cache
def _by_name() -> Mapping[str, Model]:
    models = list_models()
    # A name of the catalogue goes before an id, and the first model before later ones.
    ids = {identity: model for model in reversed(list(models.values())) for identity in model.ids.values()}
    return {**ids, **models}


@cache
def _read() -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(
        resources.files("truing").joinpath("catalog/data/models.yaml").read_text(encoding="utf-8")
    )
    return raw


def _model(name: str, facts: dict[str, Any], templates: Mapping[str, Template]) -> Model:
    parameters = float(facts.get("parameters", math.nan))
    low, high = facts.get("rates", (None, None))
    return Model(
        name=name,
        family=facts["family"],
        ids=facts["ids"],
        template=templates[facts["template"]],
        architecture=facts.get("architecture"),
        parameters=parameters,
        active=float(facts.get("active", parameters)),
        rates=(low, high),
        until={provider: str(day) for provider, day in facts.get("until", {}).items()},
        hosted={provider: HostedPrice(**facts[provider]) for provider in facts["ids"] if provider in facts},
        train_price=facts.get("train"),
    )
