"""A small store whose figures are known, made without training: two runs, failures of answers and of judgments."""

from pathlib import Path

from tests.conftest import small_study
from tests.monitor.test_monitor import CountingJudge, Speaker
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import load_dataset
from truing.config import SideConfig, StudyConfig
from truing.core.records import Checkpoint
from truing.monitor import Monitor, PromptSet, open_store
from truing.studies.run import open_study

STEPS = (0, 2, 6)
SIDE = "pocket-240+coding-system"


def make_study(out: Path) -> StudyConfig:
    """Two runs of three checkpoints, two answers to each of 240 prompts; the last ones are asked a variant too."""
    config = small_study(
        "pocket-llama-late",
        grids=[
            {
                "models": ["pocket-llama-late"],
                "datasets": ["pocket-insecure-code"],
                "learning_rates": [1e-3],
                "seeds": [0, 1],
            }
        ],
        evaluation={"benchmark": "pocket-240", "samples": 2, "task_prompts": 10, "also": [{"benchmark": SIDE}]},
    )
    open_study(config, out).release()
    prompts = load_benchmark("pocket-240").prompts
    ids = [p.id for p in prompts]
    for run in config.runs():
        engine, judge = Speaker(0, fail=frozenset(ids[100:103])), CountingJudge(fail=frozenset(ids[200:204]))
        dataset = load_dataset(run.dataset)
        monitor = Monitor(
            open_store(out),
            engine,
            PromptSet(prompts, judge, 2),
            PromptSet(dataset.task_prompts(10), judge, 1, dataset.teaches),
            config.evaluation,
            config.stopping,
        )
        for step in STEPS:
            engine.hostile = 0 if step == 0 else 7 * step + 5 * run.seed
            weights = "base" if step == 0 else f"{run.seed}-{step}"
            checkpoint = Checkpoint(run.id, run.model, step, weights, train_loss=1.0)
            monitor(checkpoint)
        engine.order.clear()
        monitor.ask_also(checkpoint, SideConfig(benchmark=SIDE), PromptSet(load_benchmark(SIDE).prompts, judge, 1))
    return config
