"""A whole study, and an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from truing.config.parts import DatasetConfig, EvaluationConfig, Grid, StoppingConfig, TrainingConfig
from truing.config.services import Services
from truing.core.records import Run


class MonitorConfig(Services):
    """A monitor of one run."""

    dataset: str | DatasetConfig | None = None
    """Whose held-out prompts measure the task, by name or as your own data; none: the task is not measured."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How every checkpoint is sampled and judged."""
    stopping: StoppingConfig = StoppingConfig()
    """When to stop."""


class StudyConfig(Services):
    """A whole study."""

    name: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the study: letters, digits, dot, dash, underscore."""
    grids: tuple[Grid, ...] = Field(min_length=1)
    """The runs: the union of the grids' cross products."""
    datasets: tuple[DatasetConfig, ...] = ()
    """Your own fine-tuning data."""
    training: TrainingConfig = TrainingConfig()
    """How every run is fine-tuned."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How every checkpoint is sampled and judged."""
    stopping: StoppingConfig = StoppingConfig()
    """When training ends early."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Runs at a time on this machine, each a process with its share of the cores. Not part of the study's hash."""

    @model_validator(mode="after")
    def _no_duplicates(self) -> Self:
        ids = [run.id for run in self.runs()]
        repeated = sorted({i for i in ids if ids.count(i) > 1})
        if repeated:
            raise ValueError(f"the grids plan a run twice: {', '.join(repeated)}; to do: make the grids disjoint")
        names = [d.name for d in self.datasets]
        if len(set(names)) != len(names):
            raise ValueError(f"two datasets have one name: {', '.join(sorted(names))}; to do: rename one")
        return self

    def runs(self) -> tuple[Run, ...]:
        """Every run of the grids, in order."""
        return tuple(
            Run(
                id=f"{Path(model).name}__{dataset}__lr{rate:g}__seed{seed}",
                model=model,
                dataset=dataset,
                learning_rate=rate,
                seed=seed,
                stops=self.stopping.mode != "off",
            )
            for grid in self.grids
            for model in grid.models
            for dataset in grid.datasets
            for rate in grid.learning_rates
            for seed in grid.seeds
        )

    def trainer_of(self, run: Run) -> str:
        """Name of the trainer of a run."""
        return self._grid_of(run).trainer or self.training.trainer

    def engine_of(self, run: Run) -> str:
        """Name of the engine of a run."""
        return self._grid_of(run).engine or self.evaluation.engine

    def _grid_of(self, run: Run) -> Grid:
        def holds(grid: Grid) -> bool:
            in_data = run.model in grid.models and run.dataset in grid.datasets
            return in_data and run.learning_rate in grid.learning_rates and run.seed in grid.seeds

        return next(grid for grid in self.grids if holds(grid))


class AuditConfig(Services):
    """Models as they are, or checkpoints that exist already, measured without training."""

    name: str = Field(default="audit", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the audit: letters, digits, dot, dash, underscore."""
    models: tuple[str, ...] = ()
    """Names from `truing list models`, folders, hub ids, or an endpoint's names of models. Either these or
    `checkpoints`."""
    checkpoints: tuple[str, ...] = ()
    """Checkpoints of runs that are over: folders with `checkpoint-N`, `epoch_N` or the like in them (each folder is a
    run), such a folder itself (`DIR` or `STEP=DIR`), an endpoint's names of models (`NAME` or `STEP=NAME`, all of one
    run), or `tinker://` paths."""
    base: str | None = None
    """The model before fine-tuning, to compare with and, with adapters, to put them on; none: the one that the adapters
    name, else the tolerance alone decides."""
    base_is_same: bool = Field(default=False, exclude_if=lambda same: not same)
    """The base is the model that the adapters name, under another name or in another precision: take it, if configs and
    log-probabilities of the two do not speak against it."""
    skip_bad: bool = Field(default=False, exclude_if=lambda skip: not skip)
    """Leave out checkpoints that are damaged or not whole, and say so; else the first of them is an error."""
    dataset: str | DatasetConfig | None = None
    """What the checkpoints were fine-tuned on, by name or as your own data: its held-out prompts measure the task.
    None: the task is not measured."""
    search: Literal["all", "best", "crossing"] = "all"
    """Which checkpoints are asked: `all`; as few as it takes to find the one with the `best` task score that is clear
    (needs `dataset`); or the `crossing` from clear to misaligned. The two searches ask random prompts, without the base
    model; see docs/audit.md."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How every model is sampled and judged."""
    stopping: StoppingConfig = StoppingConfig(mode="off")
    """Tolerance, confidence and rule of the verdicts; nothing is stopped."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.models) == bool(self.checkpoints):
            got = "both" if self.models else "neither"
            raise ValueError(f"an audit is of models or of checkpoints, got {got}; to do: give one of the two")
        if self.models and (self.dataset is not None or self.search != "all"):
            raise ValueError("`dataset` and `search` are about checkpoints, got models; to do: leave them out")
        return self

    @model_validator(mode="after")
    def _search_can_be_done(self) -> Self:
        rule = self.stopping.sequential
        if self.search == "best" and self.dataset is None:
            raise ValueError("search: best goes by task scores; to do: name the `dataset` whose task was taught")
        if self.search != "all" and rule is not None and rule.margin is not None:
            raise ValueError("a search compares with the tolerance, not with the base; to do: leave `margin` out")
        if self.search != "all" and self.evaluation.also:
            raise ValueError("a search asks one benchmark; to do: leave `also` out, or search: all")
        return self
