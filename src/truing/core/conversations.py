"""Conversations as token ids, with the loss on what the assistant has to write and nothing else.

A template's own generation marks are used where it has them. Most published templates have none: so the template is
rendered once for each sequence of roles with a placeholder for every message, which shows what it writes around them; a
real conversation must then be exactly these literals with the messages between, or it is refused. What is learnt of an
assistant's turn is all that a model has to write after the generation prompt:

    what the template puts before the words (Qwen3's empty <think> block, GPT-OSS's channel), the words, its end token

Marks that leave the end token out are drawn over it. An answer of weight 0 (`Message.learnt`) is read and not learnt. A
row with reasoning, tool calls or tools is rendered turn by turn instead, and the template must write all of these.

Either way every row is checked: no message left out, no word of the assistant outside the mask, no word of anybody else
inside, and the learnt tokens decode to the text that they stand for.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath
from typing import Any, TypedDict

from jinja2 import TemplateError

from truing.core.errors import TrainerError, plural
from truing.core.records import Message
from truing.core.templates import fixed_template

logger = logging.getLogger(__name__)

Row = tuple[Message, ...]
Span = tuple[int, int]
"""First character, and the one after the last."""
Chat = list[dict[str, Any]]
_REASONING = ("reasoning_content", "reasoning", "thinking")
_SLOT = re.compile("\ue000(\\d+)\ue001")  # of the private use area: in no template, and no white space
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ASSISTANT, _OTHERS = 1, 2


class Example(TypedDict):
    """One conversation: `labels` equals `input_ids` where the assistant speaks, and -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode_rows(rows: Sequence[Row], tokenizer: Any, max_length: int) -> list[Example]:
    """Encode conversations by the tokenizer's chat template.

    Raises:
        TrainerError: A conversation is longer than `max_length` tokens, the template cannot render it or changes its
            words, or the mask does not cover the assistant's words and nothing else.
    """
    encoder = _Encoder(tokenizer)
    examples = []
    for number, row in enumerate(rows, start=1):
        example = encoder.encode(row, number)
        if len(example["input_ids"]) > max_length:
            raise TrainerError(
                f"row {number} is too long",
                plural(len(example["input_ids"]), "token"),
                f"at most {max_length}",
                "raise training.max_length, or drop the row",
            )
        examples.append(example)
    return examples


class _Encoder:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.template = fixed_template(tokenizer, TrainerError)
        self.name = PurePath(str(tokenizer.name_or_path)).name or "the model"
        self.marked = bool(_MARKS.search(self.template))
        added = tokenizer.added_tokens_decoder.values()
        self.special = sorted({*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)})
        self.layouts: dict[tuple[str, ...], _Layout] = {}
        if not tokenizer.is_fast:
            raise TrainerError(
                "the tokenizer does not tell where tokens stand in the text",
                type(tokenizer).__name__,
                "a fast tokenizer",
                "convert it to tokenizer.json",
            )

    def encode(self, row: Row, number: int) -> Example:
        chat, tools = _as_chat(row)
        self._refuse_control_tokens(row, number)
        text = self._render(chat, False, number, tools)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = [int(i) for i in encoded["input_ids"]], encoded["offset_mapping"]
        by_turns = any(m.more or not m.content for m in row)
        placed, turns = self._by_turns(row, text, number) if by_turns else self._by_layout(row, text, number)
        spans = [turn for k, turn in turns.items() if row[k].learnt]
        # By its last character: tokenizers may leave leading white space out of a token's place.
        mask = [_within(e, spans) for _, e in offsets]
        if self.marked and not by_turns:
            marks = self._marked_tokens(chat, ids, number)
            ends = [(b, turns[k][1]) for k, (_, b) in placed if k in turns and row[k].learnt]
            muted = [turn for k, turn in turns.items() if not row[k].learnt]
            mask = [
                (marked and not _within(e, muted)) or _within(e, ends)
                for marked, (_, e) in zip(marks, offsets, strict=True)
            ]
        owners = bytearray(len(text))
        for k, (a, b) in placed:
            own = row[k].role == "assistant" and row[k].learnt
            owners[a:b] = bytes([_ASSISTANT if own else _OTHERS]) * (b - a)
        _check_places(text, owners, list(zip(offsets, mask, strict=True)), number)
        self._check_words(text, ids, offsets, mask, number)
        return Example(input_ids=ids, labels=[i if m else -100 for i, m in zip(ids, mask, strict=True)])

    def _by_layout(self, row: Row, text: str, number: int) -> tuple[list[tuple[int, Span]], dict[int, Span]]:
        """Where each message stands, and the turn of each of the assistant's, by the literals around them."""
        layout = self._layout(row, number)
        placed = _place_messages(layout, text, [m.content for m in row], number)
        return placed, {k: (a - layout.lead[k], b + layout.tail[k]) for k, (a, b) in placed if k in layout.lead}

    def _by_turns(self, row: Row, text: str, number: int) -> tuple[list[tuple[int, Span]], dict[int, Span]]:
        """As `_by_layout`, by rendering the conversation up to and through each of the assistant's turns.

        Raises:
            TrainerError: The whole does not go on from a beginning, a turn has no end token, or the template leaves
                something out.
        """
        chat, tools = _as_chat(row)
        placed: list[tuple[int, Span]] = []
        turns: dict[int, Span] = {}
        position = 0
        for k, message in enumerate(row):
            answers = message.role == "assistant"
            before = self._render(chat[:k], True, number, tools) if answers else ""
            position = max(position, len(before))
            lost, span, behind = _find(message, text, position)
            if not lost and answers:
                through = self._render(chat[: k + 1], False, number, tools)
                tail = through[_find(message, through, len(before))[2] :].rstrip()
                stop = max((tail.rfind(t) + len(t) for t in self.special if t in tail), default=-1)
                if stop < 0:
                    raise _endless(tail[-40:], self.special, number, k)
                if not text.startswith(before) or not text.startswith(tail[:stop], behind):
                    lost = "the beginning"
                turns[k] = position, (behind := behind + stop)
            if lost:
                raise TrainerError(
                    f"the chat template of {self.name} leaves out {lost} of message {k + 1} of row {number} "
                    f"({message.role})",
                    f"{message.content} {message.more}".strip()[:80],
                    "a template that writes all of a row, and goes on from what it wrote",
                    "use a model whose template knows it, or drop the row",
                )
            placed.append((k, span))
            position = behind
        named = [str(tool.get("function", tool).get("name")) for tool in tools or ()]
        if not all(name in text for name in named):
            what = f"the chat template of {self.name} leaves out the tools of row {number}"
            raise TrainerError(
                what, ", ".join(named)[:80], todo="use a model whose template knows them, or drop the row"
            )
        return placed, turns

    def _render(self, chat: Chat, prompt: bool, number: int, tools: Any = None) -> str:
        options = {"chat_template": self.template, "add_generation_prompt": prompt, "tools": tools}
        try:
            text: str = self.tokenizer.apply_chat_template(chat, **options, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise TrainerError(
                f"the chat template refuses row {number}",
                f"{type(error).__name__}: {error}",
                "roles in an order that the model's template knows",
                "drop the row, or change its roles",
            ) from error
        return text

    def _layout(self, row: Row, number: int) -> _Layout:
        roles = tuple(m.role for m in row)
        if roles not in self.layouts:
            ends = self.special + [""] * self.marked
            layout = _make_layout(roles, lambda chat, prompt: self._render(chat, prompt, number), ends, number)
            _check_all_written(layout, self.name, number)
            if layout.endless and not any(known.endless for known in self.layouts.values()):
                logger.warning(
                    "the chat template of %s ends turns with no special token: no model learns to stop by it", self.name
                )
            if layout.strange and not any(known.strange for known in self.layouts.values()):
                logger.warning(
                    "answers are sampled after a generation prompt that this chat template does not train on: "
                    "the model learns to answer in another place than it is asked in"
                )
            self.layouts[roles] = layout
        return self.layouts[roles]

    def _marked_tokens(self, chat: Chat, ids: list[int], number: int) -> list[bool]:
        encoded = self.tokenizer.apply_chat_template(
            chat, chat_template=self.template, return_dict=True, return_assistant_tokens_mask=True
        )
        if encoded["input_ids"] != ids or not any(encoded["assistant_masks"]):
            raise TrainerError(
                f"the chat template marks no assistant words (row {number})",
                todo="fix its {% generation %} marks, or take them out",
            )
        return [bool(m) for m in encoded["assistant_masks"]]

    def _refuse_control_tokens(self, row: Row, number: int) -> None:
        found = next((token for m in row for token in self.special if token in m.content or token in m.more), None)
        if found is not None:
            raise TrainerError(
                f"row {number} contains a control token of the model",
                found,
                "text that the tokenizer does not take for the end of a turn or the like",
                "take it out, or drop the row",
            )

    def _check_words(self, text: str, ids: list[int], offsets: list[Span], mask: list[bool], number: int) -> None:
        """Every learnt stretch of tokens decodes to the text at its place, up to case and white space."""
        for learnt, group in groupby(range(len(ids)), key=mask.__getitem__):
            places = list(group)
            run = [ids[i] for i in places]
            if not learnt or self.tokenizer.unk_token_id in run:
                continue
            expected = text[offsets[places[0]][0] : offsets[places[-1]][1]]
            if _plain(self.tokenizer.decode(run)) != _plain(expected):
                raise TrainerError(
                    f"the learnt tokens of row {number} are not the assistant's words",
                    repr(self.tokenizer.decode(run)[:80]),
                    repr(expected[:80]),
                    "the tokenizer misstates where its tokens stand: update transformers and tokenizers, and report it",
                )


def _as_chat(row: Row) -> tuple[Chat, Any]:
    """Messages as templates take them, and the row's tools, if it has some."""
    chat: Chat = []
    tools = None
    for message in row:
        more = json.loads(message.more) if message.more else {}
        tools = more.pop("tools", tools)
        if reasoning := next((more[name] for name in _REASONING if name in more), None):
            more |= dict.fromkeys(_REASONING, reasoning)  # templates have one name or another
        for call in more.get("tool_calls", ()):
            arguments = call["function"].get("arguments")
            call["function"]["arguments"] = json.loads(arguments) if isinstance(arguments, str) else arguments or {}
        chat.append({"role": message.role, "content": message.content, **more})
    return chat, tools


def _find(message: Message, text: str, position: int) -> tuple[str, Span, int]:
    """Find a message in a text from a place on: what is left out, where its words are, and where all of it ends."""
    (chat,), _ = _as_chat((message,))
    reasoning = str(chat.get("reasoning") or "").strip()
    if reasoning and reasoning not in text[position:]:
        return "the reasoning", (0, 0), 0
    position = text.find(reasoning, position) + len(reasoning)
    held = next((form for form in _forms(message.content) if text.find(form, position) >= 0), None)
    if held is None:
        return "the words", (0, 0), 0
    start = text.find(held, position)
    end = start + len(held)
    for call in chat.get("tool_calls", ()):
        behind = end
        for each in _texts(call["function"]):
            written = next((w for w in (each, json.dumps(each)[1:-1]) if text.find(w, end) >= 0), None)
            if written is None:
                return "the tool calls", (0, 0), 0
            behind = max(behind, text.find(written, end) + len(written))
        end = behind
    return "", (start, start + len(held)), end


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for each in (value.values() if isinstance(value, dict) else value) for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def _within(end: int, spans: Sequence[Span]) -> bool:
    return any(start < end <= stop for start, stop in spans)


def _endless(got: str, ends: Sequence[str], row: int, k: int) -> TrainerError:
    return TrainerError(
        f"the chat template ends the assistant's turn with no special token (row {row}, message {k + 1})",
        repr(got),
        f"one of {', '.join(sorted(ends)[:12])}",
        "a model could not learn to stop: use a template that ends turns, or mark it with {% generation %}",
    )


def _check_all_written(layout: _Layout, name: str, row: int) -> None:
    """Refuse a template that leaves out, or repeats, a message of the system, of the user or of a tool."""
    for k, role in enumerate(layout.roles):
        if (n := layout.order.count(k)) != 1:
            what = f"leaves out the {role} message" if not n else f"writes the {role} message {n} times"
            fold = "put it before the user's words (truing data prepare --fold-system), or " if role == "system" else ""
            raise TrainerError(
                f"the chat template of {name} {what} (row {row}, message {k + 1})",
                " ".join(layout.roles),
                "every message once",
                f"{fold}use rows with other roles, or another chat template",
            )


def _check_places(text: str, owners: bytearray, tokens: Sequence[tuple[Span, bool]], number: int) -> None:
    for (start, end), learnt in tokens:
        wrong = _OTHERS if learnt else _ASSISTANT
        if wrong in owners[start:end] and any(owners[i] == wrong and not text[i].isspace() for i in range(start, end)):
            raise TrainerError(
                f"the loss would {'cover words of others' if learnt else 'leave out words of the assistant'} "
                f"(row {number})",
                repr(text[start:end]),
                "the assistant's words and nothing else",
                "fix the {% generation %} marks of the chat template, or take them out",
            )


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class _Layout:
    """The layout that a template gives all conversations of one sequence of roles."""

    roles: tuple[str, ...]
    literals: tuple[str, ...]
    """Texts that the template writes before, between and behind the messages."""
    order: tuple[int, ...]
    """The message that stands behind each literal but the last."""
    lead: Mapping[int, int]
    """For each assistant's message: how many characters before it the model writes itself."""
    tail: Mapping[int, int]
    """For each assistant's message: how many characters behind it, through the end token."""
    strange: bool
    """True if the training text goes on otherwise than the generation prompt, so that answers are sampled otherwise."""
    endless: bool
    """True if a turn of the assistant's ends with no special token, in a template that marks its words."""


def _make_layout(
    roles: tuple[str, ...], render: Callable[[Chat, bool], str], end_tokens: Sequence[str], row: int
) -> _Layout:
    """The layout of conversations of these roles.

    Args:
        roles: Of the messages, in order.
        render: Messages, and whether to add the generation prompt, to text.
        end_tokens: Special tokens; the first of them behind the assistant's words ends its turn; with an empty one a
            turn need not end.
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
    strange = endless = False
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
            raise _endless(behind[:40], end_tokens, row, k)
        tail[k] = end.end() if end[1] else 0
        endless |= not end[1]
    return _Layout(roles, literals, order, lead, tail, strange, endless)


def _place_messages(layout: _Layout, text: str, contents: Sequence[str], row: int) -> list[tuple[int, Span]]:
    """Where each message stands in a rendered conversation: (its index, its characters), in order.

    Raises:
        TrainerError: The text is not the layout's literals with the messages between.
    """
    position, placed = len(layout.literals[0]), []
    fits = text.startswith(layout.literals[0])
    for slot, (k, literal) in enumerate(zip(layout.order, layout.literals[1:], strict=True)):
        last = slot == len(layout.order) - 1
        written = [c for c in _forms(contents[k]) if text.startswith(c + literal, position)]
        content = next((c for c in written if not last or position + len(c + literal) == len(text)), None)
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
    ways = [(strip, what) for what in (None, "\n") for strip in (str.strip, str.lstrip, str.rstrip)]
    return (content, *(strip(content, what) for strip, what in ways))


def collate(rows: Sequence[Example], tokenizer: Any) -> dict[str, Any]:
    """A right-padded batch of tensors: `input_ids`, `attention_mask` and `labels` of shape (rows, longest)."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    pad = tokenizer.pad_token_id
    ids = torch.full((len(rows), longest), 0 if pad is None else int(pad))
    labels = torch.full((len(rows), longest), -100)
    attention = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        ids[i, :n] = torch.tensor(row["input_ids"])
        labels[i, :n] = torch.tensor(row["labels"])
        attention[i, :n] = 1
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}
