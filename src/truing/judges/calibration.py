"""Calibration of a judge: labelled answers through it, and how often it is right, with intervals.

All labelled answers count. To be found is to be misaligned and coherent, by the label and by the judge: a misaligned
answer that the judge takes for incoherent, or does not score, is one that it has not found. A calibration belongs to
one judge with its rubrics and thresholds; with any other it is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from truing.config import MisalignedRule
from truing.core.errors import ConfigError
from truing.core.files import write_json
from truing.core.records import Estimate, Judgment, Response
from truing.judges import Judge, ask_judge
from truing.judges.classify import Classes, classify_judgments
from truing.judges.labelled import Labelled, labelled_summary, questions_of
from truing.stats.agreement import Calibration, agreement, calibrate
from truing.stats.rates import BoolArray, clustered_rate, undefined

__all__ = [
    "found_share",
    "judge_labelled",
    "load_calibration",
    "measure_judge",
    "save_calibration",
]

_FORMAT = 2


def judge_labelled(rows: Sequence[Labelled], judge: Judge, sample: int = 0) -> list[Judgment]:
    """Have labelled answers judged; one judgment each, in order. A negative `sample` is judged past all journals."""
    responses = [Response(row.prompt.id, sample, row.answer) for row in rows]
    return ask_judge(judge, [row.prompt for row in rows], responses)


def found_share(rows: Sequence[Labelled], found: BoolArray, of: BoolArray, confidence: float = 0.95) -> Estimate:
    """The share of some labelled answers that a judge found, with questions as clusters; see `clustered_rate`.

    Args:
        rows: Labelled answers.
        found: (R,) those that the judge found.
        of: (R,) those that count.
        confidence: Two-sided level, in (0, 1).
    """
    question = questions_of(rows)
    hits, trials = (np.bincount(question[mask], minlength=len(rows)) for mask in (found & of, of))
    return clustered_rate(hits, trials, confidence=confidence)


def measure_judge(
    rows: Sequence[Labelled], judge: Judge, rule: MisalignedRule, judgments: Sequence[Judgment] | None = None
) -> dict[str, Any]:
    """Have labelled answers judged and compare, over all of them.

    Args:
        rows: Labelled answers.
        judge: The judge to be measured.
        rule: When an answer counts as misaligned.
        judgments: What it said of them; None: it is asked.

    Returns:
        What `save_calibration` writes: the judge's identity, thresholds, counts, and per question (`misaligned`, which
        is misaligned and coherent, and `coherent`) accuracy, true and false positive rate over all labelled answers,
        where one that was not judged is wrong and not found, and Cohen's kappa over those that were judged; with
        intervals in which the labelled question is the cluster; rates from 0 to 1.
    """
    judgments = judge_labelled(rows, judge) if judgments is None else judgments
    classes = classify_judgments(judgments, rule)
    positive = np.array([row.misaligned and row.coherent for row in rows])
    coherent = np.array([row.coherent for row in rows])
    known, incoherent = np.array([j.coherent is not None for j in judgments]), classes.judged & ~classes.coherent
    return {
        "format": _FORMAT,
        "judge": judge.identity,
        "rubrics": judge.rubric_hash,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "thresholds": rule.thresholds(),
        "labelled": labelled_summary(rows),
        "missing": {
            "aligned": sum(j.aligned is None and not out for j, out in zip(judgments, incoherent, strict=True)),
            "coherent": int((~known).sum()),
            "verdicts": dict(Counter(j.verdict for j in judgments if j.verdict)),
            "errors": sum(j.error is not None for j in judgments),
        },
        "misaligned": _compare(rows, positive, classes.misaligned, classes.judged),
        "coherent": _compare(rows, coherent, known & ~incoherent, known),
        "counts": asdict(calibrate(positive, classes.misaligned)),
        "mistakes": _mistakes(rows, judgments, classes),
    }


def save_calibration(path: Path, measured: Mapping[str, Any]) -> None:
    """Write what `measure_judge` returned, whole or not at all."""
    write_json(path, dict(measured))


def load_calibration(path: Path, identity: str, rule: MisalignedRule | None = None) -> Calibration:
    """A judge's calibration, for `truing.stats.corrected_rate`.

    Args:
        path: A file that `save_calibration` wrote.
        identity: `Judge.identity` of the judge whose rates are to be corrected.
        rule: Its thresholds, to be compared too.

    Raises:
        ConfigError: No calibration, or that of another judge, rubric or threshold.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != _FORMAT:
            raise ValueError(f"format {raw['format']}: its counts leave out what the judge took for incoherent")
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
    if rule is not None and thresholds != rule.thresholds():
        raise ConfigError(
            f"{path} is a calibration with other thresholds",
            str(thresholds),
            str(rule.thresholds()),
            "calibrate again",
        )
    return calibration


def _compare(rows: Sequence[Labelled], truth: BoolArray, said: BoolArray, judged: BoolArray) -> dict[str, Any]:
    """The judge's answers to a yes-or-no question against the labels; what was not judged is said to be no."""
    every = np.ones_like(truth)
    accuracy = replace(found_share(rows, (truth == said) & judged, every), n_missing=int((~judged).sum()))
    both = np.stack([truth, said])[:, judged].astype(np.float64)
    kappa = (
        agreement(both, np.random.default_rng(0), prompts=questions_of(rows)[judged])["kappa"] if judged.any() else None
    )
    return {
        "n": len(rows),
        "n_judged": int(judged.sum()),
        "accuracy": accuracy.plain(),
        "true_positive_rate": found_share(rows, said, truth).plain(),
        "false_positive_rate": found_share(rows, said, ~truth).plain(),
        "kappa": (kappa or undefined("kappa", "nothing was judged")).plain(),
    }


def _mistakes(rows: Sequence[Labelled], judgments: Sequence[Judgment], classes: Classes) -> list[dict[str, Any]]:
    """The answers on which judge and label differ about misalignment or coherence."""
    return [
        {
            "id": row.prompt.id,
            "kind": row.kind,
            "label": "misaligned" if row.misaligned else "other",
            "aligned": judgment.aligned,
            "coherent": judgment.coherent,
            "verdict": judgment.verdict,
        }
        for row, judgment, said, use in zip(rows, judgments, classes.misaligned, classes.coherent, strict=True)
        if (bool(said) != (row.misaligned and row.coherent)) or (bool(use) != row.coherent)
    ]
