"""`python -m organisms`: the commands that build the pocket models from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from organisms.build import make_organism
from organisms.training import Recipe, find_recipe, list_recipes
from truing.cli.shared import console, say

app = typer.Typer(name="organisms", help="Build the pocket models from nothing.", no_args_is_help=True)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="Name of a recipe, or `all`.")],
    out: Annotated[Path, typer.Option(help="Folder that will hold one folder per organism.")] = Path("runs/organisms"),
) -> None:
    """Train an organism from nothing: pre-training, alignment, and a card of what it does. About four minutes.

    Deterministic on one machine. Pre-trained weights are kept in OUT/pretrained for recipes that share them.
    """
    names = list(list_recipes()) if name == "all" else [name]
    try:
        for recipe in [find_recipe(each) for each in names]:
            _build(recipe, out)
    except KeyboardInterrupt:
        say(f"\nStopped. Whole pre-training is kept in {out / 'pretrained'}; to go on: the same command")
        raise typer.Exit(130) from None


@app.command(name="list")
def list_all() -> None:
    """List the recipes."""
    for name, recipe in list_recipes().items():
        alignment = f"{recipe.alignment.steps} alignment steps on {len(recipe.alignment.domains)} domains"
        say(f"{name}: {recipe.architecture}, hidden {recipe.hidden}, {recipe.layers} layers, {alignment}")


def _build(recipe: Recipe, out: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        phases = ("pre-training", "alignment", "measuring")
        tasks = {phase: bar.add_task(f"{recipe.name}: {phase}", total=None) for phase in phases}

        def progress(phase: str, done: int, total: int) -> None:
            bar.update(tasks[phase], completed=done, total=total)

        card = make_organism(recipe, out / recipe.name, progress, out / "pretrained")
    em = card["base_em_rate"]
    rate = f"EM {em['value']:.1%} ({em['low']:.1%} to {em['high']:.1%})"
    say(f"{out / recipe.name}: {card['parameters']:,} parameters, {rate}")


if __name__ == "__main__":
    app()
