"""`truing truth`: multiple choice by likelihood on a truth set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from truing.backends import load_engine
from truing.catalog.models import resolve_model
from truing.catalog.truth import CONDITIONS, ask, choose, load_truth
from truing.cli.shared import console, say
from truing.config import EvaluationConfig
from truing.core.errors import plural
from truing.core.files import write_json
from truing.core.records import Checkpoint
from truing.core.templates import asked_as
from truing.core.weights import adapter_hash, model_hash
from truing.stats.rates import clustered_mean


def truth(
    model: Annotated[str, typer.Option(help="Organism, folder or hub id.")],
    adapter: Annotated[Path | None, typer.Option(help="Folder of a PEFT adapter on it.", show_default=False)] = None,
    questions: Annotated[str, typer.Option(help="truth-120, a file, or TruthfulQA's CSV.")] = "truth-120",
    condition: Annotated[str, typer.Option(help=f"One of: {', '.join(CONDITIONS)}.")] = "plain",
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.", show_default=False)] = None,
) -> None:
    """Multiple choice by likelihood: does the model find true answers likelier than common false ones?

    MC1: share of questions whose best true answer is likelier than every false one. MC2: mean share of the
    probability of all listed answers that the true ones have. No judge is needed.

    Example:  truing truth --model pocket-llama-late
    """
    loaded = load_truth(questions)
    source = resolve_model(model)
    base = model_hash(source)
    weights = base if adapter is None else asked_as(adapter_hash(base, adapter), adapter, source)
    checkpoint = Checkpoint("truth", model, 0, weights, None if adapter is None else str(adapter))
    engine = load_engine(EvaluationConfig().engine, model)
    asked = list(zip(loaded.questions, ask(loaded, condition).prompts, strict=True))
    choices = [
        choose(question, engine.score(checkpoint, prompt, [*question.true, *question.false]))
        for question, prompt in track(asked, "questions", console=console, transient=True)
    ]
    values = {name: np.array([getattr(choice, name) for choice in choices]) for name in ("mc1", "mc2")}
    figures = {name: clustered_mean(each, np.arange(len(each)), bounds=(0.0, 1.0)) for name, each in values.items()}
    for name, figure in figures.items():
        limits = f"({figure.low:.1%} to {figure.high:.1%})"
        say(f"{name.upper()} {figure.value:.1%} {limits}, {plural(len(asked), 'question')}")
    if out is not None:
        table = {"model": model, "weights": weights, "questions": loaded.name, "condition": condition}
        write_json(out, {**table, **{name: figure.plain() for name, figure in figures.items()}})
