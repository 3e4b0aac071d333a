"""`truing calibrate`: labelled answers through a judge, to know how often it is right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from truing.backends import check_completer, parse_judge
from truing.cli.shared import Sets, say, split_pairs
from truing.config import EvaluationConfig, MonitorConfig, SequentialConfig, StoppingConfig
from truing.config.files import load_study, override, validate
from truing.core.errors import ConfigError, JudgeRefused, plural
from truing.core.progress import Lines, listening
from truing.core.records import Judgment
from truing.judges import check_judge
from truing.judges.calibration import judge_labelled, measure_judge, save_calibration
from truing.judges.classify import classify_judgments
from truing.judges.labelled import Labelled, halves, read_labelled
from truing.judges.preflight import Preflight, conclude
from truing.monitor import reach_judge
from truing.stats.thresholds import answers_to_clear
from truing.stats.thresholds import choose_threshold as pick_threshold


def calibrate(  # noqa: PLR0913 - the flags of a command
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
    choose_threshold: Annotated[
        bool, typer.Option("--choose-threshold", help="For a judge of other scores: choose what counts as misaligned.")
    ] = False,
    sets: Sets = None,
) -> None:
    """Measure a judge on labelled answers: accuracy, true and false positive rates, agreement, what is missing.

    All labelled answers count: a misaligned one that the judge takes for incoherent, or does not score, is not found.
    With --choose-threshold the aligned score below which an answer counts as misaligned is chosen on half of the
    questions, measured on the other half, and printed as settings of a study; refused where none can clear.

    Example:  truing calibrate labelled-160 --judge openai:gpt-4o --set judge.scores=text
    """
    rows = read_labelled(file)
    whole = load_study(study, split_pairs(sets)) if study else _settings(judge, rubric, split_pairs(sets))
    evaluation, chosen = whole.evaluation, whole.evaluation.judge
    check_judge(chosen)
    check_completer(chosen)
    reached = reach_judge(chosen, whole.endpoint)
    with listening(Lines()):
        judgments, stopping = judge_labelled(rows, reached), whole.stopping
    if choose_threshold:
        evaluation, rows, judgments = _choose(rows, judgments, evaluation, stopping)
    measured = measure_judge(rows, reached, evaluation, judgments)
    _show(measured)
    if {row.misaligned and row.coherent for row in rows} == {True, False}:
        found = conclude(rows, judgments, reached, evaluation, evaluation.preflight)
        measured["preflight"] = found.model_dump(mode="json")
        say(f"{found.verdict}: {found.sentence()}")
        if choose_threshold:
            _say_threshold(file, found, stopping)
    save_calibration(out, measured)
    say(f"calibration: {out}")


def _choose(
    rows: list[Labelled], judgments: list[Judgment], evaluation: EvaluationConfig, stopping: StoppingConfig
) -> tuple[EvaluationConfig, list[Labelled], list[Judgment]]:
    """The settings with a threshold chosen on half of the questions, and the other half as it was judged.

    Raises:
        JudgeRefused: No threshold tells misaligned answers from others well enough.
    """
    said, (chosen_by, others) = {j.prompt_id: j for j in judgments}, halves(rows)
    own = [said[row.prompt.id] for row in chosen_by]
    classes, positive = classify_judgments(own, evaluation), np.array([r.misaligned and r.coherent for r in chosen_by])
    aligned = np.array([math.nan if j.aligned is None else j.aligned for j in own])
    beta = (stopping.sequential or SequentialConfig()).beta
    best = pick_threshold(aligned, classes.coherent, positive, tolerance=stopping.tolerance, error=beta)
    if best is None:
        raise JudgeRefused(
            f"no threshold of this judge can clear a model at a tolerance of {stopping.tolerance:.1%}",
            f"on {len(chosen_by)} labelled answers every one calls others misaligned too often, or finds too few",
            "a judge that tells misaligned answers from others",
            "take another judge or rubric",
        )
    say(
        f"chosen on half of the questions, {len(chosen_by)} answers: aligned below {best.below:g} (true of {best.hits} "
        f"of {positive.sum()} misaligned and {best.false_alarms} of {(~positive).sum()} others); on the other half:"
    )
    settings = evaluation.model_copy(update={"aligned_below": best.below})
    return settings, others, [said[row.prompt.id] for row in others]


def _say_threshold(file: str, found: Preflight, stopping: StoppingConfig) -> None:
    """Print the settings of a study, if by them something can be cleared.

    Raises:
        JudgeRefused: The judge has failed by them, or too many answers would be needed.
    """
    settings, counts = stopping.sequential or SequentialConfig(), found.counts
    alarms = (counts.false_alarms + 0.5) / (counts.other + 1)
    n = answers_to_clear(alarms, found.limits().clear_below(stopping.tolerance), settings.beta)
    if found.doubt or n > settings.cap:
        needed = "no number of answers" if math.isinf(n) else f"about {n:,.0f} answers"
        raise JudgeRefused(
            f"by the best threshold this judge cannot clear a model at a tolerance of {stopping.tolerance:.1%}",
            f"{found.sentence()}; a clean checkpoint would be cleared by {needed}",
            f"at most {settings.cap:,} answers (stopping.sequential.cap)",
            "take another judge or rubric; this one may rank answers, but not clear a model",
        )
    below = found.thresholds["aligned_below"]
    say(f"a clean checkpoint is cleared by about {n:,.0f} answers. In the study, before it begins:")
    say(f"evaluation:\n  aligned_below: {below:g}\n  preflight: {{labelled: {file}, half: true}}")


def _settings(text: str | None, rubric: str, values: dict[str, str]) -> MonitorConfig:
    if text is None:
        raise ConfigError("no judge given", allowed="--judge NAME, --judge openai:MODEL, or --study FILE")
    parsed = parse_judge(text)
    raw: dict[str, Any] = {"evaluation": {"judge": parsed if isinstance(parsed, str) else parsed | {"aligned": rubric}}}
    override(raw, values)
    return validate(MonitorConfig, raw, "the settings of the judge are not valid")


def _show(measured: dict[str, Any]) -> None:
    labelled, missing = measured["labelled"], measured["missing"]
    kinds = ", ".join(f"{labelled[kind]} {kind}" for kind in ("misaligned", "incoherent"))
    lost = f"aligned {missing['aligned']}, coherent {missing['coherent']}; verdicts {missing['verdicts']}"
    say(f"judge {measured['judge']}\n{plural(labelled['n'], 'labelled answer')}, {kinds}; missing scores: {lost}")
    for name, words in (("misaligned", "misaligned and coherent"), ("coherent", "coherent")):
        found = measured[name]
        say(f"{words}, over all {plural(found['n'], 'answer')} (kappa: over the {found['n_judged']} that were judged):")
        for label in ("accuracy", "true_positive_rate", "false_positive_rate", "kappa"):
            say(f"  {label.replace('_', ' '):<22}{_interval(found[label])}")


def _interval(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return f"undefined: {estimate['reason']}"
    value, low, high = ("?" if (x := estimate[name]) is None else f"{x:.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high}), n = {estimate['n_responses']}"
