"""The model catalogue, as `truing list models` shows it."""

from __future__ import annotations

import json
import math

from rich.console import Console
from rich.table import Table

from truing.backends import BACKENDS
from truing.catalog.models import TARGETS, Model, find_model, list_models, list_organisms, recommended_settings
from truing.cli.display import say
from truing.core.errors import ConfigError, UnknownNameError

__all__ = ["show_models"]


def show_models(console: Console, kind: str, name: str | None) -> None:
    """The organisms and the catalogue, or one model of the catalogue in full.

    Raises:
        ConfigError: Something else than a model is to be shown in full.
        UnknownNameError: No model of that name.
    """
    if name is None:
        console.print(_organism_table())
        console.print(_catalogue_table())
    elif kind == "models":
        _say_model(console, name)
    else:
        raise ConfigError("only models are shown one by one", f"{kind} {name}", "truing list models NAME")


def _organism_table() -> Table:
    table = Table(box=None, pad_edge=False, title="pocket models, which ship with truing", title_justify="left")
    for column in ("name", "parameters", "base EM rate", "coherent", "recipe"):
        table.add_column(column)
    for name, folder in list_organisms().items():
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        em, coherent, recipe = card["base_em_rate"], card["coherent_rate"], card["recipe"]
        table.add_row(
            name,
            f"{card['parameters']:,}",
            f"{em['value']:.1%} ({em['low']:.1%} to {em['high']:.1%})",
            f"{coherent['value']:.1%}",
            f"{recipe['architecture']}, {recipe['alignment']['steps']} alignment steps on "
            f"{len(recipe['alignment']['domains'])} domains",
        )
    return table


def _catalogue_table() -> Table:
    """Every model of the catalogue, one row each; a provider that ends offering it stands with the last day."""
    title = "\ncatalogue: weights elsewhere; a name here or a hub id may stand in a study"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in ("name", "parameters", "active", "architecture", "LoRA rates", "hub id", "also at"):
        table.add_column(column, justify="right" if column in ("parameters", "active") else "left", overflow="fold")
    for model in list_models().values():
        also = [f"{provider}{_ended(model, provider)}" for provider in model.ids if provider != "huggingface"]
        table.add_row(
            model.name,
            _size(model.parameters),
            _size(model.active) if model.active != model.parameters else "",
            model.architecture or "not published",
            _rates(model),
            model.ids.get("huggingface", "-"),
            ", ".join(also) or "-",
        )
    return table


def _say_model(console: Console, name: str) -> None:
    model = find_model(name)
    if model is None:
        raise UnknownNameError.of("catalogue model", name, [*list_models(), *list_organisms()])
    template = model.template
    marks = {True: "yes", False: "no", None: "not checked"}[template.marks_generation]
    facts = {
        "ids": ", ".join(f"{where} {known}{_ended(model, where)}" for where, known in model.ids.items()),
        "parameters": f"{_size(model.parameters)}, {_size(model.active)} for each token",
        "architecture": model.architecture or "not published",
        "LoRA rates": f"{_rates(model)} (where to look: docs/models.md)",
        "LoRA targets": _targets(model),
        "published settings": ", ".join(
            f"{key} {value}" for key, value in recommended_settings(model).items() if key != "source"
        ),
        "chat template": f"{template.name}; marks the assistant's words: {marks}",
        "  system prompt": template.system,
        "  thinking": template.thinking,
    }
    titles = {row.key: row.title for row in BACKENDS}
    for provider, price in model.hosted.items():
        facts[f"{titles[provider]}, $/M tokens"] = (
            f"prefill {price.prefill:g}, sample {price.sample:g}, train {price.train:g}"
        )
    if model.train_price is not None:
        facts[f"{titles[model.owner]}, $/M tokens"] = f"train {model.train_price:g}"
    say(console, model.name)
    for label, text in facts.items():
        say(console, f"  {label:<20}{text}")
    say(console, "Sources are in truing/models.yaml.")


def _targets(model: Model) -> str:
    if model.architecture is None:
        return "not published"
    targets = TARGETS[model.architecture]
    return ", ".join((*targets.modules, *targets.parameters))


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
