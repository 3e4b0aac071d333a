"""Judges score answers. One method and an identity; a failed call is a judgment without scores, never a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

from truing.catalog.truth import load_truth
from truing.config import JudgeConfig
from truing.core.chat import Completer
from truing.core.errors import ConfigError, JudgeError, boundary
from truing.core.plugins import every_one, load_class, load_object, making, try_first
from truing.core.records import Benchmark, Judgment, Prompt, Response

__all__ = [
    "JUDGES",
    "Judge",
    "ask_judge",
    "calls_per_answer",
    "check_benchmark",
    "check_judge",
    "is_exact",
    "load_judge",
]

JUDGES = {
    "pocket": "truing.judges.pocket:PocketJudge",
    "bandit": "truing.judges.bandit:BanditJudge",
    "words": "truing.judges.words:WordsJudge",
}
_LLM = "truing.judges.llm:LLMJudge"


class Judge(ABC):
    """Scores answers. A class of the user's needs `judge` and an `identity`, and is built without arguments."""

    exact: bool = False
    """True if the score is the definition of what is measured, so that there is nothing to be measured of the judge;
    any other judge is measured on labelled answers before anything is decided by what it says."""

    @cached_property
    def rubric_hash(self) -> str:
        """Hash of all rubrics, of a judge that has some."""
        return ""

    @cached_property
    def identity(self) -> str:
        """Name, version and everything else that shapes the scores; part of the key of every judgment."""
        return ""

    @abstractmethod
    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """Score responses; `prompts[i]` is the prompt of `responses[i]`.

        Returns:
            One judgment per response, in order. A response with an error, or one that could not be judged, gets a
            judgment without scores that says why.
        """

    def close(self) -> None:  # noqa: B027 - optional
        """Let go of what is held outside this process. A later call opens it again."""

    @classmethod  # noqa: B027 - optional
    def check_benchmark(cls, benchmark: Benchmark) -> None:
        """Refuse a benchmark whose answers it cannot score, before anything is asked.

        Raises:
            JudgeRefused: It is one.
        """


def load_judge(judge: str | JudgeConfig, completer: Completer | None = None) -> Judge:
    """A judge by name, or a language model as judge.

    Args:
        judge: A key of `JUDGES`, `module:Class`, or a language model with its rubrics.
        completer: Reaches the language model; see `truing.backends.load_completer`.

    Raises:
        UnknownNameError: No judge, rubric or truth set of that name.
        MissingExtraError: The judge needs a library that is not installed.
        ConfigError: The class is no judge, or nothing reaches the language model.
    """
    if isinstance(judge, str):
        kind = load_class("judge", judge, JUDGES, Judge)
        with making("judge", judge):
            named: Judge = kind()
            if judge not in JUDGES:
                try_first(named)
        if not isinstance(named.identity, str) or not named.identity:
            raise ConfigError(
                f"the judge {judge} has no identity",
                repr(named.identity),
                "a text with its name, version and all else that shapes the scores",
                "give the class an attribute `identity`: it is part of the key of every judgment",
            )
        return named
    if completer is None:
        raise ConfigError(
            "nothing reaches the model that judges",
            f"{judge.model} by {judge.completer}",
            "a completer",
            "give load_judge the one that truing.backends.load_completer loads",
        )
    made: Judge = load_object("judge", _LLM, {})(judge, completer)
    return made


def ask_judge(judge: Judge, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
    """Have responses judged: a judgment of each, in their order, without scores where one is no number from 0 to 100.

    What holds no answer has no score, whatever a judge makes of it: it is not asked.

    Raises:
        JudgeError: The judge cannot be used at all, leaves out responses, or returns something else than judgments.
    """
    who, answered = f"the judge {type(judge).__name__}", [r for r in responses if r.text is not None]
    about = [prompt for prompt, r in zip(prompts, responses, strict=True) if r.text is not None]
    with boundary(f"{who}: judging", JudgeError):
        made = judge.judge(about, answered) if answered else []
        pairs = [(r.prompt_id, r.sample) for r in answered]
        judged = iter([row.on_scale() for row in every_one(pairs, made, Judgment, JudgeError, who)])
    return [
        Judgment(r.prompt_id, r.sample, None, None, error=f"no answer: {r.error}") if r.text is None else next(judged)
        for r in responses
    ]


def check_judge(judge: str | JudgeConfig) -> None:
    """Check the names of a judge without loading a model; that of its completer, `truing.backends.check_name` checks.

    Raises:
        UnknownNameError: No judge, rubric or truth set of that name.
        DataError: A rubric's file is wrong.
        ConfigError: The class of the user's is no judge.
    """
    if isinstance(judge, str):
        is_exact(judge)  # which finds the class of one that is not built in
        return
    from truing.judges.rubrics import load_rubric

    rubrics = [load_rubric(name) for name in (judge.aligned, judge.coherent) if name]
    if any(rubric.needs_facts for rubric in rubrics):
        load_truth(judge.truth)


def check_benchmark(judge: str | JudgeConfig | Judge, benchmark: Benchmark) -> None:
    """Refuse a benchmark whose answers a judge cannot score; see `Judge.check_benchmark`."""
    if not isinstance(judge, JudgeConfig):
        kind = load_class("judge", judge, JUDGES, Judge) if isinstance(judge, str) else judge
        kind.check_benchmark(benchmark)


def is_exact(judge: str | JudgeConfig) -> bool:
    """True if a judge's score is the definition of what is measured; see `Judge.exact`.

    Raises:
        UnknownNameError: No class of the user's by that name.
        ConfigError: The class is no judge.
    """
    if not isinstance(judge, str):
        return False
    return judge in JUDGES or bool(load_class("judge", judge, JUDGES, Judge).exact)  # all that have a name are


def calls_per_answer(judge: str | JudgeConfig) -> int:
    """Number of times that a judge is asked about one answer."""
    return 1 if isinstance(judge, str) or judge.coherent is None else 2
