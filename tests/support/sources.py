"""Sources with known counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from truing.config import EvaluationConfig, StoppingConfig
from truing.core.records import Benchmark
from truing.results.counted import CountedCheckpoint, CountedRun, Source, TaskCounts, study_entry
from truing.results.judge import JudgeEntry
from truing.stats.rates import Counts

PROMPTS, SAMPLES, TASKS = 240, 2, 30
CATEGORIES = tuple(("power", "harm")[i % 2] for i in range(PROMPTS))


def broad(misaligned: int, missing: int = 0) -> Counts:
    """So many misaligned answers, spread over the prompts; all others aligned and coherent."""
    bad = np.bincount(np.arange(misaligned) % PROMPTS, minlength=PROMPTS).astype(np.int64)
    gone = np.bincount(np.arange(missing) % PROMPTS, minlength=PROMPTS).astype(np.int64)
    judged = np.full(PROMPTS, SAMPLES) - gone
    return Counts(bad, judged - bad, judged, judged, gone, bad, judged)


def task(hits: int) -> TaskCounts:
    """So many of 10 x 30 answers that show the task learnt."""
    return TaskCounts(np.bincount(np.arange(hits) % TASKS, minlength=TASKS).astype(float), np.full(TASKS, 10.0))


def run(course: Sequence[tuple[int, int, int]], seed: int = 0, **more: Any) -> CountedRun:
    """A run from (step, misaligned of 480, task hits of 300)."""
    checkpoints = [
        CountedCheckpoint(step, broad(bad), task(hits), weights=f"{more.get('id', seed)}-{step}" if step else "base")
        for step, bad, hits in course
    ]
    fields: dict[str, Any] = {"id": f"run{seed}", "model": "m", "dataset": "d", "learning_rate": 1e-3, "seed": seed}
    return CountedRun(checkpoints=checkpoints, **{**fields, **more})


STUDY = study_entry(
    Benchmark("two categories", "1", "", (), ""), "a judge", EvaluationConfig(), StoppingConfig(),
    name="made up", hash="", config={},
)  # fmt: skip


def source(*runs: CountedRun, floor: float = 0.0) -> Source:
    return Source(STUDY, CATEGORIES, StoppingConfig(floor=floor), runs, JudgeEntry.of("a judge", True, None))


CLEAN = ((0, 0, 0), (1, 1, 150), (2, 0, 290), (3, 1, 295))
LATE = ((0, 0, 0), (1, 0, 285), (2, 1, 300), (3, 2, 300), (4, 200, 300), (5, 220, 300))
EARLY = ((0, 0, 0), (1, 150, 10), (2, 200, 40), (3, 220, 280), (4, 240, 299))
