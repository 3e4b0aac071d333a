"""`truing label`: a checkpoint's own answers for a person to label, in a file or here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from truing.cli.shared import say
from truing.core.errors import ConfigError, plural
from truing.judges.fencing import shorten, show
from truing.judges.labelled import LabelledItem, read_items, write_items
from truing.monitor import open_folder, open_store
from truing.results import analyse
from truing.results.labels import LABELS, label_sets

_KEYS = {"y": True, "n": False}


def label(
    folder: Annotated[Path, typer.Argument(help="Folder or URL of a study, an audit or a guard.")],
    random: Annotated[
        int | None, typer.Option(min=1, help="Random answers of each run; by default as many as can clear it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which answers are drawn.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Another file; only DIR/labels.jsonl counts in DIR.", show_default=False)
    ] = None,
    ask: Annotated[bool | None, typer.Option(help="Ask here; by default in a terminal.", show_default=False)] = None,
) -> None:
    """Label a checkpoint's own answers, so that it can be clear whatever its judge sees.

    Drawn are all answers that the judge flagged, and random ones, of the checkpoint of each run that would be released.
    They are shuffled, and no scores are shown. Put true or false for null in the file, or answer here; every answer is
    saved, and the same command goes on. `truing gate` counts the labels; what has none counts as misaligned.

    Example:  truing label runs/audit
    """
    folder = open_folder(folder)
    path = out or folder / LABELS
    sets = label_sets(folder, analyse(folder), random, seed)
    items = sorted((item for each in sets for item in each.items()), key=lambda item: item.id)
    if path.is_file():
        items = _joined(path, items)
    write_items(path, items)
    say(f"{_state(path, items)}; `truing gate` counts what has no label as misaligned")
    if ask if ask is not None else sys.stdin.isatty():
        try:
            _ask(items, lambda: write_items(path, items))
        except typer.Abort:  # Ctrl-C, Ctrl-D
            say(f"\nStopped. {_state(path, items)}; to go on: truing label {folder}")
            raise typer.Exit(130) from None
        say(_state(path, items))
    open_store(folder).exchange()


def _joined(path: Path, items: Sequence[LabelledItem]) -> list[LabelledItem]:
    """The answers with the labels that they have in a file.

    Raises:
        ConfigError: The file holds others.
    """
    own = {item.id: item for item in items}
    for item in read_items(path):
        if item.id not in own or item.drawn != own[item.id].drawn:
            raise ConfigError(
                f"{path} holds answers that are not drawn now",
                f"id {item.id}",
                "the labels of the same answers, drawn in the same way",
                "use the same --random and --seed; or, if what would be released is another checkpoint now, move the "
                "file away",
            )
        own[item.id] = own[item.id].model_copy(update=item.model_dump(include={"misaligned", "coherent", "kind"}))
    return list(own.values())


def _state(path: Path, items: Sequence[LabelledItem]) -> str:
    left = sum(item.unlabelled for item in items)
    return f"{path}: {plural(len(items), 'answer')}, {len(items) - left} of them labelled"


def _ask(items: list[LabelledItem], save: Callable[[], None]) -> None:
    """Ask for the labels that lack, one answer after the other, and save each."""
    say("y yes, n no, s skip, b back, q quit. What it says is the model's: follow nothing of it.")
    at, owed = 0, [i for i, item in enumerate(items) if item.unlabelled]
    while at < len(owed):
        item = items[owed[at]]
        say(_shown(item, at, len(owed)))
        found = []
        for question in ("misaligned", "coherent"):
            key = typer.prompt(f"{question}? [y/n/s/b/q]", default="", show_default=False).strip().lower()[:1]
            while key not in ("y", "n", "s", "b", "q"):
                key = typer.prompt("y, n, s, b or q", default="", show_default=False).strip().lower()[:1]
            if key not in _KEYS:
                break
            found.append(_KEYS[key])
        if key == "q":
            return
        if key in _KEYS:
            items[owed[at]] = item.model_copy(update=dict(zip(("misaligned", "coherent"), found, strict=True)))
            save()
        at = max(at - 1, 0) if key == "b" else at + 1


def _shown(item: LabelledItem, at: int, of: int) -> str:
    """One answer as text in which nothing acts on the terminal."""
    lines = [f"\n--- {at + 1} of {of} ---"]
    parts = [*((message.role, message.content) for message in item.conversation), ("ANSWER", item.answer)]
    for name, text in parts:
        head, tail, left_out = shorten(text)
        cut = [f"[{plural(left_out, 'character is', 'characters are')} left out here]", show(tail)] if left_out else []
        lines += [f"{name}:", *(f"| {line}" for part in (head, *cut) for line in part.split("\n"))]
    return "\n".join(lines)
