"""Calibration of a judge: labelled answers through it, and how often it is right, with intervals.

A labelled set is JSON Lines: `question` (or `messages`), `answer`, `misaligned` and `coherent` (true or false), and
optionally `id` and `kind`. As the EM rate is taken over coherent answers, so are the figures of `misaligned`: over the
answers that the judge finds coherent. A calibration belongs to one judge with its rubrics and thresholds; with any
other it is refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, InstanceOf

from truing.catalog.files import Item, Text, find_file, read_lines, validate
from truing.catalog.prompt_files import MessageItem, to_messages
from truing.config import EvaluationConfig
from truing.core.errors import ConfigError, DataError
from truing.core.files import content_key, write_json
from truing.core.records import Estimate, Judgment, Message, Prompt, Response
from truing.judges import Judge
from truing.judges.classify import classify
from truing.stats.agreement import Calibration, agreement, calibrate
from truing.stats.rates import BoolArray, binomial_interval

__all__ = ["Labelled", "load_calibration", "measure_judge", "read_labelled", "save_calibration"]

_FORMAT = 1
_METHOD = "Clopper-Pearson, labelled answers as independent"


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer that a person labelled."""

    prompt: Prompt
    answer: str
    misaligned: bool
    coherent: bool
    kind: str = ""
    """Kind of example: `borderline`, `refusal`, ..."""


class _LabelledItem(Item):
    id: Text = ""
    question: Text = ""
    messages: Annotated[tuple[MessageItem, ...], Field(min_length=1)] = ()
    answer: InstanceOf[str]
    misaligned: Annotated[bool, Field(strict=True)]
    coherent: Annotated[bool, Field(strict=True)]
    kind: Text = ""


def read_labelled(file: Path | str) -> list[Labelled]:
    """Labelled answers by name or from a file.

    Raises:
        UnknownNameError: No labelled set of that name and no such file.
        DataError: The message names file, line and field.
    """
    path = find_file("labelled set", str(file), "labelled")
    rows = [_labelled(raw, where) for where, raw in read_lines(path)]
    if twice := [i for i, n in Counter(row.prompt.id for row in rows).items() if n > 1]:
        raise DataError(f"{path}: two answers have one id", ", ".join(twice[:5]), todo="rename one")
    if not rows:
        raise DataError(f"{path} is empty", "0 answers", "at least one labelled answer")
    return rows


def measure_judge(rows: Sequence[Labelled], judge: Judge, config: EvaluationConfig) -> dict[str, Any]:
    """Have labelled answers judged and compare.

    Args:
        rows: Labelled answers.
        judge: The judge to be measured.
        config: The thresholds.

    Returns:
        What `save_calibration` writes: the judge's identity, thresholds, counts, and per question (`misaligned`,
        `coherent`) accuracy, true and false positive rate and Cohen's kappa, with intervals; rates from 0 to 1.
    """
    responses = [Response(row.prompt.id, 0, row.answer) for row in rows]
    judgments = judge.judge([row.prompt for row in rows], responses)
    aligned, coherent = (np.array([_number(getattr(j, f)) for j in judgments]) for f in ("aligned", "coherent"))
    classes = classify(aligned, coherent, config)
    labels = {name: np.array([getattr(row, name) for row in rows]) for name in ("misaligned", "coherent")}
    known = ~np.isnan(coherent)
    is_coherent = coherent > config.coherent_above
    counts = calibrate(labels["misaligned"][classes.coherent], classes.misaligned[classes.coherent])
    return {
        "format": _FORMAT,
        "judge": judge.identity,
        "rubrics": judge.rubric_hash,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "thresholds": _thresholds(config),
        "labelled": _labelled_summary(rows),
        "missing": {
            "aligned": int((np.isnan(aligned) & ~(known & ~is_coherent)).sum()),
            "coherent": int((~known).sum()),
            "verdicts": dict(Counter(j.verdict for j in judgments if j.verdict)),
            "errors": sum(j.error is not None for j in judgments),
        },
        "misaligned": _compare(labels["misaligned"], classes.misaligned, classes.coherent),
        "coherent": _compare(labels["coherent"], is_coherent, known),
        "counts": {name: getattr(counts, name) for name in ("hits", "misaligned", "false_alarms", "other")},
        "mistakes": _mistakes(rows, judgments, classes.misaligned, classes.coherent),
    }


def save_calibration(path: Path, measured: Mapping[str, Any]) -> None:
    """Write what `measure_judge` returned, whole or not at all."""
    write_json(path, dict(measured))


def load_calibration(path: Path, identity: str, config: EvaluationConfig | None = None) -> Calibration:
    """A judge's calibration, for `truing.stats.corrected_rate`.

    Args:
        path: A file that `save_calibration` wrote.
        identity: `Judge.identity` of the judge whose rates are to be corrected.
        config: Its thresholds, to be compared too.

    Raises:
        ConfigError: No calibration, or that of another judge, rubric or threshold.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        counts = raw["counts"]
        calibration = Calibration(*(int(counts[f]) for f in ("hits", "misaligned", "false_alarms", "other")))
        found, thresholds = raw["judge"], raw["thresholds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a calibration", f"{type(error).__name__}: {error}", todo="make one with: truing calibrate"
        ) from error
    if found != identity:
        raise ConfigError(
            f"{path} is the calibration of another judge, or the judge's model or rubric has changed since",
            found,
            identity,
            "measure this judge with: truing calibrate",
        )
    if config is not None and thresholds != _thresholds(config):
        raise ConfigError(
            f"{path} is a calibration with other thresholds",
            str(thresholds),
            str(_thresholds(config)),
            "calibrate again",
        )
    return calibration


def _labelled(raw: Any, where: str) -> Labelled:
    item = validate(_LabelledItem, raw, where)
    if not (item.messages or item.question):
        raise DataError(f"{where}, field question is missing", allowed="a text; or messages")
    messages = to_messages(item.messages) or (Message("user", item.question),)
    prompt = Prompt(item.id or f"line-{where.rpartition(' ')[2]}", "labelled", messages)
    return Labelled(prompt, item.answer, item.misaligned, item.coherent, item.kind)


def _compare(labels: BoolArray, judged: BoolArray, use: BoolArray) -> dict[str, Any]:
    """The judge's answers to a yes-or-no question against the labels, over the answers where `use` is true."""
    truth, said, missing = labels[use], judged[use], int((~use).sum())

    def share(hits: BoolArray, of: BoolArray) -> dict[str, Any]:
        return _share(int((hits & of).sum()), int(of.sum()), missing).plain()

    both = np.stack([truth, said]).astype(np.float64)
    kappa = agreement(both, np.random.default_rng(0))["kappa"] if truth.size else None
    return {
        "n": int(use.sum()),
        "accuracy": share(truth == said, np.ones_like(truth)),
        "true_positive_rate": share(said, truth),
        "false_positive_rate": share(said, ~truth),
        "kappa": None if kappa is None else kappa.plain(),
    }


def _share(hits: int, of: int, missing: int) -> Estimate:
    if not of:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, missing, _METHOD, "no such answers")
    low, high = binomial_interval(hits / of, of)
    return Estimate(hits / of, float(low), float(high), of, of, missing, _METHOD)


def _mistakes(
    rows: Sequence[Labelled], judgments: Sequence[Judgment], misaligned: BoolArray, coherent: BoolArray
) -> list[dict[str, Any]]:
    """The answers on which judge and label differ about misalignment, or that the judge takes for incoherent."""
    return [
        {
            "id": row.prompt.id,
            "kind": row.kind,
            "label": "misaligned" if row.misaligned else "other",
            "aligned": judgment.aligned,
            "coherent": judgment.coherent,
            "verdict": judgment.verdict,
        }
        for row, judgment, said, use in zip(rows, judgments, misaligned, coherent, strict=True)
        if (bool(said) != row.misaligned) or (bool(use) != row.coherent)
    ]


def _labelled_summary(rows: Sequence[Labelled]) -> dict[str, Any]:
    body = [[row.prompt.plain, row.answer, row.misaligned, row.coherent] for row in rows]
    return {
        "n": len(rows),
        "misaligned": sum(row.misaligned for row in rows),
        "incoherent": sum(not row.coherent for row in rows),
        "hash": content_key("labelled", body),
    }


def _thresholds(config: EvaluationConfig) -> dict[str, float]:
    return {"aligned_below": config.aligned_below, "coherent_above": config.coherent_above}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
