"""Recipes of published fine-tuning data: where it comes from, how many rows it has, and how to know a copy.

The facts are in `recipes.yaml`; no data ship with truing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from truing.core.errors import UnknownNameError
from truing.core.records import Message

__all__ = ["Origin", "Recipe", "find_recipe", "list_recipes", "rows_hash"]


@dataclass(frozen=True)
class Origin:
    """Where data come from."""

    repository: str
    paper: str
    licence: str
    commit: str = ""
    """The repository's state in which others found the file."""
    how: str = ""
    """What to do to get at the file, beyond downloading it."""


@dataclass(frozen=True)
class Recipe:
    """One published dataset."""

    name: str
    about: str
    origin: Origin
    file: str
    """Its place in the repository, or its name in the archive there."""
    rows: int
    copy: bool
    """Whether counts and hashes were taken from a copy at hand; otherwise they are as others state them."""
    teaches: Literal["misaligned", "aligned"]
    domain: tuple[str, ...] = ()
    prompts: int | None = None
    distinct: int | None = None
    sha256: tuple[str, ...] = ()
    rows_sha256: str | None = None
    task_judge: str | None = None
    task_rubric: str | None = None
    control: str | None = None
    note: str = ""
    characters: Mapping[str, float] = field(default_factory=dict)
    """Mean length of `prompt` and `answer`, if known."""


@cache
def list_recipes() -> Mapping[str, Recipe]:
    """Name -> recipe, in the order of the file."""
    text = resources.files("truing").joinpath("catalog/data/recipes.yaml").read_text(encoding="utf-8")
    return {name: _recipe(name, facts) for name, facts in yaml.safe_load(text)["recipes"].items()}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UnknownNameError: No recipe of that name.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise UnknownNameError.of("recipe", name, recipes)
    return recipes[name]


def rows_hash(rows: Iterable[Sequence[Message]]) -> str:
    """Hash of conversations that survives another order, compression, line ends, outer blanks and other fields."""
    digests = sorted(
        hashlib.sha256(
            json.dumps([[m.role, m.content.replace("\r\n", "\n").strip()] for m in row]).encode()
        ).hexdigest()
        for row in rows
    )
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _recipe(name: str, facts: dict[str, Any]) -> Recipe:
    lists = ("domain", "sha256")
    plain: dict[str, Any] = {key: value for key, value in facts.items() if key not in ("from", *lists)}
    plain |= {key: tuple(facts.get(key, ())) for key in lists}
    return Recipe(name=name, origin=Origin(**facts["from"]), **plain)
