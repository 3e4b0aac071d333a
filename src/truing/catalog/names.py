"""Names of models: the organisms that ship with truing, the catalogue, folders, and hub ids."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

from truing.catalog.models import find_model, known_parameters, list_models
from truing.core.errors import UnknownNameError
from truing.core.weights import count_parameters

__all__ = ["list_organisms", "parameters_of", "resolve_model"]


def _organism_root() -> Path:
    return Path(str(resources.files("truing"))) / "catalog" / "pocket" / "organisms"


def list_organisms() -> dict[str, Path]:
    """Name -> folder of every organism that ships with truing."""
    return {f.parent.name: f.parent for f in sorted(_organism_root().glob("*/card.json"))}


def resolve_model(name: str) -> str:
    """What loads a model of that name: an organism's folder, a catalogue model's hub id, a folder, or an id as given.

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
    """How many parameters a model has: counted in its files, or as the catalogue says; NaN if neither tells."""
    try:
        counted = count_parameters(resolve_model(model))
    except UnknownNameError:  # an endpoint's name
        counted = math.nan
    return known_parameters(model) if math.isnan(counted) else counted
