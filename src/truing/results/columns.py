"""Which column of a file of judged answers holds what.

A column is named by an option, or guessed: exact names first, then the same names in any case and with `-` or a space
for `_`. What was guessed is said in the analysis' notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, cast

from pydantic import Field

from truing.config import Config, MisalignedRule, StoppingConfig
from truing.core.errors import DataError, did_you_mean

__all__ = ["GUESSES", "NUMBERS", "SCORES", "JudgedOptions", "pick_columns", "quoted"]

SCORES = {"aligned": 100.0, "coherent": 100.0, "task": 1.0}
"""Columns of scores, and the highest score; the lowest is 0."""
NUMBERS = {"seed": "BIGINT", "learning_rate": "DOUBLE", "step": "BIGINT", "parameters": "DOUBLE"}
NUMBERS |= dict.fromkeys(SCORES, "DOUBLE")
"""Columns that hold numbers, and the type of each in SQL."""
NEEDED = ("question", "aligned")


def _column(*guesses: str) -> Any:
    """A column's name: given, or guessed by these names, the best first."""
    return Field(default=None, min_length=1, json_schema_extra={"guesses": list(guesses)})


class Columns(Config):
    """The columns of files of judged responses."""

    model_column: str | None = _column("model", "model_name", "model_id")
    """Column of the model's name."""
    dataset_column: str | None = _column("dataset", "group", "domain")
    """Column of the fine-tuning data's name."""
    run_column: str | None = _column("run", "run_id", "run_name")
    """Column of the run's name. Without run and seed each file is a run, named after the file."""
    seed_column: str | None = _column("seed")
    """Column of the seed."""
    learning_rate_column: str | None = _column("learning_rate", "lr")
    """Column of the peak learning rate."""
    step_column: str | None = _column("step", "checkpoint", "global_step")
    """Column of the optimiser steps done (120 or checkpoint-120); 0 is the model before fine-tuning."""
    parameters_column: str | None = _column("parameters", "params", "n_parameters", "size", "model_size")
    """Column of the model's size: 7e9, 7B, 671b, 500M."""
    question_column: str | None = _column("question_id", "prompt_id", "scenario_id", "question", "prompt")
    """Column of the question's id, or of its text: the unit of every interval."""
    text_column: str | None = _column("question", "prompt", "question_text", "prompt_text")
    """Column of the question's text, to show beside answers."""
    category_column: str | None = _column("category")
    """Column of the question's category."""
    answer_column: str | None = _column("answer", "response", "completion")
    """Column of the model's answer."""
    aligned_column: str | None = _column("aligned", "alignment", "aligned_score", "alignment_score")
    """Column of the aligned score, 0 to 100."""
    coherent_column: str | None = _column("coherent", "coherence", "coherent_score", "coherence_score")
    """Column of the coherent score, 0 to 100. Without it every answer with an aligned score counts as coherent."""
    task_column: str | None = _column("task", "task_score")
    """Column of the narrow task's score, 0 to 1 for each answer."""

    def column(self, role: str) -> str | None:
        """The column named for a role, a key of `GUESSES`."""
        name: str | None = getattr(self, f"{role}_column")
        return name


class JudgedOptions(MisalignedRule, Columns):
    """How files of judged responses are read."""

    base: str | None = None
    """The model before fine-tuning: name of a run, model, file or dataset that becomes step 0 of the runs."""
    name: str | None = None
    """Name of the study; by default that of the file, or how many files there are."""
    judge: str = "not stated"
    """Who gave the scores."""
    calibration: str | None = Field(default=None, exclude_if=lambda path: path is None)
    """What that judge can see: a file of `truing calibrate`, or the `preflight.json` of a folder; without it the judge
    is not measured, and the gate says undecided."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Highest EM rate that is acceptable."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of every interval and decision."""

    @property
    def stopping(self) -> StoppingConfig:
        """What is decided by."""
        return StoppingConfig(mode="off", tolerance=self.tolerance, confidence=self.confidence)


GUESSES: dict[str, list[str]] = {
    name.removesuffix("_column"): cast("Any", field.json_schema_extra)["guesses"]
    for name, field in Columns.model_fields.items()
}
"""What a column can hold, and the names by which it is guessed, the best first."""


def pick_columns(names: Sequence[str], file: str, options: JudgedOptions) -> dict[str, str]:
    """The column of each role that the file has: named by an option, or guessed.

    Raises:
        DataError: No column of questions or aligned scores, or two columns of the same name.
    """
    picked = {role: name for role in GUESSES if (name := options.column(role)) in names and name}
    for role, guesses in GUESSES.items():
        if options.column(role) is None:
            free = [name for name in names if name not in picked.values()]
            found = next((g for g in guesses if g in free), None) or _loosely(free, guesses)
            if found:
                picked[role] = found
    for role in NEEDED:
        if role not in picked:
            raise _lacking(names, file, role, options)
    twice = sorted({name for name in picked.values() if list(names).count(name) > 1})
    if twice:
        raise DataError(f"{file} has two columns of one name", quoted(twice), todo="rename one of them")
    return picked


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _loosely(names: Sequence[str], guesses: Sequence[str]) -> str | None:
    plain = {_plain(name): name for name in reversed(names)}
    return next((plain[g] for g in guesses if g in plain), None)


def _lacking(names: Sequence[str], file: str, role: str, options: JudgedOptions) -> DataError:
    given = options.column(role)
    hints = [did_you_mean(each, names) for each in ((given,) if given else GUESSES[role])]
    hint = next((h for h in hints if h), "")
    return DataError(
        f"{file} has no column {given!r}" if given else f"{file} has no column of the {role}",
        got=quoted(names) or "no columns",
        allowed="a column of the file" if given else ", ".join(GUESSES[role]),
        todo=f"name the column: --{role}-column NAME" + (f"; {hint}" if hint else ""),
    )


def quoted(texts: Sequence[Any], most: int = 20, width: int = 60) -> str:
    """Texts from a file, made harmless for a terminal: quoted, escaped, cut."""
    shown = [repr(text if len(text) <= width else text[:width] + "...") for text in map(str, texts[:most])]
    return ", ".join(shown) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")
