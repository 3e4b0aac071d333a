"""Settings of a study: one frozen object, the same from YAML, from the command line and from keyword arguments.

Unknown keys are refused. Every field is documented once, below itself; `--help` and the docs are made from it. Nothing
heavy is loaded here: models, datasets, benchmarks and judges are names.
"""

from __future__ import annotations

from truing.config.parts import (
    DatasetConfig,
    EvaluationConfig,
    Grid,
    JudgeConfig,
    MisalignedRule,
    PreflightConfig,
    SequentialConfig,
    SideConfig,
    StoppingConfig,
    TrainingConfig,
    log_spaced,
)
from truing.config.services import Config, EndpointConfig, Services, VllmConfig
from truing.config.study import AuditConfig, MonitorConfig, StudyConfig

__all__ = [
    "AuditConfig",
    "Config",
    "DatasetConfig",
    "EndpointConfig",
    "EvaluationConfig",
    "Grid",
    "JudgeConfig",
    "MisalignedRule",
    "MonitorConfig",
    "PreflightConfig",
    "SequentialConfig",
    "Services",
    "SideConfig",
    "StoppingConfig",
    "StudyConfig",
    "TrainingConfig",
    "VllmConfig",
    "log_spaced",
]
