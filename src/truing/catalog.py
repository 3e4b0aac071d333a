"""Names of models: the organisms that ship with truing, folders, and hub ids."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from truing.errors import UnknownNameError

__all__ = ["list_organisms", "resolve_model"]


def _organism_root() -> Path:
    return Path(str(resources.files("truing"))) / "pocket" / "organisms"


def list_organisms() -> dict[str, Path]:
    """Name -> folder of every organism that ships with truing."""
    return {f.parent.name: f.parent for f in sorted(_organism_root().glob("*/card.json"))}


def resolve_model(name: str) -> str:
    """What `transformers` loads for a model name: the folder of an organism, a folder as given, or a hub id.

    Raises:
        UnknownNameError: No organism of that name, no such folder, and not of the form `owner/name` of a hub id.
    """
    organisms = list_organisms()
    if name in organisms:
        return str(organisms[name])
    if (Path(name) / "config.json").is_file():
        return name
    owner, _, repo = name.partition("/")
    if owner and repo and "/" not in repo and not name.startswith((".", "~")):
        return name
    raise UnknownNameError.of("model", name, organisms)
