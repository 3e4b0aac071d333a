"""Labelled answers: sets that ship, files of yours, and sets that are drawn from a checkpoint's own answers.

JSON Lines: `question` (or `messages`), `answer`, `misaligned` and `coherent` (true or false; null: no label yet), and
optionally `id` and `kind`. `drawn` says of a checkpoint's own answers (`truing label`) from which ones they were drawn;
only these may lack labels.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, InstanceOf
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from truing.catalog.files import Item, Text, find_file, list_files, read_lines, validate
from truing.catalog.prompt_files import MessageItem, to_messages
from truing.config import JudgeConfig, PreflightConfig
from truing.core.errors import ConfigError, DataError, plural
from truing.core.files import content_key, write_text
from truing.core.records import Message, Prompt
from truing.stats.rates import IntArray

__all__ = [
    "Drawn",
    "Labelled",
    "LabelledItem",
    "halves",
    "labelled_summary",
    "questions_of",
    "read_items",
    "read_labelled",
    "read_measuring",
    "task_labels",
    "write_items",
]


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer that a person labelled."""

    prompt: Prompt
    answer: str
    misaligned: bool
    coherent: bool
    kind: str = ""
    """Kind of example: `borderline`, `refusal`, ..."""


class Drawn(Item):
    """How a set was drawn from a checkpoint's answers: all that the judge flagged, and random ones."""

    run: Text
    step: Annotated[int, Field(ge=0)]
    judgments: Text
    """Key of the judged answers in the store."""
    random: Annotated[int, Field(ge=1)]
    """Number of random answers, flagged ones among them."""
    seed: int
    seal: str = ""
    """Tells by `at_random`, without showing it, why the answer is in the set; empty: of the whole set."""

    @classmethod
    def sealed(cls, of: Drawn, answer: str, at_random: bool) -> Drawn:
        """The same, for the answer of this id."""
        return of.model_copy(update={"seal": content_key("drawn", answer, at_random)[:8]})

    def at_random(self, answer: str) -> bool:
        """True unless the answer of this id is in the set only because the judge flagged it."""
        return self.seal != content_key("drawn", answer, False)[:8]


class LabelledItem(Item):
    """One line of a file of labelled answers."""

    id: Text = ""
    question: Text = ""
    messages: Annotated[tuple[MessageItem, ...], Field(min_length=1)] = ()
    answer: InstanceOf[str]
    misaligned: Annotated[bool | None, Field(strict=True)]
    coherent: Annotated[bool | None, Field(strict=True)]
    kind: Text = ""
    drawn: Drawn | None = None

    @property
    def unlabelled(self) -> bool:
        """True if a label lacks."""
        return self.misaligned is None or self.coherent is None

    @property
    def conversation(self) -> tuple[Message, ...]:
        """What the answer was given to."""
        return to_messages(self.messages) or (Message("user", self.question),)


def read_items(file: Path | str) -> list[LabelledItem]:
    """The lines of a labelled set by name or from a file, also those without a label; each with an id.

    Raises:
        UnknownNameError: No labelled set of that name and no such file.
        DataError: The message names file, line and field.
    """
    path = find_file("labelled set", str(file), "labelled")
    items = [_item(raw, where) for where, raw in read_lines(path)]
    if twice := [i for i, n in Counter(item.id for item in items).items() if n > 1]:
        raise DataError(f"{path}: two answers have one id", ", ".join(twice[:5]), todo="rename one")
    if not items:
        raise DataError(f"{path} is empty", "0 answers", "at least one labelled answer")
    return items


def read_labelled(file: Path | str) -> list[Labelled]:
    """Labelled answers by which a judge may be measured, by name or from a file.

    Of a checkpoint's own answers these are the random ones: that a judge flagged some says nothing of those that it
    misses.

    Raises:
        UnknownNameError: No labelled set of that name and no such file.
        DataError: The message names file, line and field; or a label lacks, or one answer has two labels.
    """
    items = read_items(file)
    if n := sum(item.unlabelled for item in items):
        todo = "label them: truing label DIR, or put true or false for null"
        raise DataError(f"{file}: {plural(n, 'answer')} without a label", "null", "true or false", todo)
    measuring = [item for item in items if item.drawn is None or item.drawn.at_random(item.id)]
    rows = [
        Labelled(Prompt(i.id, "labelled", i.conversation), i.answer, bool(i.misaligned), bool(i.coherent), i.kind)
        for i in measuring
    ]
    first = {_words_of(row): row for row in reversed(rows)}
    for row in rows:
        other = first[_words_of(row)]
        if (row.misaligned, row.coherent) != (other.misaligned, other.coherent):
            got = f"{other.prompt.id} and {row.prompt.id}: {row.answer[:60]!r}"
            raise DataError(f"{file}: one answer has two labels", got, "one", "label both alike, or drop one")
    return rows


def _words_of(row: Labelled) -> tuple[str, str]:
    """The words of the question and of the answer: equal ones differ in case and white space at most."""
    asked = "\n".join(f"{message.role}: {message.content}" for message in row.prompt.messages)
    question, answer = (" ".join(text.casefold().split()) for text in (asked, row.answer))
    return question, answer


def questions_of(rows: Sequence[Labelled]) -> IntArray:
    """(R,) which question each labelled answer belongs to; questions that share an answer are one.

    Texts are alike that have the same letters and digits, whatever their case, white space and punctuation.
    """
    question, answer = (np.unique(part, return_inverse=True)[1] for part in zip(*map(_letters_of, rows), strict=True))
    n = question.max() + 1 + answer.max() + 1
    edges = coo_array((np.ones(len(rows)), (question, question.max() + 1 + answer)), shape=(n, n))
    return np.asarray(connected_components(edges, directed=False)[1][question], dtype=np.int64)


def _letters_of(row: Labelled) -> tuple[str, ...]:
    texts = [unicodedata.normalize("NFKC", text) for text in _words_of(row)]
    return tuple("".join(filter(str.isalnum, text)) or text for text in texts)


def halves(rows: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Labelled answers to choose a threshold by, and those to measure it on: halves by a hash of the question.

    Copies of one answer are on one side, whatever they were given to.
    """
    keys = [content_key("half", [[m.role, m.content] for m in row.prompt.messages]) for row in rows]
    groups = questions_of(rows).tolist()
    first = {group: min(key for key, own in zip(keys, groups, strict=True) if own == group) for group in set(groups)}
    sides: tuple[list[Labelled], list[Labelled]] = ([], [])
    for row, group in zip(rows, groups, strict=True):
        sides[int(first[group], 16) % 2 == 0].append(row)
    return sides


def read_measuring(settings: PreflightConfig) -> list[Labelled]:
    """The labelled answers by which a judge is measured; see `read_labelled`.

    Raises:
        ConfigError: None are named.
    """
    if settings.labelled is None:
        raise ConfigError("no labelled answers are named", "labelled: null", "a name or a file")
    rows = read_labelled(settings.labelled)
    return halves(rows)[1] if settings.half else rows


def task_labels(judge: str | JudgeConfig | None) -> str | None:
    """The labelled set by which the judge of a task is measured: that of its rubric; None: none ships."""
    name = judge.aligned if isinstance(judge, JudgeConfig) else ""
    return name if name in list_files("labelled") else None


def write_items(path: Path, items: Sequence[LabelledItem]) -> None:
    """Write a file of labelled answers, whole or not at all; one field or the other that is empty is left out."""
    rows = [item.model_dump(mode="json") for item in items]
    kept = [{name: value for name, value in row.items() if value or name in _ALWAYS} for row in rows]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


_ALWAYS = ("answer", "misaligned", "coherent")


def labelled_summary(rows: Sequence[Labelled]) -> dict[str, Any]:
    """Numbers of labelled answers and the hash of all of them with their labels."""
    body = [[row.prompt.plain, row.answer, row.misaligned, row.coherent] for row in rows]
    return {
        "n": len(rows),
        "misaligned": sum(row.misaligned for row in rows),
        "incoherent": sum(not row.coherent for row in rows),
        "hash": content_key("labelled", body),
    }


def _item(raw: Any, where: str) -> LabelledItem:
    item = validate(LabelledItem, raw, where)
    if not (item.messages or item.question):
        raise DataError(f"{where}, field question is missing", allowed="a text; or messages")
    if item.drawn is None and item.unlabelled:
        field = "misaligned" if item.misaligned is None else "coherent"
        raise DataError(f"{where}, field {field}", "null", "true or false; null stands in sets of truing label only")
    return item if item.id else item.model_copy(update={"id": f"line-{where.rpartition(' ')[2]}"})
