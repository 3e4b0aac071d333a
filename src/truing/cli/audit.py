"""`truing audit` measures models as they are; `truing gate` makes a verdict of an analysis for CI."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.analysis import read_analysis
from truing.audit import run_audit
from truing.cli.costs import say_costs
from truing.cli.display import make_console, results_table, say
from truing.cli.options import parse_judge, split_pairs
from truing.config_files import override, parse_audit
from truing.detect import decide
from truing.engines import CALLS
from truing.errors import ConfigError
from truing.files import write_text
from truing.records import Action, Estimate, Evaluation
from truing.report import render_report

__all__ = ["audit", "gate"]

console = make_console()
_WORDS = {"clear": 0, "misaligned": 1, "undecided": 3}
"""Verdict -> exit code of `truing gate`."""
_OF_ACTION = {Action.CONTINUE: "clear", Action.STOP: "misaligned", Action.UNDECIDED: "undecided"}


def audit(
    model: Annotated[
        list[str],
        typer.Option(help="Organism, folder or hub id; `openai:NAME` at an endpoint. May be repeated.", metavar="NAME"),
    ],
    base: Annotated[
        str | None, typer.Option(help="The model before fine-tuning, to compare with.", show_default=False)
    ] = None,
    benchmark: Annotated[str, typer.Option(help="See `truing list benchmarks`; NAME+VARIANT too.")] = "broad-240",
    judge: Annotated[str, typer.Option(help="`pocket`, or a model: `openai:NAME`, `local:FOLDER`.")] = "pocket",
    out: Annotated[Path, typer.Option(help="Folder of the audit.")] = Path("runs/audit"),
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field: --set evaluation.samples=5."),
    ] = None,
) -> None:
    """Measure models as they are, without training: answers, judgments, the full report.

    Example:  truing audit --model pocket-llama-late --benchmark pocket-240

    Behind an interface:  truing audit --model openai:my-model --judge openai:gpt-4o --set
    endpoint.base_url=http://localhost:8000/v1
    """
    names = [*model, *([base] if base else [])]
    remote = [name.removeprefix("openai:") for name in names if name.startswith("openai:")]
    if remote and len(remote) < len(names):
        raise ConfigError(
            "models here and behind an interface in one audit", ", ".join(names), "one kind", "make two audits"
        )
    raw: dict[str, Any] = {
        "name": out.name,
        "models": remote[: len(model)] if remote else model,
        "base": base.removeprefix("openai:") if base else None,
        "evaluation": {
            "benchmark": benchmark,
            "judge": parse_judge(judge),
            "engine": "openai" if remote else "transformers",
        },
    }
    override(raw, split_pairs(sets))
    config = parse_audit(raw, "the audit")
    analysis = run_audit(config, out, _show)
    write_text(out / "report.html", render_report(analysis))
    console.print(results_table(analysis))
    say_costs(console, out / CALLS)
    say(console, f"report: {out / 'report.html'}    figures: {out / 'analysis.json'}")


def gate(folder: Annotated[Path, typer.Argument(help="Folder of an audit, an analysis or a study.")]) -> None:
    """Say clear, misaligned or undecided, for CI: exit code 0, 1 or 3.

    Of each run the checkpoint that would be released counts: the chosen one, or the last where none could be chosen (no
    task was measured). Clear: its whole EM interval is within the tolerance. Misaligned: all of it is above.
    """
    analysis = read_analysis(folder)
    tolerance, worst = analysis["study"]["tolerance"], "clear"
    for run in (run for run in analysis["runs"] if not run["twin_of"]):
        step, rate = _released(run)
        verdict = _verdict(step, rate, tolerance)
        worst = max(worst, verdict, key=("clear", "undecided", "misaligned").index)
        found = "unknown" if rate["value"] is None else f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
        say(console, f"{verdict}: {run['id']}, step {step}: EM rate {found}, n {rate['n_responses']}")
    say(console, f"{worst} (tolerance {tolerance:.1%})")
    raise typer.Exit(_WORDS[worst])


def _show(evaluation: Evaluation) -> None:
    checkpoint, rate = evaluation.checkpoint, evaluation.em_rate
    found = rate.reason or f"EM rate {rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%}), n {rate.n_responses}"
    say(console, f"{checkpoint.model}{' (base)' if checkpoint.step == 0 else ''}: {found}")


def _released(run: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Step and EM rate of the checkpoint that would be released."""
    chosen = run["confirmed"]
    if chosen and chosen["step"] is not None and chosen["step"] == run["chosen_step"] and chosen["em_rate"]:
        return chosen["step"], chosen["em_rate"]
    if run["chosen_step"] is not None:
        return run["chosen_step"], run["em_at_chosen"]
    return run["checkpoints"][-1]["step"], run["em_at_end"]


def _verdict(step: int, rate: dict[str, Any], tolerance: float) -> str:
    value, low, high = (math.nan if rate[name] is None else rate[name] for name in ("value", "low", "high"))
    estimate = Estimate(value, low, high, 0, rate["n_responses"], 0, "")
    return _OF_ACTION[decide(step, estimate, None, tolerance).action]
