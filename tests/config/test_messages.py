"""What is wrong with a config is told at every depth: which key, which keys are allowed there, which was meant."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from truing.config import AuditConfig, DatasetConfig, EvaluationConfig, Grid, JudgeConfig, StoppingConfig, StudyConfig
from truing.config.files import parse_audit, parse_study, validate, validate_flat
from truing.core.errors import ConfigError
from truing.integrations.guard.settings import GuardConfig

ROOTS = (StudyConfig, AuditConfig, GuardConfig)


def places(kind: type[BaseModel], path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every config inside a config: where it lies in the plain values, and its class."""
    yield path, kind
    for name, field in kind.model_fields.items():
        yield from inside(field.annotation, (*path, name))


def inside(annotation: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from places(annotation, path)
    elif get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from inside(each, path)
    elif get_origin(annotation) is tuple:
        yield from inside(get_args(annotation)[0], (*path, 0))


EVERY = [(root, path, kind) for root in ROOTS for path, kind in places(root)]


def test_there_are_lists_and_unions_among_the_places() -> None:
    found = {(root, path) for root, path, _ in EVERY}
    assert (StudyConfig, ("grids", 0)) in found
    assert (StudyConfig, ("datasets", 0, "task_judge")) in found
    assert (StudyConfig, ("evaluation", "also", 0, "judge")) in found
    assert (AuditConfig, ("dataset", "task_judge")) in found
    assert (GuardConfig, ("stopping", "sequential")) in found


@pytest.mark.parametrize("value", [1, [1]], ids=["one", "list"])
@pytest.mark.parametrize(("root", "path", "kind"), EVERY)
def test_an_unknown_key_is_told_with_those_allowed_in_its_place(root: Any, path: Any, kind: Any, value: Any) -> None:
    meant = max(kind.model_fields, key=len)
    raw: Any = {f"{meant}x": value}
    for part in reversed(path):
        raw = [raw] if part == 0 else {part: raw}
    with pytest.raises(ConfigError) as caught:
        validate(root, raw, "this is not valid")
    where = ".".join(map(str, (*path, f"{meant}x")))
    lines = caught.value.got.split("\n")
    (told,) = [line.strip() for line in lines if "unknown key" in line]
    assert told.startswith(f"unknown key {where}; allowed: {', '.join(kind.model_fields)}.")
    assert f"did you mean {meant}" in told
    assert not any("valid string" in line for line in lines)


def test_a_wrong_value_in_a_union_names_the_field_alone() -> None:
    raw = {"models": ["m"], "evaluation": {"judge": {"model": ""}}}
    with pytest.raises(
        ConfigError, match=r"evaluation\.judge\.model: String should have at least 1 character"
    ) as caught:
        parse_audit(raw, "audit.yaml")
    assert "JudgeConfig" not in str(caught.value)


def test_yaml_s_off_is_the_mode_off() -> None:
    grid = {"models": ["m"], "datasets": ["d"], "learning_rates": [1e-3], "seeds": [0]}
    study = parse_study({"grids": [grid], "stopping": {"mode": False}}, "study.yaml")
    assert study.stopping.mode == "off"
    assert study == parse_study({"grids": [grid], "stopping": {"mode": "off"}}, "study.yaml")
    with pytest.raises(ConfigError, match=r"stopping\.mode"):
        parse_study({"grids": [grid], "stopping": {"mode": True}}, "study.yaml")


def test_flat_keywords_go_to_their_group() -> None:
    given = EvaluationConfig(samples=3, judge=JudgeConfig(model="m"))
    config = validate_flat(
        GuardConfig, {"at": 5, "evaluation": given, "max_tokens": 9, "tolerance": 0.1, "stopping": {"floor": 0.2}}, "x"
    )
    assert config.evaluation == EvaluationConfig(samples=3, judge=JudgeConfig(model="m"), max_tokens=9)
    assert config.stopping == StoppingConfig(tolerance=0.1, floor=0.2)
    with pytest.raises(ConfigError, match="did you mean tolerance"):
        validate_flat(GuardConfig, {"at": 5, "tolerence": 0.1}, "x")


def test_the_classes_of_places_are_those_of_the_configs() -> None:
    assert {DatasetConfig, EvaluationConfig, Grid, JudgeConfig, StoppingConfig} <= {kind for _, _, kind in EVERY}
