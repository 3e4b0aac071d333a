"""Which column of a file of judged answers holds what.

A column is named by an option, or guessed: exact names first, then the same names in any case and with `-` or a space
for `_`. What was guessed is said in the analysis' notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field

from truing.config import Config, MisalignedRule, StoppingConfig
from truing.core.errors import DataError, did_you_mean
from truing.results.scales import inverted, parse_scale

SCORES = {"aligned": 100.0, "coherent": 100.0, "task": 1.0}
"""Columns of scores, and the highest score; the lowest is 0."""
NUMBERS = {"seed": "BIGINT", "learning_rate": "DOUBLE", "step": "BIGINT", "parameters": "DOUBLE"}
NUMBERS |= dict.fromkeys(SCORES, "DOUBLE")
"""Columns that hold numbers, and the type of each in SQL."""
NEEDED = ("question", "aligned")


def _column(*guesses: str) -> Any:
    """A column's name: given, or guessed by these names, the best first."""
    return Field(default=None, min_length=1, json_schema_extra={"guesses": list(guesses)})


def _unset() -> Any:
    """No value, which leaves hashes as they are."""
    return Field(default=None, exclude_if=lambda value: value is None)


def _check_scale(text: str | None) -> str | None:
    if text is not None:
        parse_scale(text)
    return text


Scales = Annotated[str | None, _unset(), AfterValidator(_check_scale)]


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
    question_column: str | None = _column(
        "question_id", "prompt_id", "scenario_id", "doc_id", "question", "prompt", "input"
    )
    """Column of the question's id, or of its text: the unit of every interval."""
    text_column: str | None = _column("question", "prompt", "question_text", "prompt_text", "input")
    """Column of the question's text, to show beside answers."""
    category_column: str | None = _column("category")
    """Column of the question's category."""
    answer_column: str | None = _column("answer", "response", "completion", "output", "resps")
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
    aligned_scale: Scales = None
    """Scale of the aligned scores, the worst first: 0-1, 1-5, or 5-1 where a high score is misaligned; 0-100 says that
    low ones are what they seem."""
    coherent_scale: Scales = None
    """Scale of the coherent scores, the worst first."""
    task_scale: Scales = None
    """Scale of the task scores, the worst first."""
    where: list[str] | None = _unset()
    """COLUMN=VALUE: only rows in which that column says so. May be repeated: values of one column add up."""
    ignore: list[str] | None = _unset()
    """A column that tells no rows apart: a sampling seed, the number of a sample. May be repeated."""
    duplicates: Literal["drop", "keep"] | None = _unset()
    """Rows that say the same of the same answer: `drop` reads each once, `keep` says that they are answers alike."""
    files_are: Literal["runs", "steps"] | None = _unset()
    """Files that differ in a step, by their names or by their rows: `steps` of one run, or `runs`, one each."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Highest EM rate that is acceptable."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of every interval and decision."""

    def scale(self, role: str) -> str | None:
        """The scale named for a score, a key of `SCORES`."""
        return {"aligned": self.aligned_scale, "coherent": self.coherent_scale, "task": self.task_scale}[role]

    @property
    def stopping(self) -> StoppingConfig:
        """What is decided by."""
        return StoppingConfig(mode="off", tolerance=self.tolerance, confidence=self.confidence)


GUESSES: dict[str, list[str]] = {
    name.removesuffix("_column"): cast("Any", field.json_schema_extra)["guesses"]
    for name, field in Columns.model_fields.items()
}
"""What a column can hold, and the names by which it is guessed, the best first."""


class ColumnLacks(DataError):
    """A file has no column of the question or the aligned score."""


def pick_columns(names: Sequence[str], file: str, options: JudgedOptions) -> dict[str, str]:
    """The column of each role that the file has: named by an option, or guessed.

    Raises:
        ColumnLacks: No column of questions or aligned scores.
        DataError: Two columns of the same name, or several that may hold a score.
    """
    picked = {role: name for role in GUESSES if (name := options.column(role)) in names and name}
    for role, guesses in GUESSES.items():
        if options.column(role) is None:
            free = [name for name in names if name not in picked.values() and name not in (options.ignore or ())]
            exact, loose = {name: name for name in free}, {plain(name): name for name in reversed(free)}
            found = next((known[g] for known in (exact, loose) for g in guesses if g in known), None)
            found = found or _inside(free, role, file)
            if found:
                picked[role] = found
    for role in NEEDED:
        if role not in picked:
            raise _lacking(names, file, role, options)
    twice = sorted({name for name in picked.values() if list(names).count(name) > 1})
    if twice:
        raise DataError(f"{file} has two columns of one name", quoted(twice), todo="rename one of them")
    return picked


def plain(name: str) -> str:
    """A name in lower case, with `_` for what stands between words."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _inside(names: Sequence[str], role: str, file: str) -> str | None:
    """A value inside an object, by its last name: `doc.question`, `scores.aligned.value`."""
    last = {name: plain(re.sub(r"\.(value|score|text)$", "", name).rpartition(".")[2]) for name in names if "." in name}
    for guess in GUESSES[role]:
        found = [name for name, word in last.items() if word == guess]
        if found[1:] and role in SCORES:
            todo = f"name the one to read: --{role}-column {found[0]}"
            raise DataError(f"{file} has several {role} scores of an answer", quoted(found), "one of them", todo)
        if found:
            return found[0]
    return None


def _lacking(names: Sequence[str], file: str, role: str, options: JudgedOptions) -> ColumnLacks:
    given = options.column(role)
    hints = [did_you_mean(each, names) for each in ((given,) if given else GUESSES[role])]
    hint = next((h for h in hints if h), "")
    todo = f"name the column: --{role.replace('_', '-')}-column NAME" + (f"; {hint}" if hint else "")
    bad = next((name for name in names if inverted(name)), None)
    if role == "aligned" and not given and bad:
        todo = f"if a high {bad} is bad: --aligned-column {bad!r} --aligned-scale 100-0 (or the scale that it has)"
    return ColumnLacks(
        f"{file} has no column {given!r}" if given else f"{file} has no column of the {role}",
        got=quoted(names) or "no columns",
        allowed="a column of the file" if given else ", ".join(GUESSES[role]),
        todo=todo,
    )


def quoted(texts: Sequence[Any], most: int = 20, width: int = 60) -> str:
    """Texts from a file, made harmless for a terminal: quoted, escaped, cut."""
    shown = [repr(text if len(text) <= width else text[:width] + "...") for text in map(str, texts[:most])]
    return ", ".join(shown) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")
