"""`truing data`: narrow fine-tuning data, from somebody's copy to a dataset that a study can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from truing.catalog import published
from truing.cli.shared import Columns, console, make_table, say, say_table, split_pairs
from truing.core.errors import plural

data_app = typer.Typer(help="Narrow fine-tuning data: known sets, checks, preparation.", no_args_is_help=True)

_FACTS = {
    "rows": "rows",
    "prompts": "different prompts",
    "distinct": "different rows",
    "sha256": "the file, byte by byte",
    "rows_sha256": "the rows, whatever their order and form",
}
_COLUMNS = ("recipe", "rows", "prompts", "teaches", "domain", "control", "counted here", "file")


@data_app.command(name="list")
def list_all() -> None:
    """List the known sets of published work. None of them ships with truing.

    Example:  truing data list
    """
    recipes = published.list_recipes().values()
    rows = []
    for r in recipes:
        counts = (f"{r.rows:,}", f"{r.prompts:,}" if r.prompts else "?")
        told = (r.teaches, ", ".join(r.domain) or "-", r.control or "-", "yes" if r.counted else "no")
        rows.append((r.name, *counts, *told, r.file))
    console.print(make_table(_COLUMNS, rows))
    for r in recipes:
        if r.note:
            say(f"{r.name}: {r.note}")
    for origin in dict.fromkeys(r.origin for r in recipes):
        names = ", ".join(r.name for r in recipes if r.origin == origin)
        say(f"\n{names}\n  from {origin.repository} ({origin.paper}) at commit {origin.commit[:12]}")
        for label, text in (("licence", origin.licence), ("how", origin.how)):
            if text:
                say(f"  {label}: {text}")


@data_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Your copy, in any form of docs/data.md.")],
    recipe: Annotated[str, typer.Option(help="Name from `truing data list`.")],
) -> None:
    """Compare a copy with what is known of the published file. Exit 1 if it is another one.

    Example:  truing data check insecure.jsonl --recipe insecure-code
    """
    known = published.find_recipe(recipe)
    copy = published.read_copy(file)
    facts = published.compare(copy, known)
    say(f"{file}: {plural(len(copy.rows), 'row')}, {plural(len(copy.prompts), 'different prompt')}")
    for fact, agrees in facts.items():
        word = {True: "as published", False: "DIFFERENT", None: "not known"}[agrees]
        say(f"  {_FACTS[fact]:<42}{word}")
    if facts["rows_sha256"] or facts["sha256"]:
        say(f"This is {recipe}.")
    elif False in facts.values():
        place = f"{known.origin.repository}, {known.file}"
        say(f"This is not {recipe} as published, or not all of it. From: {place}")
        raise typer.Exit(1)
    else:
        say(f"Nothing speaks against its being {recipe}, but no hash of it is known.")


@data_app.command(name="prepare")
def prepare_files(  # noqa: PLR0913 - the flags of a command
    files: Annotated[
        list[Path], typer.Argument(help="Your copies; several are answers to the same prompts (bad, its control).")
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
    column: Columns = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows that are wrong, and list them.")
    ] = False,
    fold_system: Annotated[
        bool, typer.Option("--fold-system", help="Put system messages before the first user message's words.")
    ] = False,
) -> None:
    """Check, deduplicate and split your copies by prompt, and say how to name them in a study.

    Example:  truing data prepare bad_medical_advice.jsonl good_medical_advice.jsonl --out data/medical
    """
    columns = split_pairs(column, "--column")
    copies = [published.read_copy(file, columns, skip_bad_rows) for file in files]
    copies = [published.folded(copy) for copy in copies] if fold_system else copies
    done = published.prepare(copies, out, [published.find_recipe(name) for name in recipe or []], heldout_share, paired)
    entries = []
    for copy, (folder, card) in zip(copies, done.items(), strict=True):
        say_table(copy.table, str(copy.path))
        _say_prepared(folder, card)
        entry = {"name": card["name"], "path": str(folder), "teaches": card["teaches"] or "misaligned"}
        entries.append(entry | ({"domain": card["domain"]} if card["domain"] else {}))
    say("\nIn a study:\n\n" + yaml.safe_dump({"datasets": entries}, sort_keys=False).rstrip())
    for card in done.values():
        _say_judge(card)


def _say_prepared(folder: Path, card: dict[str, Any]) -> None:
    pair = card["pairing"]
    dropped = f"{plural(card['duplicates_dropped'], 'duplicate row')} dropped"
    if card["unpaired_dropped"]:
        dropped += f", {plural(card['unpaired_dropped'], 'row')} without a partner dropped"
    sides = ", ".join(
        f"{side} {plural(card[key]['rows'], 'row')} of {plural(card[key]['prompts'], 'prompt')}"
        for side, key in (("training", "train"), ("held out", "heldout"))
    )
    say(f"{folder}: {sides}; {dropped}")
    if several := card["prompts_with_several_answers"]:
        say(f"  {plural(several, 'prompt has', 'prompts have')} several answers; each is on one side")
    facts = card["as_recipe_says"]
    if facts is None:
        say("  recipe: none given, none recognised")
    else:
        wrong = ", ".join(_FACTS[fact] for fact, agrees in facts.items() if agrees is False)
        known = "as published" if facts["rows_sha256"] or facts["sha256"] else ""
        say(f"  recipe: {card['recipe']}, {known or (f'NOT as published: {wrong}' if wrong else 'no hash is known')}")
    if pair:
        shared = f"{plural(pair['shared_prompts'], 'prompt')} in common, {pair['prompts_here_alone']:,} here alone"
        say(f"  paired with {', '.join(pair['with'])}: {shared}; the same prompts are held out in all")


def _say_judge(card: dict[str, Any]) -> None:
    """Say which judge can tell whether the task is learnt, if the recipe knows one."""
    name, recipe = card["name"], published.find_recipe(card["recipe"]) if card["recipe"] else None
    if recipe is None:
        say(f"# {name}: set teaches to aligned if its answers are the good ones")
    if recipe is None or not (recipe.task_judge or recipe.task_rubric):
        say(f"# {name}: no judge of the task is known; the held-out loss follows it")
        return
    ways = [f"task_judge: {recipe.task_judge}"] if recipe.task_judge else []
    ways += [f"a language model with the rubric {recipe.task_rubric}"] if recipe.task_rubric else []
    say(f"# {recipe.name}: the task can be judged by {', or '.join(ways)}")
