"""What the checkpoints of a study or an audit are measured with: prompt sets with their judges, and monitors over them.

A judge behind an endpoint shares the folder's journal, pace and caps with everything else that calls it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from truing.backends import Engine, load_completer
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset
from truing.config import AuditConfig, EndpointConfig, JudgeConfig, StoppingConfig, StudyConfig
from truing.core.records import Checkpoint, Evaluation
from truing.judges import Judge, load_judge
from truing.monitor import Monitor, PromptSet, Store
from truing.stats import choose_checkpoint

__all__ = ["Instruments", "chosen_and_best", "reach_judge"]


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
        evaluation = self.config.evaluation
        task = None if dataset is None else self._task(dataset)
        broad = self._prompt_set(evaluation.benchmark, evaluation.judge, evaluation.samples)
        return Monitor(Store(self.folder / "store"), engine, broad, task, evaluation, self.config.stopping)

    def ask_also(self, monitor: Monitor, checkpoints: Iterable[Checkpoint | None]) -> None:
        """Ask checkpoints of one run the other benchmarks; one that is named twice is asked once, None is nobody."""
        asked = {checkpoint.step: checkpoint for checkpoint in checkpoints if checkpoint is not None}
        evaluation = self.config.evaluation
        for side in evaluation.also:
            prompt_set = self._prompt_set(side.benchmark, side.judge or evaluation.judge, side.samples)
            for checkpoint in asked.values():
                monitor.ask_also(checkpoint, side.label, prompt_set)

    def _task(self, dataset: Dataset) -> PromptSet | None:
        if not dataset.task_judge:
            return None
        evaluation = self.config.evaluation
        prompts = dataset.task_prompts(evaluation.task_prompts)
        return PromptSet(prompts, self.judge(dataset.task_judge), evaluation.task_samples, dataset.teaches)

    def _prompt_set(self, benchmark: str, judge: str | JudgeConfig, samples: int) -> PromptSet:
        return PromptSet(load_benchmark(benchmark).prompts, self.judge(judge), samples)

    def judge(self, judge: str | JudgeConfig) -> Judge:
        """A judge; one behind an endpoint is reached as the study says."""
        return reach_judge(judge, self.config.endpoint, self.folder)


def reach_judge(judge: str | JudgeConfig, endpoint: EndpointConfig, folder: Path | None = None) -> Judge:
    """A judge; one behind an endpoint is reached there.

    Args:
        judge: Which one.
        endpoint: How endpoints are called.
        folder: Where the journal of finished calls lies; None keeps it in memory.
    """
    if isinstance(judge, str):
        return load_judge(judge)
    return load_judge(judge, load_completer(judge.completer, endpoint, folder))


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
