"""Models by name: the shipped organisms, the catalogue, folders, hub ids; and the weights that LoRA adapts in them.

The catalogue says what is known of models before any weights are at hand: its facts, and where each comes from, are in
`models.yaml`.

PEFT drops targets in silence: with the usual seven names it leaves out most of DeepSeek-V3 (it rewrites `gate_proj` and
its like to the fused experts, so the dense layer and the shared experts get nothing) and all experts of GPT-OSS. So the
targets are explicit here, weights that PEFT would rewrite are named as parameters, and `check_adapted` compares what is
adapted with what should be. Routers are never adapted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from truing.catalog.files import DATA, Item, read_yaml, validate
from truing.core.errors import TrainerError, UnknownNameError, plural
from truing.core.weights import count_parameters

_FILE = DATA / "models.yaml"
_ORGANISMS = DATA.parent / "pocket" / "organisms"


class Template(Item):
    """Behaviour of a model's chat template."""

    name: str
    marks_generation: bool | None
    """True if it marks the assistant's words, so that a loss can be confined to them; None: not checked."""
    system: str
    """The system message that it adds of itself."""
    thinking: str
    """The marks of reasoning."""
    source: str | None
    """Key of the catalogue's sources; None: not checked."""


class HostedPrice(Item):
    """Dollars per million tokens where open weights are hosted."""

    prefill: float
    sample: float
    train: float


class Model(Item):
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
    until: Mapping[str, str] = {}
    """Provider -> the last day (ISO) on which it offers the model, where an end is known."""
    hosted: Mapping[str, HostedPrice] = {}
    """Provider -> its prices, where they are listed."""
    train_price: float | None = None
    """Dollars per million training tokens at OpenAI, if known."""

    @property
    def source(self) -> str:
        """The name that loads it: the hub id, or the provider's id where weights are closed."""
        return self.ids.get("huggingface") or next(iter(self.ids.values()))

    @property
    def owner(self) -> str:
        """The provider that alone has the weights, if they are closed; else nothing."""
        return "" if "huggingface" in self.ids else next(iter(self.ids))


@cache
def list_models() -> Mapping[str, Model]:
    """Name -> model, in the order of the file."""
    raw, models = _read(), {}
    for name, facts in raw["models"].items():
        template = {"name": facts["template"], **raw["templates"][facts["template"]]}
        whole = {"active": facts.get("parameters", math.nan), **facts, "name": name, "template": template}
        models[name] = validate(Model, whole, f"{_FILE}: {name}")
    return models


def find_model(name: str) -> Model | None:
    """The model of a catalogue name or of any provider's id; None if it is not in the catalogue."""
    return _by_name().get(name)


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
    raw: dict[str, Any] = read_yaml(_FILE)
    return raw


def list_organisms() -> dict[str, Path]:
    """Name -> folder of every organism that ships with truing."""
    return {f.parent.name: f.parent for f in sorted(_ORGANISMS.glob("*/card.json"))}


def resolve_model(name: str) -> str:
    """Find what loads a model of a name: an organism's folder, a catalogue model's hub id, a folder, or an id as given.

    A model of the catalogue with closed weights is resolved to OpenAI's id.

    Raises:
        UnknownNameError: No organism and no catalogue model of that name, no such folder, and not of the form
            `owner/name` of a hub id.
    """
    organisms, models = list_organisms(), list_models()
    if name in organisms:
        return str(organisms[name])
    if (Path(name) / "config.json").is_file():
        return name
    if name in models:
        return models[name].source
    if find_model(name) is not None:
        return name
    owner, _, repo = name.partition("/")
    if owner and repo and "/" not in repo and not name.startswith((".", "~")):
        return name
    raise UnknownNameError.of("model", name, [*organisms, *models])


def parameters_of(model: str) -> float:
    """Number of parameters of a model: counted in its files, or as the catalogue says; NaN if neither tells."""
    try:
        counted = count_parameters(resolve_model(model))
    except UnknownNameError:  # an endpoint's name
        counted = math.nan
    known = find_model(model)
    return known.parameters if known is not None and math.isnan(counted) else counted


_PREFIX = "base_model.model."
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@dataclass(frozen=True)
class Targets:
    """The weights to adapt, as PEFT's `target_modules` and `target_parameters`: both match the end of a full name."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()


_DENSE = Targets((*_ATTENTION, *_MLP))
TARGETS = {
    "llama": _DENSE,
    "qwen2": _DENSE,
    "qwen3": _DENSE,
    "qwen3_moe": Targets(_ATTENTION, (*_EXPERTS, *(f"mlp.{name}.weight" for name in _MLP))),
    "deepseek_v3": Targets(
        ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        (
            *_EXPERTS,
            *(f"mlp.{name}.weight" for name in _MLP),
            *(f"shared_experts.{name}.weight" for name in _MLP),
        ),
    ),
    "gpt_oss": Targets(_ATTENTION, _EXPERTS),
}
"""`model_type` of a config -> its targets; of other models `backends.transformers.loading.targets_of` finds them."""


def find_targets(model_type: str, parameter_names: Iterable[str]) -> Targets:
    """The targets of an architecture that a model of it really has.

    Raises:
        TrainerError: The architecture is not in `TARGETS`.
    """
    if model_type not in TARGETS:
        raise TrainerError(
            "no LoRA targets are known for this architecture",
            model_type,
            ", ".join(sorted(TARGETS)),
            "add its targets to truing.catalog.models.TARGETS",
        )
    wanted, names = TARGETS[model_type], list(parameter_names)
    return Targets(
        tuple(t for t in wanted.modules if any(_ends(n, f"{t}.weight") for n in names)),
        tuple(t for t in wanted.parameters if any(_ends(n, t) for n in names)),
    )


def check_adapted(targets: Targets, parameter_names: Iterable[str], trainable_names: Iterable[str]) -> list[str]:
    """The names of the weights that are adapted, after checking that they are all of the targets' and no others.

    `parameter_names` are the base model's before PEFT wrapped it, `trainable_names` those that are trained after.

    Raises:
        TrainerError: A weight that should be adapted is not, or one that should not be is.
    """
    ends = (*(f"{t}.weight" for t in targets.modules), *targets.parameters)
    expected = {n for n in parameter_names if any(_ends(n, end) for end in ends)}
    trainable = list(trainable_names)
    containers = {re.sub(r"(\.base_layer)*\.lora_[AB]\..*$", "", n.removeprefix(_PREFIX)) for n in trainable}
    expected_containers = {n.rpartition(".")[0] for n in expected}
    wrong = containers ^ expected_containers
    # A fused experts module holds two adapted parameters in one container: count the lora_A weights as well.
    n_adapters = sum(".lora_A." in name for name in trainable)
    if wrong or n_adapters != len(expected):
        raise TrainerError(
            "the adapter does not cover what it should",
            got=f"{plural(n_adapters, 'adapted weight')}; differing modules: {', '.join(sorted(wrong)) or 'none'}",
            allowed=plural(len(expected), "weight"),
            todo="this version of peft maps targets differently: report it, with the versions of peft and transformers",
        )
    return sorted(expected)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
