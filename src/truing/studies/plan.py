"""What a study will do: its names checked and its work counted, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from truing.backends import BACKENDS, check_completer, find_backend
from truing.catalog.models import resolve_model
from truing.config import StudyConfig
from truing.core.errors import ConfigError
from truing.judges import calls_per_answer, check_judge
from truing.studies.work import Work, plan_work

__all__ = ["Plan", "plan_study"]


@dataclass(frozen=True)
class Plan:
    """What a study will do at most; stopping makes it less, twins are counted apart."""

    runs: int
    checkpoints: int
    """Checkpoints of all runs, and the model before fine-tuning once per model."""
    responses: int
    judge_calls: int
    twins: int
    """Runs that mode `both` may add."""
    work: Work
    """The answers and the training that make up these counts."""


def plan_study(config: StudyConfig, lenient: bool = False) -> Plan:
    """Check every name of a study and count its work, without loading a model.

    Args:
        config: The study.
        lenient: Count what can be counted where a dataset's file is not there, and name it in `work.missing`.

    Raises:
        UnknownNameError: A model, dataset, benchmark, engine, judge or trainer that does not exist.
        DataError: A dataset or benchmark file that is wrong.
        ConfigError: A built-in engine that cannot sample what a built-in trainer makes, or a trainer
            that cannot train for so many steps.
    """
    runs = config.runs()
    for pair in sorted({(config.trainer_of(run), config.engine_of(run)) for run in runs}):
        _check_pair(*pair)
    models = {run.model for run in runs}
    for model in models:
        resolve_model(model)
    for judge in (config.evaluation.judge, *(side.judge or config.evaluation.judge for side in config.evaluation.also)):
        check_judge(judge)
        check_completer(judge)
    work = plan_work(config, lenient)
    for judge in {asked.judge for asked in work.asked}:
        check_judge(judge)
        check_completer(judge)
    responses = sum(asked.responses for asked in work.asked)
    calls = sum(asked.responses * calls_per_answer(asked.judge) for asked in work.asked)
    checkpoints = sum(trained.runs * len(trained.steps) for trained in work.trained) + len(models)
    twins = len(runs) if config.stopping.mode == "both" else 0
    return Plan(len(runs), checkpoints, responses, calls, twins, work)


def _check_pair(trainer: str, engine: str) -> None:
    asked, made = find_backend("engine", engine), find_backend("trainer", trainer)
    own = next((row for row in (made, asked) if row.own_checkpoints), None)
    if own is not None and made is not asked and made in BACKENDS and asked in BACKENDS:
        assert own.trainer is not None
        assert own.engine is not None
        raise ConfigError(
            f"the engine {engine} cannot sample the checkpoints of the trainer {trainer}",
            f"trainer {trainer}, engine {engine}",
            f"trainer {own.trainer[0]} with engine {own.engine[0]}",
            f"set training.trainer to {own.trainer[0]} and evaluation.engine to {own.engine[0]}, or those of the grid",
        )
