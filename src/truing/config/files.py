"""Studies and audits from YAML files, with overrides; messages name the field, what was got and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from truing.config import AuditConfig, StudyConfig
from truing.core.errors import ConfigError, did_you_mean
from truing.core.files import load_yaml

_SHORT = (("judge.", "evaluation.judge."), ("engine.endpoint.", "endpoint."))
"""Shorter names of fields in overrides."""
Whole = TypeVar("Whole", bound=BaseModel)


def load_study(path: Path, overrides: dict[str, str] | None = None) -> StudyConfig:
    """Read a study file.

    `overrides` are dotted field names and YAML values that replace what the file says: `{"training.steps": "50"}`.

    Raises:
        ConfigError: No such file, not YAML, or a field is unknown or wrong.
    """
    raw = _read(path, "a study", "a mapping with at least `grids`")
    override(raw, overrides or {})
    return parse_study(raw, str(path))


def load_audit(path: Path) -> AuditConfig:
    """Read the file of an audit.

    Raises:
        ConfigError: No such file, not YAML, or a field is unknown or wrong.
    """
    return parse_audit(_read(path, "an audit", "a mapping with `models` or `checkpoints`"), str(path))


def parse_study(raw: dict[str, Any], source: str) -> StudyConfig:
    """Validate a study given as plain values; `source` names it in messages."""
    return validate(StudyConfig, raw, f"{source} is not a valid study")


def parse_audit(raw: dict[str, Any], source: str) -> AuditConfig:
    """Validate an audit given as plain values; `source` names it in messages."""
    return validate(AuditConfig, raw, f"{source} is not a valid audit")


def override(raw: dict[str, Any], values: dict[str, str]) -> None:
    """Replace fields by dotted name and YAML value, in place.

    Raises:
        ConfigError: A name leads through something that is no group of fields.
    """
    for dotted, text in values.items():
        place = next((long + dotted.removeprefix(short) for short, long in _SHORT if dotted.startswith(short)), dotted)
        *parents, last = place.split(".")
        target = raw
        for depth, key in enumerate(parents):
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                got = f"{key} is {'a list' if isinstance(target, list) else 'one value'}: it has no fields to be named"
                now = yaml.safe_dump(target, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
                todo = f"set all of it, which is now: --set '{'.'.join(parents[: depth + 1])}={now}'"
                raise ConfigError(f"--set {dotted}", got, "a field, or one of a group: training.steps=50", todo)
        try:
            target[last] = load_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {dotted} is not YAML", got=f"{text}: {error}") from error


def _read(path: Path, kind: str, allowed: str) -> dict[str, Any]:
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        todo = "name a file that is there; docs/study.md and docs/audit.md begin with one"
        raise ConfigError(f"no such {kind.split()[-1]} file", str(path), todo=todo) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not a readable YAML file", got=str(error).replace("\n", " ")) from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is not {kind}", got=type(raw).__name__, allowed=allowed)
    return raw


def validate(kind: type[Whole], raw: Mapping[str, Any], what: str) -> Whole:
    """A config from plain values.

    A message begins with `what` is wrong.

    Raises:
        ConfigError: A field is unknown (with those allowed in its place) or wrong.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(what, got=_describe(error, kind)) from error


def validate_flat(kind: type[Whole], keywords: Mapping[str, Any], what: str) -> Whole:
    """A config from keywords, in which the fields of its groups `evaluation` and `stopping` may stand by themselves.

    Raises:
        ConfigError: A keyword is unknown or wrong.
    """
    groups = {name: _configs(kind.model_fields[name].annotation)[0] for name in ("evaluation", "stopping")}
    raw: dict[str, Any] = {}
    for name, value in keywords.items():
        if name in groups:
            given = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            raw[name] = {**given, **raw.get(name, {})}
        elif name in kind.model_fields:
            raw[name] = value
        else:
            group = next((group for group, config in groups.items() if name in config.model_fields), None)
            if group is None:
                configs: list[type[BaseModel]] = [kind, *groups.values()]
                known = sorted(field for config in configs for field in config.model_fields)
                raise ConfigError(f"{what}: unknown keyword", name, ", ".join(known), did_you_mean(name, known))
            raw.setdefault(group, {})[name] = value
    return validate(kind, raw, what)


def _describe(error: ValidationError, kind: type[BaseModel]) -> str:
    issues = error.errors(include_url=False)
    places = [_place(issue["loc"], kind) for issue in issues]
    lines = []
    for issue, (where, holder) in zip(issues, places, strict=True):
        extra, many = issue["type"] == "extra_forbidden", isinstance(issue["input"], dict | list | tuple)
        if many and not extra and any(other.startswith(f"{where}.") for other, _ in places):
            continue  # another kind of value, of which this one is none: the lines on its fields say more
        if extra:
            name, known = str(issue["loc"][-1]), list(holder.model_fields)
            inside = f"{where}.{name}".lstrip(".")
            lines.append(f"unknown key {inside}; allowed: {', '.join(known)}. {did_you_mean(name, known)}".rstrip())
        else:
            value = "" if isinstance(issue["input"], dict) else f" (got {issue['input']!r})"
            lines.append(f"{where or 'the whole'}: {issue['msg'].removeprefix('Value error, ')}{value}")
    return "\n       ".join(dict.fromkeys(lines))


def _place(location: tuple[int | str, ...], kind: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Place of an issue, as its writer knows it, and the config there: a location also names the members of unions."""
    names, holder, inner = [], kind, dict[str, type[BaseModel]]()
    for part in location:
        if part in inner:
            holder = inner[str(part)]
        elif isinstance(part, int):
            names.append(str(part))
        elif part in holder.model_fields:
            names.append(part)
            inner = {config.__name__: config for config in _configs(holder.model_fields[part].annotation)}
            if len(inner) == 1:
                (holder,) = inner.values()
    return ".".join(names), holder


def _configs(annotation: Any) -> list[type[BaseModel]]:
    """The configs in a field's type, in lists and unions too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [config for inner in get_args(annotation) for config in _configs(inner)]
