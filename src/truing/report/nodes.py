"""A value of `analysis.json` that knows its place, so that whatever does not follow the schema is named.

All text passes `readable`, so that no control or direction character, lone surrogate or other invisible thing
from a model reaches a page unseen. Undefined numbers (null) become NaN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from truing.core.errors import DataError

__all__ = ["Node", "readable", "refuse"]

T = TypeVar("T")

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control, direction and tag characters, lone surrogates. Joiners stay: scripts need them."""
_STACKED_MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)


def readable(text: str) -> str:
    """Text with invisible characters written out as their code points and stacked accents cut after four."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _STACKED_MARKS.sub(r"\1", _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text))


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the analysis that knows its place."""

    value: Any
    where: str

    def __getitem__(self, key: str) -> Node:
        place = f"{self.where}.{key}" if self.where else key
        if not isinstance(self.value, Mapping):
            raise self.wrong("an object")
        if key not in self.value:
            raise refuse(place, "nothing", f"the field {key}")
        return Node(self.value[key], place)

    def items(self) -> Iterator[Node]:
        """The entries of a list."""
        if not isinstance(self.value, list | tuple):
            raise self.wrong("a list")
        return (Node(value, f"{self.where}[{index}]") for index, value in enumerate(self.value))

    def fields(self) -> dict[str, Node]:
        """The fields of an object whose names the schema does not give."""
        if not isinstance(self.value, Mapping):
            raise self.wrong("an object")
        return {str(key): self[key] for key in self.value}

    def text(self) -> str:
        """Text, made readable."""
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return readable(self.value)

    def optional_text(self) -> str | None:
        """Text or null."""
        return None if self.value is None else self.text()

    def one_of(self, allowed: tuple[str, ...]) -> str:
        """One of some words."""
        if self.value not in allowed:
            raise self.wrong(" or ".join(allowed))
        return str(self.value)

    def number(self) -> float:
        """NaN for null."""
        if self.value is None:
            return math.nan
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number or null")
        return float(self.value) if math.isfinite(self.value) else math.nan

    def known_number(self) -> float:
        """A number that may not be null."""
        if math.isnan(number := self.number()):
            raise self.wrong("a number")
        return number

    def count(self) -> int:
        """A whole number, 0 or more."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 0:
            raise self.wrong("a whole number, 0 or more")
        return self.value

    def optional_count(self) -> int | None:
        """A whole number or null."""
        return None if self.value is None else self.count()

    def truth(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def optional(self, read: Callable[[Node], T]) -> T | None:
        """What `read` makes of the value; None for null."""
        return None if self.value is None else read(self)

    def each(self, read: Callable[[Node], T]) -> tuple[T, ...]:
        """What `read` makes of every entry of a list."""
        return tuple(read(node) for node in self.items())

    def wrong(self, allowed: str) -> DataError:
        """What to raise when the value is none of `allowed`."""
        return refuse(self.where, repr(self.value)[:80], allowed)


def refuse(where: str, got: str, allowed: str) -> DataError:
    """The error of an analysis that does not follow the schema at a place."""
    todo = "the schema is in docs/analysis.md; analyse the study anew with: truing report DIR"
    return DataError(f"analysis.json does not follow its schema at {where or 'its top'}", got, allowed, todo)
