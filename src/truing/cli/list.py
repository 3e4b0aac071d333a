"""`truing list`: what is built in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import typer

from truing.backends import BACKENDS
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import DATASETS, load_dataset
from truing.catalog.files import list_files
from truing.catalog.models import TARGETS, Model, find_model, list_models, list_organisms, recommended_settings
from truing.catalog.truth import CONDITIONS, load_truth
from truing.catalog.variants import VARIANTS
from truing.cli.shared import console, make_table, say
from truing.core.errors import MissingExtraError, UnknownNameError
from truing.judges import JUDGES, load_judge
from truing.judges.rubrics import load_rubric

Rows = Iterable[Sequence[object]]


def list_names(
    kind: Annotated[str, typer.Argument(help="models, benchmarks, variants, truth-sets, datasets, judges or rubrics.")],
    name: Annotated[str | None, typer.Argument(help="One of them; a model in full.", show_default=False)] = None,
) -> None:
    """List what is built in.

    Example:  truing list models llama-3.1-8b
    """
    if kind == "models":
        _say_models() if name is None else _say_model(name)
        return
    if kind not in _KINDS:
        raise UnknownNameError.of("kind", kind, ("models", *_KINDS))
    columns, rows = _KINDS[kind][0], list(_KINDS[kind][1]())
    shown = [row for row in rows if name in (None, row[0])]
    if not shown:
        raise UnknownNameError.of(kind.removesuffix("s").replace("-", " "), str(name), [str(row[0]) for row in rows])
    console.print(make_table(columns, shown))


def _judges() -> Rows:
    for name in JUDGES:
        try:
            yield name, load_judge(name).identity
        except MissingExtraError as error:
            yield name, f"{error.what}; {error.todo}"


_KINDS: dict[str, tuple[tuple[str, ...], Callable[[], Rows]]] = {
    "benchmarks": (
        ("name", "prompts", "categories", "licence", "hash"),
        lambda: (
            (b.name, len(b.prompts), len({p.category for p in b.prompts}), b.licence, b.hash[:12])
            for b in map(load_benchmark, list_files("benchmarks"))
        ),
    ),
    "variants": (("name", "what it tests"), lambda: ((f"NAME+{v.name}", v.purpose) for v in VARIANTS.values())),
    "truth-sets": (
        ("name", "questions", "conditions", "licence"),
        lambda: (
            (t.name, len(t.questions), ", ".join(f"+{c}" for c in CONDITIONS), t.licence)
            for t in map(load_truth, list_files("truth"))
        ),
    ),
    "datasets": (
        ("name", "rows", "held out", "teaches", "hash"),
        lambda: ((d.name, len(d.train), len(d.heldout), d.teaches, d.hash[:12]) for d in map(load_dataset, DATASETS)),
    ),
    "judges": (("name", "identity"), _judges),
    "rubrics": (
        ("name", "version", "scores", "higher is", "hash"),
        lambda: (
            (r.name, r.version, r.scores, r.higher_is, r.hash[:12]) for r in map(load_rubric, list_files("rubrics"))
        ),
    ),
}
"""Kind -> its columns, and the function that makes its rows."""


def _say_models() -> None:
    shipped = ("name", "parameters", "base EM rate", "coherent", "recipe")
    console.print(make_table(shipped, _organisms(), "pocket models, which ship with truing"))
    known = ("name", "parameters", "active", "architecture", "LoRA rates", "hub id", "also at")
    title = "\ncatalogue: weights elsewhere; a name here or a hub id may stand in a study"
    console.print(make_table(known, _catalogue(), title, right="parameters active"))


def _organisms() -> Rows:
    for name, folder in list_organisms().items():
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        em, recipe = card["base_em_rate"], card["recipe"]
        alignment = f"{recipe['alignment']['steps']} alignment steps on {len(recipe['alignment']['domains'])} domains"
        rate, coherent = f"{em['value']:.1%} ({em['low']:.1%} to {em['high']:.1%})", card["coherent_rate"]["value"]
        yield name, f"{card['parameters']:,}", rate, f"{coherent:.1%}", f"{recipe['architecture']}, {alignment}"


def _catalogue() -> Rows:
    """Every model of the catalogue; a provider that ends offering it stands with the last day."""
    for model in list_models().values():
        active = _size(model.active) if model.active != model.parameters else ""
        also = [f"{provider}{_ended(model, provider)}" for provider in model.ids if provider != "huggingface"]
        facts = (model.name, _size(model.parameters), active, model.architecture or "not published", _rates(model))
        yield *facts, model.ids.get("huggingface", "-"), ", ".join(also) or "-"


def _say_model(name: str) -> None:
    model = find_model(name)
    if model is None:
        raise UnknownNameError.of("catalogue model", name, [*list_models(), *list_organisms()])
    template, settings = model.template, recommended_settings(model)
    targets = TARGETS[model.architecture] if model.architecture else None
    marks = {True: "yes", False: "no", None: "not checked"}[template.marks_generation]
    facts = {
        "ids": ", ".join(f"{where} {known}{_ended(model, where)}" for where, known in model.ids.items()),
        "parameters": f"{_size(model.parameters)}, {_size(model.active)} for each token",
        "architecture": model.architecture or "not published",
        "LoRA rates": f"{_rates(model)} (where to look: docs/models.md)",
        "LoRA targets": ", ".join((*targets.modules, *targets.parameters)) if targets else "not published",
        "published settings": ", ".join(f"{key} {value}" for key, value in settings.items() if key != "source"),
        "chat template": f"{template.name}; marks the assistant's words: {marks}",
        "  system prompt": template.system,
        "  thinking": template.thinking,
    }
    titles = {row.key: row.title for row in BACKENDS}
    for provider, p in model.hosted.items():
        facts[f"{titles[provider]}, $/M tokens"] = f"prefill {p.prefill:g}, sample {p.sample:g}, train {p.train:g}"
    if model.train_price is not None:
        facts[f"{titles[model.owner]}, $/M tokens"] = f"train {model.train_price:g}"
    say(model.name)
    for label, text in facts.items():
        say(f"  {label:<20}{text}")
    say("Sources are in truing/catalog/data/models.yaml.")


def _size(n: float) -> str:
    if math.isnan(n):
        return "?"
    return f"{n / 1e9:.3g}B" if n >= 1e9 else f"{n / 1e6:.0f}M"


def _rates(model: Model) -> str:
    low, high = model.rates
    if low is None:
        return "-"
    return f"{low:g} to {high:g}" if high is not None else f"from {low:g}"


def _ended(model: Model, provider: str) -> str:
    return f" (until {model.until[provider]})" if provider in model.until else ""
