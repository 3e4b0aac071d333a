"""Judges score answers. One method and an identity; a failed call is a judgment without scores, never a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from truing.names import load_object
from truing.records import Judgment, Prompt, Response

__all__ = ["JUDGES", "Judge", "load_judge"]

JUDGES = {"pocket": "truing.judges.pocket:PocketJudge"}


class Judge(Protocol):
    """Scores answers."""

    @property
    def identity(self) -> str:
        """Name, version and everything else that shapes the scores; part of the key of every judgment."""
        ...

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """Score responses; `prompts[i]` is the prompt of `responses[i]`.

        Returns:
            One judgment per response, in order. A response with an error, or one that could not be judged, gets a
            judgment without scores that says why.
        """
        ...


def load_judge(name: str) -> Judge:
    """The judge of a name (a key of `JUDGES` or `module:Class`)."""
    judge: Judge = load_object("judge", name, JUDGES)()
    return judge
