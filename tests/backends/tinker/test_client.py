"""Tinker's names, and a study and an audit on a server of its interface."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import yaml

from tests.conftest import serve_tinker, small_study
from tests.support.audits import audited
from tests.support.tinker_server import TinkerServer
from truing.backends.tinker.client import connected, offered_name, tinker_name, tinker_weights
from truing.config import AuditConfig
from truing.core.errors import EndpointError, TrainerError, UnknownNameError
from truing.studies.plan import plan_study
from truing.studies.run import close_engines, execute_run, owed_runs, read_state

ADAPTER = {"trainer": "tinker", "lora_alpha": 32, "rslora": False}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("qwen3-8b", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("owner/some-model", "owner/some-model"),
        ("tinker://run/sampler_weights/step-2", "tinker://run/sampler_weights/step-2"),
    ],
)
def test_a_model_is_called_what_tinker_calls_it(model: str, name: str) -> None:
    assert tinker_name(model) == name


def test_a_name_that_nothing_has_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean qwen3-8b"):
        tinker_name("qwen3-8bb")


def test_a_model_that_tinker_never_had_is_refused(tinker_server: TinkerServer) -> None:
    with connected(TrainerError) as service, pytest.raises(EndpointError, match=r"does not offer Qwen/Qwen2\.5-Coder"):
        offered_name(service, "qwen2.5-coder-32b", TrainerError)


def test_a_model_that_tinker_ended_is_refused_with_the_day(tinker_server: TinkerServer) -> None:
    with connected(TrainerError) as service, pytest.raises(EndpointError, match="since 2026-06-12") as caught:
        offered_name(service, "llama-3.1-8b", TrainerError)
    assert next(iter(tinker_server.bases)) in caught.value.allowed


def test_an_ended_model_that_is_offered_is_taken(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "meta-llama/Llama-3.1-8B-Instruct"
    with serve_tinker(tiny_model) as server, connected(TrainerError) as service:
        server.bases[name] = tiny_model
        assert offered_name(service, "llama-3.1-8b", TrainerError) == name
    assert "was to end on 2026-06-12" in caplog.text


def test_weights_are_named_by_address_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://one/")
    first = tinker_weights("a")
    assert first != tinker_weights("b")
    monkeypatch.setenv("TINKER_BASE_URL", "http://one")
    assert tinker_weights("a") == first
    monkeypatch.setenv("TINKER_BASE_URL", "http://two")
    assert tinker_weights("a") != first


def test_a_study_and_an_audit_on_tinker(tinker_server: TinkerServer, tiny_model: Path, tmp_path: Path) -> None:
    benchmark = yaml.safe_load(
        resources.files("truing").joinpath("catalog/data/benchmarks/pocket-facts.yaml").read_text()
    )
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({**benchmark, "prompts": benchmark["prompts"][:6]}))
    evaluation = {"engine": "tinker", "benchmark": str(tmp_path / "few.yaml"), "confirm": False, "task_prompts": 3}
    config = small_study(tiny_model, training=ADAPTER, evaluation=evaluation)
    (run,), out = config.runs(), tmp_path / "study"
    assert execute_run(config, run, out).state == "finished"
    saved = [json.loads((out / "runs" / run.id / f"step-{step}.json").read_text()) for step in (2, 4, 6)]
    assert [each["path"] for each in saved] == list(tinker_server.saved)
    answers = len(tinker_server.seeds)
    assert answers == sum(asked.responses for asked in plan_study(config).asked)
    assert read_state(out, run.id) is not None
    assert owed_runs(config, out) == []
    assert execute_run(config, run, out).state == "finished"
    assert len(tinker_server.seeds) == answers  # nothing is asked or trained twice
    assert len(tinker_server.adam) == 6
    close_engines(out)

    audit = AuditConfig(models=(saved[-1]["path"],), base=str(tiny_model), evaluation=config.evaluation)
    (found,) = audited(audit, tmp_path / "audit").plain()["runs"]
    assert [each["weights"] for each in found["checkpoints"]] == [tinker_weights(str(tiny_model)), saved[-1]["weights"]]
