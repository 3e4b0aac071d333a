"""What the checkpoints of a study or an audit are measured with: prompt sets with their judges, and monitors over them.

A judge behind an endpoint shares the folder's journal, pace and caps with everything else that calls it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from truing.backends import Engine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset
from truing.config import AuditConfig, JudgeConfig, StoppingConfig, StudyConfig
from truing.core.records import Checkpoint, Evaluation
from truing.judges import Judge
from truing.monitor import Monitor, PromptSet, reach_judge
from truing.stats.choice import choose_checkpoint

__all__ = ["Instruments", "chosen_and_best"]


@dataclass(frozen=True)
class Instruments:
    """The prompt sets of a study or an audit whose folder is `folder`."""

    config: StudyConfig | AuditConfig
    folder: Path

    def monitor(self, engine: Engine, dataset: Dataset | None = None) -> Monitor:
        """A monitor of one run.

        Args:
            engine: Samples the answers.
            dataset: Whose held-out prompts measure the task; None: no task is measured.
        """
        return Monitor.from_config(self.config, self.folder, engine, dataset)

    def ask_also(self, monitor: Monitor, checkpoints: Iterable[Checkpoint | None]) -> None:
        """Ask checkpoints of one run the other benchmarks; one that is named twice is asked once, None is nobody."""
        asked = {checkpoint.step: checkpoint for checkpoint in checkpoints if checkpoint is not None}
        evaluation = self.config.evaluation
        for side in evaluation.also:
            prompt_set = self._prompt_set(side.benchmark, side.judge or evaluation.judge, side.samples)
            for checkpoint in asked.values():
                monitor.ask_also(checkpoint, side.label, prompt_set)

    def _prompt_set(self, benchmark: str, judge: str | JudgeConfig, samples: int) -> PromptSet:
        return PromptSet(load_benchmark(benchmark).prompts, self.judge(judge), samples)

    def judge(self, judge: str | JudgeConfig) -> Judge:
        """A judge; one behind an endpoint is reached as the study says."""
        return reach_judge(judge, self.config.endpoint, self.folder)


def chosen_and_best(
    course: Sequence[Evaluation], stopping: StoppingConfig
) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The checkpoint that a run keeps, and the one with the best task score; None where there is none."""
    trained = [e for e in course if e.checkpoint.step > 0]
    steps, scores = [e.checkpoint.step for e in trained], [e.task_score.value for e in trained]
    chosen = choose_checkpoint(steps, [e.em_rate for e in trained], scores, stopping.tolerance, stopping.floor)
    known = [e for e in trained if not math.isnan(e.task_score.value)]
    best = max(known, key=lambda e: e.task_score.value).checkpoint if known else None
    return None if chosen is None else trained[steps.index(chosen)].checkpoint, best
