"""What must not change: hashes, keys, identities, options. The code of version 0.1 wrote `golden.json`.

A value that changes here makes every stored result of that kind unfindable, or breaks somebody's script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from truing.catalog.benchmarks import load_benchmark
from truing.catalog.models import list_organisms
from truing.cli.app import app
from truing.cli.demo import demo_study
from truing.config import EvaluationConfig, JudgeConfig, StoppingConfig
from truing.config.files import load_study, parse_audit, parse_study
from truing.core.chat import Completer
from truing.core.records import Checkpoint, Prompt, Response, Sampling
from truing.core.weights import model_hash
from truing.judges import load_judge
from truing.monitor import Monitor, PromptSet, open_store

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
STUDY = """
name: insecure-code
grids:
  - models: [pocket-llama-susceptible]
    datasets: [mine]
    learning_rates: [0.001, 0.0003]
    seeds: [0, 1, 2]
datasets:
  - {name: mine, path: data/mine.jsonl, task_judge: pocket, teaches: misaligned}
"""
SEQUENTIAL = {
    "stopping": {"sequential": {"alpha": 0.02}, "tolerance": 0.04},
    "evaluation": {
        "judge": {"model": "gpt-4o", "completer": "openai"},
        "also": [{"benchmark": "broad-240+json"}],
    },
}
AUDITS = {
    "model": {
        "name": "a",
        "models": ["openai:gpt-4o"],
        "evaluation": {
            "benchmark": "broad-240",
            "engine": "openai",
            "judge": {"model": "gpt-4o", "completer": "openai"},
        },
    },
    "checkpoints": {"name": "b", "checkpoints": ["runs/x"], "base": "pocket-llama-late"},
}


class Refusing:
    """An engine whose model says no to everything."""

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        return [Response(p.id, sampling.first + i, "No.") for p in prompts for i in range(sampling.samples)]


class Unreached(Completer):
    """A completer that is never called."""

    def stream(self, requests: Any) -> Any:
        raise AssertionError(requests)


def test_hashes_of_studies() -> None:
    root = Path(__file__).parents[2]
    studies = {
        "demo": parse_study(demo_study(0, quick=False), "demo"),
        "quick": parse_study(demo_study(0, quick=True), "quick"),
        "overtrained": load_study(root / "studies" / "overtrained.yaml"),
        "readme": parse_study(yaml.safe_load(STUDY), "readme"),
        "sequential": parse_study({**yaml.safe_load(STUDY), **SEQUENTIAL}, "sequential"),
    }
    assert {name: study.hash() for name, study in studies.items()} == GOLDEN["studies"]
    assert {name: parse_audit(raw, name).hash() for name, raw in AUDITS.items()} == GOLDEN["audits"]


def test_hashes_of_models_and_benchmarks() -> None:
    assert {name: model_hash(str(folder)) for name, folder in list_organisms().items()} == GOLDEN["models"]
    assert {name: load_benchmark(name).hash for name in GOLDEN["benchmarks"]} == GOLDEN["benchmarks"]


@pytest.mark.parametrize("name", GOLDEN["judges"])
def test_identities_of_judges(name: str) -> None:
    kind, _, rubric = name.partition(" ")
    if not rubric:
        assert load_judge(kind).identity == GOLDEN["judges"][name]
        return
    judge = load_judge(JudgeConfig(model="gpt-4o", completer="openai", aligned=rubric), Unreached())
    assert judge.identity == GOLDEN["judges"][name]


@pytest.mark.parametrize(("name", "stopping"), [("fixed", {}), ("sequential", {"sequential": {}, "tolerance": 0.04})])
def test_keys_of_results(name: str, stopping: dict[str, Any], tmp_path: Path) -> None:
    store = open_store(tmp_path)
    broad = PromptSet(load_benchmark("pocket-240").prompts, load_judge("pocket"), 1)
    settings = (EvaluationConfig(benchmark="pocket-240", max_tokens=40), StoppingConfig(**stopping))
    monitor = Monitor(store, Refusing(), broad, None, *settings)
    checkpoints = [Checkpoint("run", "pocket-llama-late", step, f"{step:064}") for step in (0, 24)]
    for checkpoint in checkpoints:
        monitor(checkpoint)
    monitor.confirm(checkpoints[-1], None)
    assert {table: store.keys(table) for table in GOLDEN["keys"][name]} == GOLDEN["keys"][name]


def test_commands_keep_their_options() -> None:
    def walk(command: Any, path: tuple[str, ...]) -> dict[str, set[str]]:
        found = {" ".join(path): {o for p in command.params for o in (*p.opts, *p.secondary_opts)}}
        for name, inner in getattr(command, "commands", {}).items():
            found |= walk(inner, (*path, name))
        return found

    now = walk(typer.main.get_command(app), ("truing",))
    for command, options in GOLDEN["commands"].items():
        assert set(options) <= now.get(command, set()), command
