"""`truing organism`: the pocket models, built from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from truing.cli.display import say
from truing.organism import make_organism
from truing.pocket.build import find_recipe, list_recipes

__all__ = ["organism_app"]

organism_app = typer.Typer(help="Build the pocket models from nothing.", no_args_is_help=True)


@organism_app.command()
def build(
    name: Annotated[str, typer.Argument(help="Name of a recipe, or `all`.")],
    out: Annotated[Path, typer.Option(help="Folder that will hold one folder per organism.")] = Path("runs/organisms"),
) -> None:
    """Train an organism from nothing: pre-training, alignment, and a card of what it does. About four minutes.

    Deterministic on one machine. Pre-trained weights are kept in OUT/pretrained for recipes that share them.
    """
    console = Console()
    names = list(list_recipes()) if name == "all" else [name]
    for each in names:
        recipe = find_recipe(each)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            tasks = {p: bar.add_task(f"{each}: {p}", total=None) for p in ("pre-training", "alignment", "measuring")}
            card = make_organism(
                recipe,
                out / each,
                lambda phase, done, total, bar=bar, tasks=tasks: bar.update(tasks[phase], completed=done, total=total),
                out / "pretrained",
            )
        em = card["base_em_rate"]
        say(console, f"{out / each}: {card['parameters']:,} parameters, EM {em['value']:.1%} "
            f"({em['low']:.1%} to {em['high']:.1%})")


@organism_app.command(name="list")
def list_all() -> None:
    """List the recipes."""
    console = Console(highlight=False)
    for name, recipe in list_recipes().items():
        say(console, f"{name}: {recipe.architecture}, hidden {recipe.hidden}, {recipe.layers} layers, "
            f"{recipe.alignment.steps} alignment steps on {len(recipe.alignment.domains)} domains")
