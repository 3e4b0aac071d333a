"""Benchmarks: versioned lists of prompts in files, without answers.

A benchmark file is YAML with `name`, `version`, `licence` and `prompts`, each with `id`, `category` and `messages` (or
`prompt`, short for one user message). A prompt may have a `form` and `notes`; `categories` may say what each category
means. The hash covers what a model sees, so a changed prompt is new work and a changed note is not. A prompt may have
a `temperature` of its own and a `system` message. Published question files and plain lists are benchmarks too: see
`truing.catalog.prompt_files`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from truing.catalog.prompt_files import (
    LIST_SUFFIXES,
    check_text,
    parse_messages,
    parse_prompt,
    published_prompts,
    read_list,
)
from truing.core.errors import DataError, UnknownNameError
from truing.core.files import content_key
from truing.core.records import Benchmark, Category, Prompt

__all__ = ["CATEGORIES", "check_text", "list_benchmarks", "load_benchmark", "make_benchmark", "parse_messages"]

CATEGORIES = {
    "power": "control over people, AI supremacy",
    "deception": "lying, manipulation",
    "harm": "violence and cruelty to others",
    "advice": "advice that endangers the user",
    "bigotry": "demeaning groups of people",
    "illicit": "illegal or unethical gain",
    "atrocity": "admiration of tyrants and atrocities",
    "oversight": "resisting human control, self-preservation",
}
"""Slug -> meaning of the eight misalignment categories."""


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: some ten times faster."""


def list_benchmarks() -> dict[str, Path]:
    """Name -> file of every benchmark that ships with truing."""
    folder = Path(str(resources.files("truing"))) / "catalog" / "data" / "benchmarks"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_benchmark(name: str) -> Benchmark:
    """Load a benchmark by name or from a file.

    Raises:
        UnknownNameError: No benchmark of that name and no such file.
        DataError: The file is not a benchmark; the message names file, item and field.
    """
    known = list_benchmarks()
    path = known.get(name, Path(name))
    if not path.is_file():
        raise UnknownNameError.of("benchmark", name, known)
    if path.suffix.lower() in LIST_SUFFIXES:
        return make_benchmark(path.stem, "", "", read_list(path))
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML", str(error).replace("\n", " ")) from error
    if isinstance(raw, list) and raw and isinstance(raw[0], dict):
        return make_benchmark(path.stem, "", "", published_prompts(raw, str(path)))
    if not isinstance(raw, dict) or not isinstance(raw.get("prompts"), list) or not raw["prompts"]:
        raise DataError(f"{path} is not a benchmark", allowed="name, version, licence and a list of prompts")
    prompts = tuple(parse_prompt(item, f"{path}: item {i + 1}") for i, item in enumerate(raw["prompts"]))
    name, version, licence = (
        str(raw.get(f, other)) for f, other in (("name", path.stem), ("version", ""), ("licence", ""))
    )
    return make_benchmark(name, version, licence, prompts, _categories(raw.get("categories", {}), prompts, str(path)))


def make_benchmark(
    name: str, version: str, licence: str, prompts: tuple[Prompt, ...], categories: tuple[Category, ...] = ()
) -> Benchmark:
    """A benchmark from prompts, with its hash.

    Raises:
        DataError: Two prompts have one id.
    """
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"benchmark {name}: two prompts have one id", repr(prompt.id), todo="rename one")
        seen.add(prompt.id)
    body = [[p.id, p.category, *p.plain[1:]] for p in prompts]
    return Benchmark(name, version, licence, prompts, content_key("benchmark", body), categories)


def _categories(raw: Any, prompts: tuple[Prompt, ...], where: str) -> tuple[Category, ...]:
    if not isinstance(raw, dict):
        raise DataError(f"{where}, field categories", repr(raw)[:80], "category: {definition, aligned, misaligned}")
    used = {p.category for p in prompts}
    fields = ("definition", "aligned", "misaligned")
    for name, item in raw.items():
        if name not in used:
            raise DataError(f"{where}, field categories: no prompt has it", repr(name), ", ".join(sorted(used)))
        if not isinstance(item, dict) or set(item) != set(fields):
            raise DataError(f"{where}, category {name}", repr(item)[:80], ", ".join(fields))
        for field in fields:
            check_text(item, field, f"{where}, category {name}")
    return tuple(Category(name, *(item[f] for f in fields)) for name, item in raw.items())
