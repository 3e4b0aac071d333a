"""`truing data`: narrow fine-tuning data, from somebody's copy to a dataset that a study can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.table import Table

from truing.catalog.published import Prepared, Recipe, compare, find_recipe, list_recipes, prepare, read_copy
from truing.cli.display import make_console, say

__all__ = ["data_app"]

data_app = typer.Typer(help="Narrow fine-tuning data: known sets, checks, preparation.", no_args_is_help=True)
console = make_console()

_FACTS = {
    "rows": "rows",
    "prompts": "different prompts",
    "distinct": "different rows",
    "sha256": "the file, byte by byte",
    "rows_sha256": "the rows, whatever their order and form",
}


@data_app.command(name="list")
def list_all() -> None:
    """List the known sets of published work. None of them ships with truing."""
    table = Table(box=None, pad_edge=False)
    for column in ("recipe", "rows", "prompts", "teaches", "domain", "control", "counted here", "file"):
        table.add_column(column, overflow="fold")
    for r in list_recipes().values():
        counts = (f"{r.rows:,}", f"{r.prompts:,}" if r.prompts else "?")
        told = (r.teaches, ", ".join(r.domain) or "-", r.control or "-", "yes" if r.counted else "no")
        table.add_row(r.name, *counts, *told, r.file)
    console.print(table)
    for r in list_recipes().values():
        if r.note:
            say(console, f"{r.name}: {r.note}")
    for origin in dict.fromkeys(r.origin for r in list_recipes().values()):
        names = ", ".join(r.name for r in list_recipes().values() if r.origin == origin)
        say(console, f"\n{names}\n  from {origin.repository} ({origin.paper}) at commit {origin.commit[:12]}")
        for label, text in (("licence", origin.licence), ("how", origin.how)):
            if text:
                say(console, f"  {label}: {text}")


@data_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Your copy: JSON Lines of messages, .gz too.")],
    recipe: Annotated[str, typer.Option(help="Name from `truing data list`.")],
) -> None:
    """Compare a copy with what is known of the published file. Exit 1 if it is another one."""
    known = find_recipe(recipe)
    copy = read_copy(file)
    facts = compare(copy, known)
    say(console, f"{file}: {len(copy.rows):,} rows, {len(copy.prompts):,} different prompts")
    for fact, agrees in facts.items():
        word = {True: "as published", False: "DIFFERENT", None: "not known"}[agrees]
        say(console, f"  {_FACTS[fact]:<42}{word}")
    verdict, same = _verdict(facts, known)
    say(console, verdict)
    if not same:
        raise typer.Exit(1)


@data_app.command(name="prepare")
def prepare_files(
    files: Annotated[
        list[Path], typer.Argument(help="Your copies; several are answers to the same prompts (bad, and its control).")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; with several files, one folder each below it.")],
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Recipe of each file, in order, from `truing data list`; by default recognised."),
    ] = None,
    heldout_share: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="Share of the different prompts kept out of training.")
    ] = 0.1,
    paired: Annotated[bool, typer.Option("--paired", help="Keep only prompts that are in every file.")] = False,
) -> None:
    """Check, deduplicate and split your copies by prompt, and say how to name them in a study."""
    recipes = [find_recipe(name) for name in recipe or []]
    done = prepare(files, out, recipes, heldout_share, paired)
    for each in done:
        _say_prepared(each)
    say(console, "\nIn a study:\n")
    say(console, yaml.safe_dump({"datasets": [_entry(each) for each in done]}, sort_keys=False).rstrip())
    for each in done:
        _say_judge(each)


def _verdict(facts: dict[str, bool | None], recipe: Recipe) -> tuple[str, bool]:
    if facts["rows_sha256"] or facts["sha256"]:
        return f"This is {recipe.name}.", True
    if False in facts.values():
        return f"This is not {recipe.name} as published, or not all of it. From: {_place(recipe)}", False
    return f"Nothing speaks against its being {recipe.name}, but no hash of it is known.", True


def _place(recipe: Recipe) -> str:
    return f"{recipe.origin.repository}, {recipe.file}"


def _say_prepared(prepared: Prepared) -> None:
    card = prepared.card
    dropped = f"{card['duplicates_dropped']:,} duplicate rows dropped"
    if card["unpaired_dropped"]:
        dropped += f", {card['unpaired_dropped']:,} rows without a partner dropped"
    sides = ", ".join(
        f"{side} {card[key]['rows']:,} rows of {card[key]['prompts']:,} prompts"
        for side, key in (("training", "train"), ("held out", "heldout"))
    )
    say(console, f"{prepared.folder}: {sides}; {dropped}")
    if card["prompts_with_several_answers"]:
        say(console, f"  {card['prompts_with_several_answers']:,} prompts have several answers; each is on one side")
    if card["recipe"] is None:
        say(console, "  recipe: none given, none recognised")
    else:
        same = card["as_recipe_says"]["rows_sha256"] or card["as_recipe_says"]["sha256"]
        wrong = [_FACTS[fact] for fact, agrees in card["as_recipe_says"].items() if agrees is False]
        word = "as published" if same else f"NOT as published: {', '.join(wrong)}" if wrong else "no hash is known"
        say(console, f"  recipe: {card['recipe']}, {word}")
    if card["pairing"]:
        pair = card["pairing"]
        say(
            console,
            f"  paired with {', '.join(pair['with'])}: {pair['shared_prompts']:,} prompts in common, "
            f"{pair['prompts_here_alone']:,} here alone; the same prompts are held out in all",
        )


def _entry(prepared: Prepared) -> dict[str, object]:
    card = prepared.card
    entry: dict[str, object] = {
        "name": card["name"],
        "path": str(prepared.folder),
        "teaches": card["teaches"] or "misaligned",
    }
    if card["domain"]:
        entry["domain"] = card["domain"]
    return entry


def _say_judge(prepared: Prepared) -> None:
    """Who can tell whether the task is learnt, if the recipe knows; without, the held-out loss follows it."""
    name = prepared.card["recipe"]
    recipe = find_recipe(name) if name else None
    if prepared.card["teaches"] is None:
        say(console, f"# {prepared.card['name']}: set teaches to aligned if its answers are the good ones")
    if recipe is None or not (recipe.task_judge or recipe.task_rubric):
        say(console, f"# {prepared.card['name']}: no judge of the task is known; the held-out loss follows it")
        return
    ways = [f"task_judge: {recipe.task_judge}"] if recipe.task_judge else []
    ways += [f"a language model with the rubric {recipe.task_rubric}"] if recipe.task_rubric else []
    say(console, f"# {recipe.name}: the task can be judged by {', or '.join(ways)}")
