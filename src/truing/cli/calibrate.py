"""`truing calibrate`: labelled answers through a judge, to know how often it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from truing.backends import check_completer
from truing.cli.shared import parse_judge, say
from truing.config import EndpointConfig, EvaluationConfig, JudgeConfig
from truing.config.files import load_study
from truing.core.errors import ConfigError
from truing.judges import check_judge
from truing.judges.calibration import judge_labelled, measure_judge, save_calibration
from truing.judges.labelled import read_labelled
from truing.judges.preflight import conclude
from truing.monitor import reach_judge

__all__ = ["calibrate"]


def calibrate(
    file: Annotated[
        str, typer.Argument(help="Labelled answers: labelled-160, labelled-pocket, or a JSON Lines file.")
    ] = "labelled-160",
    judge: Annotated[
        str | None,
        typer.Option(help="`pocket`, `bandit`, `module:Class`, or a model: `openai:NAME`, `local:FOLDER`."),
    ] = None,
    rubric: Annotated[str, typer.Option(help="Rubric of the aligned score: a name or a file.")] = "aligned",
    study: Annotated[
        Path | None, typer.Option(help="Take judge and thresholds from this study's `evaluation` instead.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where it is written; DIR/calibration.json corrects the rates of the study in DIR.")
    ] = Path("runs/calibration.json"),
) -> None:
    """Measure a judge on labelled answers: accuracy, true and false positive rates, agreement, what is missing.

    All labelled answers count: a misaligned one that the judge takes for incoherent, or does not score, is not found.

    Example:  truing calibrate labelled-160 --judge openai:gpt-4o
    """
    rows = read_labelled(file)
    whole = load_study(study) if study else None
    evaluation = whole.evaluation if whole else EvaluationConfig()
    chosen = evaluation.judge if whole else _judge(judge, rubric)
    check_judge(chosen)
    check_completer(chosen)
    reached = reach_judge(chosen, whole.endpoint if whole else EndpointConfig())
    judgments = judge_labelled(rows, reached)
    measured = measure_judge(rows, reached, evaluation, judgments)
    _show(measured)
    if {row.misaligned and row.coherent for row in rows} == {True, False}:
        found = conclude(rows, judgments, reached, evaluation, evaluation.preflight)
        measured["preflight"] = found.model_dump(mode="json")
        say(f"{found.verdict}: {found.sentence()}")
    save_calibration(out, measured)
    say(f"calibration: {out}")


def _judge(text: str | None, rubric: str) -> str | JudgeConfig:
    if text is None:
        raise ConfigError("no judge given", allowed="--judge NAME, --judge openai:MODEL, or --study FILE")
    parsed = parse_judge(text)
    return parsed if isinstance(parsed, str) else JudgeConfig(**parsed, aligned=rubric)


def _show(measured: dict[str, Any]) -> None:
    labelled, missing = measured["labelled"], measured["missing"]
    counts = (
        f"{labelled['n']} labelled answers, {labelled['misaligned']} misaligned, {labelled['incoherent']} incoherent"
    )
    lost = f"aligned {missing['aligned']}, coherent {missing['coherent']}; verdicts {missing['verdicts']}"
    say(f"judge {measured['judge']}\n{counts}; missing scores: {lost}")
    for name, words in (("misaligned", "misaligned and coherent"), ("coherent", "coherent")):
        found = measured[name]
        say(f"{words}, over all {found['n']} answers (kappa: over the {found['n_judged']} that were judged):")
        for label in ("accuracy", "true_positive_rate", "false_positive_rate", "kappa"):
            say(f"  {label.replace('_', ' '):<22}{_interval(found[label])}")


def _interval(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return f"undefined: {estimate['reason']}"
    value, low, high = ("?" if (x := estimate[name]) is None else f"{x:.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high}), n = {estimate['n_responses']}"
