from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.conftest import small_study
from truing.config import JudgeConfig, StudyConfig, TrainingConfig, log_spaced
from truing.config.files import load_study, override, parse_study
from truing.config.services import VllmConfig
from truing.core.errors import ConfigError

MINIMAL: dict[str, Any] = {"grids": [{"models": ["m"], "datasets": ["d"], "learning_rates": [1e-3], "seeds": [0, 1]}]}


def write(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def test_yaml_and_keywords_give_one_object(tmp_path: Path) -> None:
    config = load_study(write(tmp_path, MINIMAL))
    assert config == StudyConfig(**MINIMAL)
    assert config.hash() == StudyConfig(**MINIMAL).hash()


def test_written_out_in_full_it_reads_back_equal(tmp_path: Path) -> None:
    config = StudyConfig(**MINIMAL, training={"checkpoints": [3, 1], "steps": 9}, name="x")
    again = load_study(write(tmp_path, config.to_yaml()))
    assert again == config
    assert again.hash() == config.hash()
    assert repr(again) == repr(config)  # 16 and 16.0 are equal but end in other files


def test_overrides_reach_nested_fields(tmp_path: Path) -> None:
    config = load_study(write(tmp_path, MINIMAL), {"training.steps": "7", "evaluation.samples": "3"})
    assert (config.training.steps, config.evaluation.samples) == (7, 3)


def test_an_override_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set training.steps is not YAML\s+got: \[}"):
        load_study(write(tmp_path, MINIMAL), {"training.steps": "[}"})


def test_a_list_is_not_called_empty_for_what_is_wrong_in_it(tmp_path: Path) -> None:
    (grid,) = MINIMAL["grids"]
    with pytest.raises(ConfigError) as caught:
        load_study(write(tmp_path, {"grids": [{**grid, "sedes": 3}]}))
    assert "grids.0.sedes" in str(caught.value)
    assert "at least 1 item" not in str(caught.value)
    with pytest.raises(ConfigError, match="at least 1 item"):
        load_study(write(tmp_path, {"grids": []}))


def test_workers_do_not_change_the_hash_but_everything_else_does() -> None:
    base = StudyConfig(**MINIMAL)
    assert StudyConfig(**MINIMAL, workers=2).hash() == base.hash()
    assert StudyConfig(**MINIMAL, training={"steps": 5}).hash() != base.hash()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({**MINIMAL, "trainng": {}}, ["trainng", "did you mean training"]),
        ({**MINIMAL, "training": {"stepz": 3}}, ["training.stepz", "did you mean steps"]),
        ({**MINIMAL, "training": {"steps": 0}}, ["training.steps", "greater than or equal to 1", "got 0"]),
        ({**MINIMAL, "training": {"steps": 5, "checkpoints": [2, 9]}}, ["step 9", "beyond", "1 to 5"]),
        ({"grids": []}, ["grids"]),
        ({**MINIMAL, "grids": MINIMAL["grids"] * 2}, ["plan a run twice", "make the grids disjoint"]),
        ({**MINIMAL, "name": "../up"}, ["name"]),
        ("just text", ["not a study", "grids"]),
        ("a: [", ["YAML"]),
    ],
)
def test_a_wrong_study_says_what_and_what_to_do(tmp_path: Path, value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(write(tmp_path, value))
    for word in words:
        assert word in str(caught.value)


def test_no_such_file() -> None:
    with pytest.raises(ConfigError, match="no such study file"):
        load_study(Path("absent.yaml"))


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        StudyConfig(**MINIMAL).training.steps = 3


def test_runs_have_their_own_ids_in_grid_order() -> None:
    runs = StudyConfig(**MINIMAL).runs()
    assert [run.id for run in runs] == ["m__d__lr0.001__seed0", "m__d__lr0.001__seed1"]
    assert all(run.stops for run in runs)


def test_every_field_is_documented() -> None:
    for model in (StudyConfig, *(f.annotation for f in StudyConfig.model_fields.values())):
        for name, field in getattr(model, "model_fields", {}).items():
            assert field.description, name


@given(n=st.integers(1, 60), last=st.integers(1, 5000))
def test_log_spaced_steps_rise_to_the_last(n: int, last: int) -> None:
    steps = log_spaced(n, last)
    assert steps[-1] == last
    assert list(steps) == sorted(set(steps))
    assert steps[0] >= 1
    assert len(steps) <= n


def test_the_last_step_is_always_a_checkpoint() -> None:
    assert TrainingConfig(steps=10, checkpoints=(2, 5)).checkpoint_steps() == (2, 5, 10)


def test_a_multiplier_needs_a_trainer_that_takes_one() -> None:
    grid = {**MINIMAL["grids"][0], "learning_rates": [2]}
    with pytest.raises(ConfigError, match="learning rate 2 is too high"):
        parse_study({"grids": [grid]}, "the test's study")
    assert parse_study({"grids": [{**grid, "trainer": "openai"}]}, "x").runs()[0].learning_rate == 2


def test_how_endpoints_are_called_is_not_part_of_the_hash(tmp_path: Path) -> None:
    """A cap can be raised on resuming."""
    file = tmp_path / "study.yaml"
    file.write_text("grids: [{models: [m], datasets: [d], learning_rates: [0.1], seeds: [0]}]")
    plain, capped = load_study(file), load_study(file, {"endpoint.max_calls": "100", "endpoint.mode": "batch"})
    assert capped.endpoint.max_calls == 100
    assert plain.hash() == capped.hash()
    file.write_text(capped.to_yaml())
    assert load_study(file) == capped


def test_a_language_model_as_judge(tmp_path: Path) -> None:
    judge = {"model": "some/model", "completer": "local", "coherent": None}
    config = small_study("m", evaluation={"judge": judge})
    assert isinstance(config.evaluation.judge, JudgeConfig)
    path = tmp_path / "study.yaml"
    path.write_text(config.to_yaml())
    assert load_study(path) == config
    assert config.hash() != small_study("m", evaluation={"judge": {**judge, "aligned": "truth"}}).hash()
    with pytest.raises(ConfigError, match="did you mean model"):
        small_study("m", evaluation={"judge": {"modl": "x"}})


@pytest.mark.parametrize(
    ("also", "words"),
    [
        ([{"benchmark": "pocket-facts"}], "another judge"),
        ([{"benchmark": "pocket-facts", "judge": "bandit", "samples": 3}], "samples: 1"),
        ([{"benchmark": "truth-120"}, {"benchmark": "truth-120"}], "same twice"),
        ([{"benchmark": "truth-120", "share": 0.5}], "whose answers the study's judge has read"),
        ([{"benchmark": "pocket-facts", "judge": "bandit", "share": 0}], "share"),
    ],
)
def test_second_opinions_are_of_the_same_answers(also: list[dict[str, object]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small_study("m", evaluation={"also": also})


def test_the_preflight_is_in_the_hash_only_where_it_differs_from_the_default() -> None:
    plain = small_study("m")
    assert "preflight" not in plain.to_yaml()
    assert small_study("m", evaluation={"preflight": {"at_least": 0.5}}).hash() == plain.hash()
    off = small_study("m", evaluation={"preflight": {"labelled": None, "unmeasured": "accept"}})
    assert off.hash() != plain.hash()
    assert parse_study(yaml.safe_load(off.to_yaml()), "again") == off


def test_what_makes_two_studies_unlike_is_named_by_its_fields() -> None:
    first = small_study("m")
    grid = {"models": ["m"], "datasets": ["d"], "learning_rates": [1e-3], "seeds": [0, 1]}
    also = [{"benchmark": "pocket-facts+json"}]
    assert first.unlike(small_study("m", workers=3)) == ""
    assert small_study("m", grids=[grid]).unlike(first) == (
        "grids.0.datasets is ['d'] here and ['pocket-insecure-code'] there; grids.0.seeds is [0, 1] here and [0] there"
    )
    blind = small_study("m", evaluation={"preflight": {"on_fail": "undecided"}})  # one field of what is a default whole
    assert blind.unlike(first) == "evaluation.preflight.on_fail is undecided here and refuse there"
    several = small_study("m", evaluation={"also": also, "samples": 3}, stopping={"sequential": {}})
    told = several.unlike(first)
    assert "evaluation.samples is 3 here and 1 there" in told
    assert "evaluation.also.0.benchmark is pocket-facts+json here and not set there" in told
    assert told.count(" here and ") == 4
    assert " more" in told


def test_a_key_that_a_study_gives_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(small_study("m").to_yaml() + "stopping: {tolerance: 0.5}\n")
    with pytest.raises(ConfigError, match=r"the key 'stopping' is given twice, in line \d+ and in line \d+"):
        load_study(path)
    override = {"stopping": "{mode: off, mode: stop}"}
    path.write_text(small_study("m").to_yaml())
    with pytest.raises(ConfigError, match="--set stopping is not YAML"):
        load_study(path, override)


def test_where_a_judge_is_reached_is_no_part_of_a_hash() -> None:
    judge = {"model": "m", "completer": "openai"}
    away = {**judge, "endpoint": {"base_url": "http://judge/v1"}}
    grids = [{"models": ["a"], "datasets": ["d"], "learning_rates": [0.1], "seeds": [0]}]

    def study(of: dict[str, Any]) -> StudyConfig:
        raw = {"grids": grids, "evaluation": {"judge": of, "also": [{"benchmark": "pocket-facts", "judge": of}]}}
        return parse_study(raw, "x")

    assert study(judge).hash() == study(away).hash()
    assert study(away).unlike(study(judge)) == ""
    assert yaml.safe_load(study(away).to_yaml())["evaluation"]["judge"]["endpoint"]["base_url"] == "http://judge/v1"
    assert parse_study(yaml.safe_load(study(away).to_yaml()), "x") == study(away)


def test_overrides_have_short_names_for_judge_and_engine() -> None:
    raw: dict[str, Any] = {"evaluation": {"judge": {"model": "m"}}}
    override(raw, {"judge.endpoint.base_url": "http://judge/v1", "engine.endpoint.base_url": "http://engine/v1"})
    assert raw["evaluation"]["judge"]["endpoint"] == {"base_url": "http://judge/v1"}
    assert raw["endpoint"] == {"base_url": "http://engine/v1"}


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_merging_for_a_vllm_server_in_half_precision_is_refused(dtype: str) -> None:
    with pytest.raises(ValidationError, match=f"adapters: merge with dtype {dtype}: part of what an adapter adds"):
        VllmConfig.model_validate({"adapters": "merge", "dtype": dtype})
    assert VllmConfig(adapters="merge", dtype="float32").adapters == "merge"


@pytest.mark.parametrize("name", ["grids.0.seeds", "grids.x", "name.a"])
def test_what_cannot_be_set_by_name_says_what_can(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(write(tmp_path, {**MINIMAL, "name": "mine"}), {name: ""})
    whole, error = name.partition(".")[0], caught.value
    assert (error.what, "training.steps=50" in error.allowed) == (f"--set {name}", True)
    assert error.got.startswith(f"{whole} is ")
    now = error.todo.partition(f"{whole}=")[2].removesuffix("'")
    assert load_study(write(tmp_path, {**MINIMAL, "name": "other"}), {whole: now})  # as it stands there
