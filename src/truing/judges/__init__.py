"""Judges score answers. One method and an identity; a failed call is a judgment without scores, never a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from truing.catalog.names import resolve_model
from truing.catalog.truth import load_truth
from truing.config import JudgeConfig
from truing.core.chat import Completer
from truing.core.errors import UnknownNameError
from truing.core.plugins import load_object
from truing.core.records import Judgment, Prompt, Response

__all__ = ["COMPLETERS", "JUDGES", "Judge", "calls_per_answer", "check_judge", "load_judge"]

JUDGES = {"pocket": "truing.judges.pocket:PocketJudge", "bandit": "truing.judges.bandit:BanditJudge"}
COMPLETERS = {
    "local": "truing.backends.transformers.completer:LocalCompleter",
    "openai": "truing.backends.openai:OpenAICompleter",
    "inspect": "truing.backends.inspect.completer:InspectCompleter",
}
"""How a language model that judges is reached; each is built without arguments."""


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


def load_judge(judge: str | JudgeConfig, completer: Completer | None = None) -> Judge:
    """A judge by name, or a language model as judge.

    Args:
        judge: A key of `JUDGES`, `module:Class`, or a language model with its rubrics.
        completer: Reaches the language model, in place of a new one of the configured kind.

    Raises:
        UnknownNameError: No judge, completer, rubric or truth set of that name.
        MissingExtraError: The judge needs a library that is not installed.
    """
    if isinstance(judge, str):
        named: Judge = load_object("judge", judge, JUDGES)()
        return named
    from truing.judges.llm import LLMJudge

    return LLMJudge(judge, completer or load_object("completer", judge.completer, COMPLETERS)())


def check_judge(judge: str | JudgeConfig) -> None:
    """Check the names of a judge without loading a model.

    Raises:
        UnknownNameError: No judge, completer, rubric, truth set or local model of that name.
        DataError: A rubric's file is wrong.
    """
    kind, table = ("judge", JUDGES) if isinstance(judge, str) else ("completer", COMPLETERS)
    name = judge if isinstance(judge, str) else judge.completer
    if name not in table and ":" not in name:
        raise UnknownNameError.of(kind, name, table)
    if isinstance(judge, JudgeConfig):
        from truing.judges.rubrics import load_rubric

        rubrics = [load_rubric(name) for name in (judge.aligned, judge.coherent) if name]
        if any(rubric.needs_facts for rubric in rubrics):
            load_truth(judge.truth)
        if judge.completer == "local":
            resolve_model(judge.model)


def calls_per_answer(judge: str | JudgeConfig) -> int:
    """How often a judge is asked about one answer."""
    return 1 if isinstance(judge, str) or judge.coherent is None else 2
