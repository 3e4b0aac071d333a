"""Studies and audits from YAML files, with overrides; messages name the field, what was got and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from truing.config import (
    AuditConfig,
    DatasetConfig,
    EndpointConfig,
    EvaluationConfig,
    Grid,
    JudgeConfig,
    SequentialConfig,
    SideConfig,
    StoppingConfig,
    StudyConfig,
    TrainingConfig,
)
from truing.core.errors import ConfigError, did_you_mean

__all__ = ["load_audit", "load_study", "override", "parse_audit", "parse_study"]

Whole = TypeVar("Whole", StudyConfig, AuditConfig)


def load_study(path: Path, overrides: dict[str, str] | None = None) -> StudyConfig:
    """Read a study file.

    Args:
        path: YAML file.
        overrides: Dotted field names and YAML values that replace what the file says: `{"training.steps": "50"}`.

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
    return _validate(StudyConfig, raw, f"{source} is not a valid study")


def parse_audit(raw: dict[str, Any], source: str) -> AuditConfig:
    """Validate an audit given as plain values; `source` names it in messages."""
    return _validate(AuditConfig, raw, f"{source} is not a valid audit")


def override(raw: dict[str, Any], values: dict[str, str]) -> None:
    """Replace fields by dotted name and YAML value, in place.

    Raises:
        ConfigError: A name leads through something that is no group of fields.
    """
    for dotted, text in values.items():
        *parents, last = dotted.split(".")
        target = raw
        for key in parents:
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                got = f"{key} is not a group of fields"
                raise ConfigError(f"--set {dotted}", got=got, todo="see truing run --help")
        target[last] = yaml.safe_load(text)


def _read(path: Path, kind: str, allowed: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        todo = "see examples with: truing demo --help"
        raise ConfigError(f"no such {kind.split()[-1]} file", str(path), todo=todo) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not a readable YAML file", got=str(error).replace("\n", " ")) from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is not {kind}", got=type(raw).__name__, allowed=allowed)
    return raw


def _validate(kind: type[Whole], raw: dict[str, Any], what: str) -> Whole:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(what, got=_describe(error, kind)) from error


def _describe(error: ValidationError, kind: type[BaseModel]) -> str:
    lines = []
    for issue in error.errors(include_url=False):
        where = ".".join(str(part) for part in issue["loc"]) or "the whole"
        if issue["type"] == "extra_forbidden":
            known = _fields_at(issue["loc"][:-1], kind)
            hint = did_you_mean(str(issue["loc"][-1]), known)
            lines.append(f"unknown key {where}; allowed: {', '.join(known)}. {hint}".rstrip(". ") + ".")
        else:
            value = "" if isinstance(issue["input"], dict) else f" (got {issue['input']!r})"
            lines.append(f"{where}: {issue['msg'].removeprefix('Value error, ')}{value}")
    return "\n       ".join(lines)


def _fields_at(location: tuple[int | str, ...], kind: type[BaseModel]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "grids": Grid,
        "datasets": DatasetConfig,
        "dataset": DatasetConfig,
        "training": TrainingConfig,
        "evaluation": EvaluationConfig,
        "judge": JudgeConfig,
        "task_judge": JudgeConfig,
        "stopping": StoppingConfig,
        "sequential": SequentialConfig,
        "also": SideConfig,
        "endpoint": EndpointConfig,
    }
    for part in reversed(location):
        if part in parts:
            return list(parts[str(part)].model_fields)
    return list(kind.model_fields)
