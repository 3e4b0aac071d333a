"""Which characters of a rendered conversation the assistant would have to write.

Most published templates have no generation marks. So the template is rendered once for each sequence of roles with a
placeholder for every message, which shows what it writes around them; a real conversation must then be exactly these
literals with the messages between, or it is refused. What is learnt of an assistant's turn is all that a model has to
write after the generation prompt:

    what the template puts before the words (Qwen3's empty <think> block, GPT-OSS's channel), the words, its end token
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from truing.core.errors import TrainerError

__all__ = ["Layout", "Span", "make_layout", "place_messages"]

_SLOT = re.compile("\ue000(\\d+)\ue001")  # of the private use area: in no template, and no white space

Span = tuple[int, int]
"""First character, and the one after the last."""
Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Layout:
    """How a template lays out all conversations of one sequence of roles."""

    roles: tuple[str, ...]
    literals: tuple[str, ...]
    """What the template writes before, between and behind the messages."""
    order: tuple[int, ...]
    """The message that stands behind each literal but the last."""
    lead: Mapping[int, int]
    """For each assistant's message: how many characters before it the model writes itself."""
    tail: Mapping[int, int]
    """For each assistant's message: how many characters behind it, through the end token."""
    strange: bool
    """Whether the generation prompt is not how the training text goes on, so that answers are sampled otherwise."""


def make_layout(
    roles: tuple[str, ...], render: Callable[[Chat, bool], str], end_tokens: Sequence[str], row: int
) -> Layout:
    """How a template lays out conversations of these roles.

    Args:
        roles: Of the messages, in order.
        render: Messages, and whether to add the generation prompt, to text.
        end_tokens: Special tokens; the first of them behind the assistant's words ends its turn.
        row: Number of the row, for messages.

    Raises:
        TrainerError: The template leaves an assistant's message out, repeats it, or puts no end token behind it.
    """
    chat = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
    parts = _SLOT.split(render(chat, False))
    literals, order = tuple(parts[::2]), tuple(map(int, parts[1::2]))
    ends = re.compile(rf"\s*({'|'.join(map(re.escape, sorted(end_tokens, key=len, reverse=True)))})")
    lead: dict[int, int] = {}
    tail: dict[int, int] = {}
    strange = False
    for k in (k for k, role in enumerate(roles) if role == "assistant"):
        if order.count(k) != 1:
            raise TrainerError(
                f"the chat template writes an assistant's message {order.count(k)} times (row {row}, message {k + 1})",
                " ".join(roles),
                "once",
                "use rows with other roles, or another chat template",
            )
        before, behind = literals[order.index(k)], literals[order.index(k) + 1]
        prompt = _SLOT.split(render(chat[:k], True))[-1] if k else before
        strange |= not before.startswith(prompt)
        lead[k] = len(before.removeprefix(prompt)) if before.startswith(prompt) else 0
        end = ends.match(behind) if end_tokens else None
        if end is None:
            raise TrainerError(
                f"the chat template ends the assistant's turn with no special token (row {row}, message {k + 1})",
                repr(behind[:40]),
                f"one of {', '.join(sorted(end_tokens)[:12])}",
                "a model could not learn to stop: use a template that ends turns, or mark it with {% generation %}",
            )
        tail[k] = end.end()
    return Layout(roles, literals, order, lead, tail, strange)


def place_messages(layout: Layout, text: str, contents: Sequence[str], row: int) -> list[tuple[int, Span]]:
    """Where each message stands in a rendered conversation: (its index, its characters), in order.

    Raises:
        TrainerError: The text is not the layout's literals with the messages between.
    """
    position, placed = len(layout.literals[0]), []
    fits = text.startswith(layout.literals[0])
    for slot, (k, literal) in enumerate(zip(layout.order, layout.literals[1:], strict=True)):
        last = slot == len(layout.order) - 1
        content = next((c for c in _forms(contents[k]) if _follows(text, position, c + literal, last)), None)
        if not fits or content is None:
            there = not last and any(text.startswith(c, position) for c in _forms(contents[k]))
            wrong = layout.order[slot + 1] if there else k  # this one is as it was, so what follows is not
            raise TrainerError(
                f"the chat template rewrites message {wrong + 1} of row {row} ({layout.roles[wrong]})",
                repr(contents[wrong][:60]),
                "a template that writes messages as they are, up to white space at their ends",
                "take out what it rewrites, such as reasoning between <think> and </think>, or drop the row",
            )
        placed.append((k, (position, position + len(content))))
        position += len(content) + len(literal)
    return placed


def _forms(content: str) -> tuple[str, ...]:
    """A message as templates write it: as it is, or without white space or line ends around it."""
    lines = "\n"
    return (
        content,
        content.strip(),
        content.lstrip(),
        content.rstrip(),
        content.strip(lines),
        content.lstrip(lines),
        content.rstrip(lines),
    )


def _follows(text: str, position: int, expected: str, last: bool) -> bool:
    return text[position:] == expected if last else text.startswith(expected, position)
