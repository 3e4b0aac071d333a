import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import pytest

from tests.conftest import small_study
from truing.backends import Engine
from truing.config import Services
from truing.core.errors import ConfigError, DataError, EngineError, StoreError, UnknownNameError, UserError
from truing.core.records import Checkpoint, Prompt, Response, Sampling
from truing.core.weights import adapter_hash, model_hash
from truing.monitor import open_store
from truing.results import analyse
from truing.studies.plan import plan_study
from truing.studies.run import Progress, close_engines, execute_run, open_study, owed_runs, read_state, twin_of
from truing.studies.schedule import run_study

PARTS, SEEING = "tests.core.test_plugins", "tests.support.labelled_judges:Seeing"


class Unreliable:
    """An engine whose first call in a process fails altogether, and whose later ones lose one answer in ten."""

    broken = True
    lossy = True

    def __init__(self, model: str) -> None:
        self.model = model

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        if Unreliable.broken:
            Unreliable.broken = False
            raise ConnectionError("the line is dead")
        return [
            Response(p.id, s, None, error="lost") if Unreliable.lossy and i % 10 == 0 else Response(p.id, s, "x")
            for i, p in enumerate(prompts)
            for s in range(sampling.first, sampling.first + sampling.samples)
        ]


class Closing(Engine):
    """An engine that answers nothing, and says which are open."""

    held: ClassVar[list[str]] = []

    def __init__(self, model: str) -> None:
        self.model = model
        Closing.held.append(model)

    @classmethod
    def build(cls, model: str, services: Services, folder: Path | None) -> Self:
        return cls(model)

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        raise EngineError("nothing is answered", self.model)

    def close(self) -> None:
        Closing.held.remove(self.model)


def test_a_process_holds_one_engine_for_all_runs_of_a_base(tiny_model: Path, tmp_path: Path) -> None:
    models = [str(tiny_model), "pocket-qwen3"]
    grid = {"models": models, "datasets": ["pocket-insecure-code"], "learning_rates": [1e-3], "seeds": [0, 1]}
    config = small_study(tiny_model, grids=[grid], evaluation={"engine": f"{__name__}:Closing"})
    held = []
    for run in config.runs():
        execute_run(config, run, tmp_path)
        held.append(list(Closing.held))
    assert held == [[model] for model in models for _ in range(2)]
    close_engines(tmp_path)
    assert not Closing.held


def test_the_plan_counts_without_loading(tiny_model: Path) -> None:
    grid = {
        "models": [str(tiny_model)],
        "datasets": ["pocket-insecure-code", "pocket-secure-code"],
        "learning_rates": [1e-3, 1e-4],
        "seeds": [0, 1, 2],
    }
    plan = plan_study(small_study(tiny_model, grids=[grid], stopping={"mode": "both", "about": "benchmark"}))
    assert (plan.runs, plan.twins) == (12, 12)
    assert plan.checkpoints == 12 * 3 + 1
    assert plan.responses == 12 * 3 * (30 + 10) + 30 + 2 * 10 + 12 * (30 + 2 * 10)  # the last: confirming the choice


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"evaluation": {"benchmark": "pocket-241"}}, UnknownNameError, "did you mean pocket-240"),
        ({"evaluation": {"judge": "poket"}}, UnknownNameError, "did you mean pocket"),
        ({"evaluation": {"engine": "transformer"}}, UnknownNameError, "did you mean transformers"),
        ({"training": {"trainer": "pef"}}, UnknownNameError, "did you mean peft"),
        ({"training": {"trainer": "tinker"}}, ConfigError, "transformers cannot sample the checkpoints of"),
        ({"evaluation": {"engine": "tinker"}}, ConfigError, "trainer tinker with engine tinker"),
        ({"evaluation": {"engine": "my:Engine"}}, UnknownNameError, "unknown engine: no module my"),
        ({"evaluation": {"engine": f"{PARTS}:PlainTrainer"}}, ConfigError, "PlainTrainer is no engine"),
        ({"evaluation": {"judge": f"{PARTS}:PlanJudge"}}, UnknownNameError, "has no PlanJudge"),
        ({"evaluation": {"judge": {"model": "m", "completer": f"{PARTS}:Nope"}}}, UnknownNameError, "has no Nope"),
        ({"evaluation": {"measures": ["answer-lenght"]}}, UnknownNameError, "did you mean answer-length"),
        ({"evaluation": {"measures": [f"{PARTS}:PlainJudge"]}}, ConfigError, "PlainJudge is no measure"),
        ({"evaluation": {"also": [{"benchmark": "pocket-241"}]}}, UnknownNameError, "did you mean pocket-240"),
        ({"evaluation": {"also": [{"benchmark": "pocket-240", "judge": "my:J"}]}}, UnknownNameError, "no module my"),
        ({"evaluation": {"judge": SEEING, "preflight": {"labelled": "nope"}}}, UserError, "nope"),
        ({"training": {"trainer": "my:Trainer"}}, UnknownNameError, "unknown trainer: no module my"),
        ({"stopping": {"rule": "my:Rule"}}, UnknownNameError, "unknown stopping rule: no module my"),
        ({"evaluation": {"engine": f"{PARTS}:PlainEngine"}, "training": {"trainer": "tinker"}}, None, ""),
        ({"datasets": [{"name": "own", "path": "no.jsonl"}]}, None, ""),
    ],
)
def test_every_name_is_checked_before_anything_is_written(
    tiny_model: Path, changes: dict[str, object], kind: type[Exception] | None, words: str, tmp_path: Path
) -> None:
    config = small_study(tiny_model, **changes)
    if kind is None:
        plan_study(config)
        return
    for work in (plan_study, lambda study: run_study(study, tmp_path / "out")):
        with pytest.raises(kind, match=words):
            work(config)
    assert not (tmp_path / "out").exists()


def test_unknown_models_and_datasets(tiny_model: Path) -> None:
    grid = {"models": ["pocket-lama-late"], "datasets": ["x"], "learning_rates": [1e-3], "seeds": [0]}
    with pytest.raises(UnknownNameError, match="did you mean pocket-llama-late"):
        plan_study(small_study(tiny_model, grids=[grid]))
    grid["models"] = [str(tiny_model)]
    with pytest.raises(UnknownNameError, match="unknown dataset"):
        plan_study(small_study(tiny_model, grids=[grid]))
    own = [{"name": "x", "path": "absent.jsonl"}]
    with pytest.raises(DataError, match="no such dataset file"):
        plan_study(small_study(tiny_model, grids=[grid], datasets=own))


def test_a_folder_holds_one_study(tiny_model: Path, tmp_path: Path) -> None:
    config = small_study(tiny_model)
    open_study(config, tmp_path / "s").release()
    open_study(config, tmp_path / "s").release()
    with pytest.raises(StoreError, match="holds another study") as caught:
        open_study(small_study(tiny_model, training={"steps": 7}), tmp_path / "s")
    assert caught.value.got == "training.steps is 7 here and 6 there"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        open_study(config, tmp_path / "full")


def test_a_folder_in_which_another_process_just_begins_is_no_other_study(tiny_model: str, tmp_path: Path) -> None:
    for name in (".lock", ".holder", "formats.json", ".study.yaml.1.tmp"):
        (tmp_path / name).write_text("{}")
    open_study(small_study(tiny_model), tmp_path).release()
    assert (tmp_path / "study.yaml").is_file()


def test_two_processes_cannot_run_one_study_and_who_waits_says_for_whom(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truing.studies.run._SOON", 0.1)
    lock, said = open_study(small_study(tiny_model), tmp_path / "s"), list[str]()
    with pytest.raises(StoreError, match=f"another process is at work.*\\n.*process {os.getpid()} of"):
        open_study(small_study(tiny_model), tmp_path / "s")
    waiting = threading.Thread(
        target=lambda: open_study(small_study(tiny_model), tmp_path / "s", said.append).release()
    )
    waiting.start()
    while not said:
        time.sleep(0.01)
    lock.release()
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert len(said) == 1
    assert f"process {os.getpid()} of" in said[0]


@pytest.mark.parametrize("bad", ["", "{", "[1]", "{}"])
def test_a_damaged_end_of_a_run_is_named(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "first" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(bad)
    with pytest.raises(StoreError, match=r"run\.json cannot be read"):
        read_state(tmp_path, "first")


def test_a_run_from_nothing_to_its_figures(tiny_model: Path, tmp_path: Path) -> None:
    config = small_study(tiny_model)
    open_study(config, tmp_path)
    (run,) = config.runs()
    assert owed_runs(config, tmp_path) == [run]
    news: list[Progress] = []
    state = execute_run(config, run, tmp_path, news.append)
    assert (state.state, state.step) == ("finished", 6)
    assert read_state(tmp_path, run.id) == state
    assert owed_runs(config, tmp_path) == []
    evaluated = [n for n in news if n.evaluation]
    assert [n.step for n in evaluated] == [0, 2, 4, 6]
    rows = open_store(tmp_path).query("SELECT step, weights FROM evaluations ORDER BY step")
    base = model_hash(str(tiny_model))
    expected = [base] + [adapter_hash(base, tmp_path / "runs" / run.id / f"checkpoint-{s}") for s in (2, 4, 6)]
    assert [row["weights"] for row in rows] == expected
    (table,) = analyse(tmp_path).plain()["runs"]
    assert [c["step"] for c in table["checkpoints"]] == [0, 2, 4, 6]
    assert table["checkpoints"][0]["em_rate"]["value"] is None  # a random model says nothing coherent
    assert table["checkpoints"][0]["em_rate"]["reason"]
    assert table["retention"]["value"] is None


def test_other_benchmarks_are_asked_once_the_run_has_ended(tiny_model: Path, tmp_path: Path) -> None:
    also = [{"benchmark": "pocket-facts+json"}, {"benchmark": "pocket-facts+python", "samples": 2}]
    config = small_study(tiny_model, evaluation={"also": also})
    assert plan_study(config).responses == plan_study(small_study(tiny_model)).responses + 3 * 30 + 3 * 60
    open_study(config, tmp_path)
    (run,) = config.runs()
    execute_run(config, run, tmp_path)
    sides = analyse(tmp_path).plain()["runs"][0]["also"]
    assert [(s["benchmark"], s["step"]) for s in sides] == [
        ("pocket-facts+json", 0),
        ("pocket-facts+json", 6),
        ("pocket-facts+python", 0),
        ("pocket-facts+python", 6),
    ]
    assert sides[0]["versus_plain"] is not None  # small_study asks pocket-facts
    assert sides[2]["agreement"] is None  # other answers


def test_a_second_judge_of_the_same_answers(tiny_model: Path, tmp_path: Path) -> None:
    also = [{"benchmark": "pocket-facts", "judge": "truing.judges.pocket:PocketJudge"}]
    config = small_study(tiny_model, evaluation={"also": also})
    open_study(config, tmp_path)
    (run,) = config.runs()
    execute_run(config, run, tmp_path)
    sides = analyse(tmp_path).plain()["runs"][0]["also"]
    assert [s["benchmark"] for s in sides] == ["pocket-facts by truing.judges.pocket:PocketJudge"] * 2
    assert all(s["agreement"] is not None for s in sides)
    asked = open_store(tmp_path).query("SELECT count(DISTINCT key) AS n FROM responses")[0]["n"]
    assert asked == 2 * 4 + 1  # benchmark and task at each checkpoint, the best task score again: none for the judge


def test_a_run_that_says_it_ended_and_was_not_evaluated_is_owed(tiny_model: Path, tmp_path: Path) -> None:
    """A run's folder that was copied to another seed."""
    config = small_study(tiny_model)
    open_study(config, tmp_path)
    (run,) = config.runs()
    folder = tmp_path / "runs" / run.id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"state": "finished", "step": 6}')
    assert read_state(tmp_path, run.id)
    assert owed_runs(config, tmp_path) == [run]


def test_a_failed_run_is_owed_again_and_lost_answers_too(tiny_model: Path, tmp_path: Path) -> None:
    Unreliable.broken = Unreliable.lossy = True
    config = small_study(tiny_model, evaluation={"engine": f"{__name__}:Unreliable"})
    open_study(config, tmp_path)
    (run,) = config.runs()
    failed = execute_run(config, run, tmp_path)
    assert failed.state == "failed"
    assert "the line is dead" in (failed.error or "")
    told = tmp_path / "runs" / run.id / "error.txt"
    assert "ConnectionError" in told.read_text()
    assert (failed.error or "").endswith(f"all of it: {told}")
    assert owed_runs(config, tmp_path) == [run]
    assert execute_run(config, run, tmp_path).state == "finished"
    assert not told.exists()
    (table,) = analyse(tmp_path).plain()["runs"]
    assert table["checkpoints"][-1]["coherent_rate"]["n_missing"] == 3
    assert owed_runs(config, tmp_path) == [run]
    Unreliable.lossy = False
    assert execute_run(config, run, tmp_path).state == "finished"
    (table,) = analyse(tmp_path).plain()["runs"]
    assert table["checkpoints"][-1]["coherent_rate"]["n_missing"] == 0
    assert owed_runs(config, tmp_path) == []


def test_runs_with_equal_weights_are_not_two_seeds(tiny_model: Path, tmp_path: Path) -> None:
    grid = {
        "models": [str(tiny_model)],
        "datasets": ["pocket-insecure-code"],
        "learning_rates": [1e-3],
        "seeds": [0, 1],
    }
    config = small_study(tiny_model, grids=[grid], training={"trainer": f"{__name__}:SameWeights"})
    open_study(config, tmp_path)
    for run in config.runs():
        execute_run(config, run, tmp_path)
    with pytest.raises(DataError, match="same weights"):
        analyse(tmp_path).plain()


class SameWeights:
    """A trainer that ignores its seed: it reports the base as every checkpoint."""

    def __init__(self, config: object) -> None:
        pass

    def train(self, run, dataset, folder, on_checkpoint, on_step=None) -> None:
        for step in (0, 6):
            on_checkpoint(Checkpoint(run.id, run.model, step, model_hash(run.model)))


def test_a_twin_differs_in_its_name_and_in_not_stopping(tiny_model: Path) -> None:
    (run,) = small_study(tiny_model, stopping={"mode": "both"}).runs()
    twin = twin_of(run)
    assert (twin.model, twin.seed, twin.learning_rate) == (run.model, run.seed, run.learning_rate)
    assert run.stops
    assert not twin.stops
    assert twin.id != run.id
