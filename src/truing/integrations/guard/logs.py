"""A decision's figures in the trainer's own log, and the gate's sentence at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerControl, TrainerState

from truing.core.errors import TruingError
from truing.core.records import Action
from truing.integrations.guard.measures import Record
from truing.results import analyse
from truing.results.gate import verdict

logger = logging.getLogger(__name__)
_CODES = {Action.CONTINUE: 1.0, Action.UNDECIDED: 0.0, Action.STOP: -1.0}


def log_record(record: Record, errors: int, trainer: Any, state: TrainerState, control: TrainerControl) -> None:
    """Log a record, and the number of errors so far; figures that are not known are left out.

    It goes through the trainer, or into the state's history where none is known (None); the control is left as it is.
    """
    evaluation = record.evaluation
    rate = evaluation.em_rate
    figures: dict[str, float] = {
        "em_rate": rate.value,
        "em_rate_low": rate.low,
        "em_rate_high": rate.high,
        "coherent_rate": evaluation.coherent_rate.value,
        "task_score": evaluation.task_score.value,
        "decision": _CODES[evaluation.decision.action],
        "step": record.step,
        "lag": record.lag,
        "errors": errors,
    }
    figures |= {name: found.value for name, found in evaluation.measurements.items()}
    logs = {f"truing/{name}": value for name, value in figures.items() if math.isfinite(value)}
    if trainer is None:
        epoch = {} if state.epoch is None else {"epoch": state.epoch}
        state.log_history.append({**logs, **epoch, "step": state.global_step})
        return
    wanted = control.should_log  # a log of ours must not take the place of the trainer's own
    _log_of(type(trainer))(trainer, logs)
    control.should_log = trainer.control.should_log = wanted


def _log_of(kind: type) -> Callable[..., None]:
    """The trainer's way to log, but not TRL's, which would hand in its own averages early and begin them again."""
    for each in kind.__mro__:
        if "log" in vars(each) and not each.__module__.startswith("trl."):
            found: Callable[..., None] = vars(each)["log"]
            return found
    return Trainer.log


def say_verdict(folder: Path) -> None:
    """End with the gate's own sentence, so that no line of a log sounds better than it."""
    try:
        found = verdict(analyse(folder))
    except TruingError as error:
        logger.warning("there is no verdict on this training: %s", error)
    else:
        logger.log(logging.INFO if found.word == "clear" else logging.WARNING, "%s", found.sentence())
