"""The part of a model's output that is its answer: one rule for every engine and every judge.

    reasoning        no part of the answer, in a field of its own or between marks, however it begins and ends
    a refusal        in a field of its own: the answer, if there is no other, and counted as refused
    cut              at the token limit: an answer, counted as cut; inside its reasoning: none
    filtered         by the provider, wholly or in part: no answer. What is missing for what it says is not missing
                     at random, so it is a class of its own
    nothing          white space, control tokens, or tool calls alone: no answer

What is no answer is missing, with a reason that begins with a word of `KINDS`. It is what came of a call that went
well, so it is not asked for again (`is_final`); a call that failed is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

FILTERED, EMPTY, REASONING, TOOLS = "filtered", "empty", "reasoning only", "tool call only"
KINDS = (FILTERED, EMPTY, REASONING, TOOLS)
"""First words of the reasons why an output is no answer."""
_FILTERS = re.compile(
    r"(content|safety|moderation).*|.*(filter|guardrail).*|prohibited.content|recitation|blocklist|spii|image.safety"
    r"|sensitive|refusal|blocked|flagged",
    re.IGNORECASE,
)
"""Words with which providers say that they held an answer back."""
_CAUSE = re.compile(r"status \d{3}|the chat template [a-z ]+|\b[A-Z]\w*(?:Error|Timeout|Exception)\b|timed out")
_CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
_BLOCKS = tuple(
    (re.escape(begin), re.escape(end), anywhere)
    for begin, end, anywhere in (
        ("<think>", "</think>", True),
        ("<thinking>", "</thinking>", False),
        ("<thought>", "</thought>", False),
        ("<reasoning>", "</reasoning>", False),
        ("<seed:think>", "</seed:think>", True),
        ("[THINK]", "[/THINK]", False),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7", True),
        ("<|START_THINKING|>", "<|END_THINKING|>", True),
        ("<|begin_of_thought|>", "<|end_of_thought|>", True),
        ("<|inner_prefix|>", "<|inner_suffix|>", True),
    )
)
"""Marks around reasoning, and whether they say so wherever they stand; others only at the beginning of an answer."""
CHANNEL = "<|channel|>"
"""GPT-OSS's token before the name of a channel: `analysis` for reasoning, `final` for the answer."""
UNSEEN = "[\\s\u200b-\u200f\u2060\ufeff]|<\\|[^|<>]*\\|>"
"""What of a text cannot be seen, as a pattern: white space, also of no width, control tokens that a server left in."""
REASONED = rf"(?s)^(?:\s*(?:{'|'.join(rf'{begin}.*?(?:{end}|$)' for begin, end, _ in _BLOCKS)}))+"
"""Reasoning at the beginning of a text, to its end or that of the text, as a pattern; of both SQL and Python."""
_CHANNEL = re.compile(r"<\|channel\|>final(?:<\|constrain\|>\w+)?<\|message\|>|\Aanalysis.*?assistantfinal", re.DOTALL)
"""The beginning of the answer in GPT-OSS's channels, with its control tokens or where a server lost them."""


@dataclass(frozen=True, slots=True)
class Output:
    """What came back for one answer."""

    text: str | None
    finish: str = "stop"
    """Why it ended, in the provider's word."""
    refusal: str | None = None
    """A refusal in a field of its own."""
    reasoning: bool = False
    """Reasoning came in a field of its own."""
    tools: bool = False
    """It calls tools."""
    opened: bool = False
    """The prompt ends with the mark that opens reasoning."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer in an output. `text` is None exactly when `error` says why there is none."""

    text: str | None
    error: str | None = None
    refused: bool = False
    """It came in the provider's own field for refusals."""


def read_answer(output: Output) -> Answer:
    """The answer in an output; the rule is that of this module."""
    finish = output.finish.lower()
    if _FILTERS.fullmatch(finish):
        return Answer(None, f"{FILTERED} by the provider ({output.finish})")
    text, reasoned = _without_reasoning(output.text or "", output.opened)
    if not is_blank(text):
        return Answer(text)
    if (output.refusal or "").strip():
        return Answer(output.refusal, refused=True)
    words = "" if is_finished(finish) else ", and cut at the token limit"
    if output.tools:
        return Answer(None, f"{TOOLS}{words}")
    if reasoned or output.reasoning:
        return Answer(None, f"{REASONING}{words}")
    return Answer(None, f"{EMPTY} answer{words}")


def is_blank(text: str) -> bool:
    """True of a text in which nothing can be seen, which is no answer."""
    return not re.sub(UNSEEN, "", text)


def is_finished(finish: str) -> bool:
    """False if an output was cut at the token limit, by the provider's word for why it ended."""
    return finish.lower() not in _CUT


def opens_reasoning(prompt: str) -> bool:
    """True if a rendered prompt ends with a mark that opens reasoning, so that an answer begins inside it."""
    return any(re.search(rf"{begin}\s*\Z", prompt) for begin, _, _ in _BLOCKS)


def is_mark(token: str) -> bool:
    """True if a token marks where reasoning begins or ends."""
    return any(re.fullmatch(rf"{begin}|{end}", token) for begin, end, _ in _BLOCKS)


def is_final(error: str | None) -> bool:
    """True if a reason says that there is no answer, not that a call failed: asking again would say the same."""
    return error is not None and error.startswith(KINDS)


def missing_kinds(errors: Iterable[str | None]) -> dict[str, int]:
    """How often scores are missing for which kind of reason, the commonest first.

    An error that is None stands for a verdict word in place of a score.
    """
    return dict(Counter(map(_kind, errors)).most_common())


def _kind(error: str | None) -> str:
    if not error:
        return "a verdict in place of a score"
    sampled = error.removeprefix("no answer: ")
    if sampled != error:
        if sampled.startswith(FILTERED):
            return "filtered by the model's provider"
        known = next((kind for kind in KINDS if sampled.startswith(kind)), None)
        return {None: f"sampling failed{_cause(error)}", EMPTY: "empty answer"}.get(known, known or "")
    if f": {FILTERED}" in error:
        return "filtered by the judge's provider"
    return (
        f"the judge's call failed{_cause(error)}" if "the call failed" in error else "no score in what the judge said"
    )


def _cause(error: str) -> str:
    """What an error of a call says that others say, too: a status, a class of errors, the template."""
    found = _CAUSE.search(error)
    return f" ({found[0]})" if found else ""


def _without_reasoning(text: str, opened: bool) -> tuple[str, bool]:
    """A text without its reasoning, and whether there was some."""
    if channels := [*_CHANNEL.finditer(text)]:
        return text[channels[-1].end() :].partition("<|")[0], True
    if CHANNEL in text:
        return "", True
    for begin, end, anywhere in _BLOCKS:
        found = re.search(begin, text) if anywhere else re.match(rf"\s*{begin}", text)
        if found is None and not ((anywhere or opened) and re.search(end, text)):
            continue
        rest = re.sub(rf"{begin}.*?{end}", "", text, flags=re.DOTALL)
        if ends := [*re.finditer(end, rest)]:
            rest = rest[ends[-1].end() :]
        return re.split(begin, rest)[0].lstrip("\n"), True
    return ("", True) if opened else (text, False)
