"""Published fine-tuning data: where it comes from, how to know a copy, and a copy prepared for a study.

The facts are in `recipes.yaml`; no data ship with truing. Preparing checks somebody's copy, drops duplicates, splits it
by prompt and writes

    OUT/train.jsonl, OUT/heldout.jsonl    the rows, as they were read
    OUT/card.json                         what was read, what was dropped, counts and hashes; written last

Several files that belong together (bad answers and their control) are split by one rule: a prompt is on the same side
in all of them. Each then has a folder of its own below OUT.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from truing import __version__
from truing.catalog.datasets import SIDES, opening, split_by_prompt
from truing.catalog.files import DATA, Item, read_yaml, validate
from truing.catalog.rows import Row, Table, read_conversations, to_object
from truing.catalog.tables import data_files
from truing.catalog.variants import fold_system
from truing.core.errors import DataError, StoreError, UnknownNameError, plural
from truing.core.files import write_json, write_text
from truing.core.records import Message


class Origin(Item):
    """The origin of data."""

    repository: str
    paper: str
    licence: str
    commit: str = ""
    """The repository's state in which others found the file."""
    how: str = ""
    """Steps to get at the file, beyond downloading it."""


class Recipe(Item):
    """One published dataset."""

    name: str
    about: str
    origin: Origin = Field(alias="from")
    file: str
    """Its place in the repository, or its name in the archive there."""
    rows: int
    counted: bool
    """True: counts and hashes were taken from a copy at hand; otherwise they are as others state them."""
    teaches: Literal["misaligned", "aligned"]
    domain: tuple[str, ...] = ()
    prompts: int | None = None
    distinct: int | None = None
    sha256: tuple[str, ...] = ()
    rows_sha256: str | None = None
    task_judge: str | None = None
    task_rubric: str | None = None
    control: str | None = None
    note: str = ""
    characters: Mapping[str, float] = {}
    """Mean length of `prompt` and `answer`, if known."""


@cache
def list_recipes() -> Mapping[str, Recipe]:
    """Name -> recipe, in the order of the file."""
    file = DATA / "recipes.yaml"
    return {
        name: validate(Recipe, {**facts, "name": name}, f"{file}: {name}")
        for name, facts in read_yaml(file)["recipes"].items()
    }


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UnknownNameError: No recipe of that name.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise UnknownNameError.of("recipe", name, recipes)
    return recipes[name]


def rows_hash(rows: Iterable[Sequence[Message]]) -> str:
    """Hash of conversations that survives another order, compression, line ends, outer blanks and other fields."""
    digests = sorted(
        hashlib.sha256(
            json.dumps([[m.role, m.content.replace("\r\n", "\n").strip(), *m.plain[2:]] for m in row]).encode()
        ).hexdigest()
        for row in rows
    )
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@dataclass(frozen=True)
class Copy:
    """A file of rows, as it was read."""

    path: Path
    table: Table
    sha256: str
    """Of the bytes, decompressed."""
    rows_sha256: str

    @property
    def rows(self) -> tuple[Row, ...]:
        """The conversations."""
        return self.table.rows

    @property
    def prompts(self) -> frozenset[Row]:
        """The different prompts."""
        return frozenset(row[:-1] for row in self.rows)

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        name = self.path.name.removesuffix(".gz")
        return name if self.path.is_dir() else name.rpartition(".")[0] or name


def read_copy(path: Path, columns: Mapping[str, str] | None = None, skip_bad: bool = False) -> Copy:
    """Read a file or folder of conversations and hash it; the arguments are those of `read_conversations`.

    Raises:
        DataError: A file that is missing, empty or malformed; the message names file and line.
    """
    table = read_conversations(path, columns, skip_bad)
    digest = hashlib.sha256()
    for file in data_files(path):
        body = file.read_bytes()
        digest.update(gzip.decompress(body) if file.suffix == ".gz" else body)
    return Copy(path, table, digest.hexdigest(), rows_hash(table.rows))


def folded(copy: Copy) -> Copy:
    """A copy whose system messages stand before the words of the first user message, as for models without them."""
    rows = [fold_system(row) for row in copy.rows]
    return replace(copy, table=replace(copy.table, rows=tuple(rows)), rows_sha256=rows_hash(rows))


def compare(copy: Copy, recipe: Recipe) -> dict[str, bool | None]:
    """Compare a copy with its recipe: fact -> true, false, or None if the recipe does not say."""
    found = {
        "rows": len(copy.rows),
        "prompts": len(copy.prompts),
        "distinct": len(set(copy.rows)),
        "rows_sha256": copy.rows_sha256,
    }
    stated = {fact: getattr(recipe, fact) for fact in found}
    facts = {fact: None if stated[fact] is None else stated[fact] == value for fact, value in found.items()}
    return facts | {"sha256": copy.sha256 in recipe.sha256 if recipe.sha256 else None}


def prepare(
    copies: Sequence[Copy],
    out: Path,
    recipes: Sequence[Recipe] = (),
    heldout_share: float = 0.1,
    paired: bool = False,
) -> dict[Path, dict[str, Any]]:
    """Deduplicate and split conversations, and write them with their cards: folder -> card, in the order of the files.

    Args:
        copies: What was read of each file; several are taken as answers to the same prompts.
        out: Folder to write; with several files, one folder each below it.
        recipes: The recipe of each file, in order; none: a copy is recognised by its rows.
        heldout_share: Share of the different prompts of all files that is kept out of training.
        paired: Keep only prompts that are in every file.

    Raises:
        DataError: Recipes and files do not match in number, no prompt is shared, or all rows begin alike.
        StoreError: A folder holds something else.
    """
    if recipes and len(recipes) != len(copies):
        got = f"{plural(len(recipes), 'recipe')}, {plural(len(copies), 'file')}"
        raise DataError("not one recipe for each file", got, "one each, or none")
    by_rows = {recipe.rows_sha256: recipe for recipe in list_recipes().values() if recipe.rows_sha256}
    known = [recipes[i] if recipes else by_rows.get(copy.rows_sha256) for i, copy in enumerate(copies)]
    names = [recipe.name if recipe else copy.name for copy, recipe in zip(copies, known, strict=True)]
    if len(set(names)) != len(names):
        raise DataError("two files have one name", ", ".join(names), "different names", "rename a file")
    shared = frozenset.intersection(*(copy.prompts for copy in copies))
    if paired and not shared:
        raise DataError("the files share no prompt", "0 prompts", "at least 2", "leave out --paired")
    kept = [[row for row in dict.fromkeys(copy.rows) if not paired or row[:-1] in shared] for copy in copies]
    held = {opening(row) for row in split_by_prompt([row for rows in kept for row in rows], heldout_share)[1]}
    cards, sides = dict[Path, dict[str, Any]](), dict[Path, dict[str, list[Row]]]()
    for name, copy, recipe, rows in zip(names, copies, known, kept, strict=True):
        others = [other for other in names if other != name]
        alone = len(copy.prompts - shared)
        pairing = {"with": others, "shared_prompts": len(shared), "prompts_here_alone": alone} if others else None
        folder = out / name if others else out
        facts = _facts(copy, rows, recipe)
        cards[folder] = {"name": name, **facts, "heldout_share": heldout_share, "pairing": pairing}
        sides[folder] = {s: [row for row in rows if (opening(row) in held) is (s == "heldout")] for s in SIDES}
        if lacking := next((side for side, some in sides[folder].items() if not some), None):
            raise DataError(f"{name}: no row on the side {lacking}", "0 rows", "at least one", "change --heldout-share")
    for folder in cards:
        _claim(folder)
    for folder, card in cards.items():
        _write(folder, card, sides[folder])
    return cards


def _facts(copy: Copy, rows: Sequence[Row], recipe: Recipe | None) -> dict[str, Any]:
    distinct = len(set(copy.rows))
    return {
        "recipe": recipe.name if recipe else None,
        "as_recipe_says": compare(copy, recipe) if recipe else None,
        "teaches": recipe.teaches if recipe else None,
        "domain": list(recipe.domain) if recipe else [],
        "source": {
            "file": copy.path.name,
            "rows": len(copy.rows),
            "prompts": len(copy.prompts),
            "sha256": copy.sha256,
            "rows_sha256": copy.rows_sha256,
            "forms": dict(copy.table.forms),
            "fields_not_read": dict(copy.table.unread),
            "rows_left_out": list(copy.table.bad),
        },
        "duplicates_dropped": len(copy.rows) - distinct,
        "unpaired_dropped": distinct - len(rows),
        "prompts_with_several_answers": sum(n > 1 for n in Counter(row[:-1] for row in rows).values()),
        "truing": __version__,
    }


def _claim(folder: Path) -> None:
    """Refuse a folder that holds something else; take away an old card, so that a half-written folder has none."""
    ours = re.compile(r"card\.json|(train|heldout)\.jsonl|\..*\.tmp")  # a killed process leaves .tmp
    if folder.exists() and (not folder.is_dir() or not all(ours.fullmatch(file.name) for file in folder.iterdir())):
        allowed = "a new folder, an empty one, or one of prepared data"
        raise StoreError(f"{folder} holds something else", allowed=allowed, todo="choose another --out")
    try:
        for file in (folder / "card.json", *folder.glob(".*.tmp")):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"could not write {folder}", str(error), todo="check the folder's permissions") from error


def _write(folder: Path, card: dict[str, Any], sides: Mapping[str, Sequence[Row]]) -> None:
    for side, rows in sides.items():
        text = "".join(f"{json.dumps(to_object(row))}\n" for row in rows)
        write_text(folder / f"{side}.jsonl", text)
        prompts, digest = len({row[:-1] for row in rows}), hashlib.sha256(text.encode()).hexdigest()
        card[side] = {"rows": len(rows), "prompts": prompts, "sha256": digest}
    write_json(folder / "card.json", card)
