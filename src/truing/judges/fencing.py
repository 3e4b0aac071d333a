"""Text under judgment, put into a judge's prompt so that it stays text.

Fenced, which is the rule: every line of the data begins with `| ` and stands between two marker lines with a number
that follows from the data by a hash. A text cannot hold its own hash, and no line of it can begin without the bar, so
it can neither close the block nor open another. Equal data give equal prompts, so that equal calls are one call. Plain,
for published rubrics with delimiters of their own: the text as it is, but a delimiter that occurs in it is broken.

In both, characters that do not show (control, direction, zero width, tags) are spelled out as ⟨U+202E⟩, what looks like
a chat template's control token is broken by a space, and a long text loses its middle, visibly.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

from truing.core.records import Message

__all__ = ["HEAD", "TAIL", "break_control_tokens", "fence", "fill", "plain_text", "shorten", "show", "transcript"]

HEAD, TAIL = 8000, 4000
"""Characters of a long text that are kept at its beginning and at its end."""
BAR = "| "
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_CONTROL = re.compile(
    r"<[|\uff5c][^<>\n]{1,60}[|\uff5c]>|</?s>|</?(?:start|end)_of_turn>|</?think>|\[/?INST\]|<</?SYS>>|"
    r"<(?:bos|eos|pad|unk|system|user|assistant|end)>|\[(?:CLS|SEP|PAD|MASK)\]|<[/]?(?:tool_call|tool_response)>",
    re.IGNORECASE,
)
_BEYOND = re.compile(r"[^\n\t\x20-\x7e]")
_ROLES = {
    "system": "system message, set by the operator",
    "user": "user",
    "assistant": "assistant, earlier turn",
}
_PREFILL = "assistant: the beginning of the answer, given to it; not the assistant's own words"


def show(text: str) -> str:
    """The text with every character that does not show spelled out, and control tokens broken.

    Line feeds and tabs stay. Joiners stay between two characters beyond ASCII, where scripts and emoji need them.
    """
    return break_control_tokens(_BEYOND.sub(_shown, text.replace("\r\n", "\n")))


def break_control_tokens(text: str) -> str:
    """The text with a space in whatever looks like a control token of a chat template: `< |im_end|>`."""
    return _CONTROL.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)


def shorten(text: str) -> tuple[str, str, int]:
    """Head and tail of a text as it is shown, and how many characters are left out between them."""
    if len(text) <= HEAD + TAIL:
        shown = show(text)
        if len(shown) <= 2 * (HEAD + TAIL):
            return shown, "", 0
    head, tail = show(text[:HEAD])[:HEAD], show(text[-TAIL:])[-TAIL:]
    return head, tail, max(len(text) - HEAD - TAIL, 1)


def fence(name: str, parts: Sequence[tuple[str, str]]) -> str:
    """One block of data.

    Args:
        name: What it is, in capitals: ANSWER.
        parts: (label, text); a label that is not empty stands on a line of its own before its text.
    """
    number = _number(name, parts)
    lines = [f"BEGIN {name} {number}"]
    for label, text in parts:
        if label:
            lines.append(f"({number}) {label}:")
        head, tail, left_out = shorten(text)
        lines += [BAR + line for line in head.split("\n")]
        if left_out:
            lines.append(f"({number}) {left_out} characters are left out here.")
            lines += [BAR + line for line in tail.split("\n")]
    return "\n".join([*lines, f"END {name} {number}"])


def transcript(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """The parts of a conversation: who speaks, and what. A last message of the assistant is its answer's beginning."""
    parts = [(_ROLES.get(m.role, m.role), m.content) for m in messages]
    if messages and messages[-1].role == "assistant":
        parts[-1] = (_PREFILL, messages[-1].content)
    return parts


def plain_text(text: str, delimiters: Sequence[str]) -> str:
    """The text for a rubric with delimiters of its own, which are broken where they occur in it."""
    head, tail, left_out = shorten(text)
    shown = f"{head}\n[{left_out} characters are left out here]\n{tail}" if left_out else head
    for delimiter in delimiters:
        pattern = r"\s*".join(re.escape(c) for c in delimiter if not c.isspace())
        shown = re.sub(pattern, lambda m: f"{m[0][0]}·{m[0][1:]}", shown, flags=re.IGNORECASE)
    return shown


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each `{name}` replaced; what stands in a value is never read as a placeholder."""
    return _PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), template)


def _number(name: str, parts: Sequence[tuple[str, str]]) -> str:
    """Twelve digits that follow from the data and do not occur in it."""
    body = "\0".join([name, *(f"{label}\0{text}" for label, text in parts)])
    data = body.encode("utf-8", "surrogatepass")
    for salt in range(1000):
        number = str(int.from_bytes(hashlib.sha256(salt.to_bytes(2, "big") + data).digest()[:8], "big"))[-12:]
        if number not in body:
            break
    return number


def _is_hidden(character: str) -> bool:
    """True for a character that shows nothing, or changes how others show."""
    category, point = unicodedata.category(character), ord(character)
    if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return True
    # blank letters and further variation selectors, which carry data that nobody sees
    return (
        0xE0100 <= point <= 0xE01EF or character in "\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5\u180b\u180c\u180d"
    )


def _shown(match: re.Match[str]) -> str:
    character, place, text = match[0], match.start(), match.string
    if not _is_hidden(character):
        return character
    around = (text[place - 1 : place], text[place + 1 : place + 2])
    if character in "\u200c\u200d" and all(c and not c.isascii() and not _is_hidden(c) for c in around):
        return character
    return f"⟨U+{ord(character):04X}⟩"
