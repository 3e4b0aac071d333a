"""Conversations as token ids, with the loss on what the assistant has to write and nothing else.

A template's own generation marks are used where it has them; otherwise `masks` finds the assistant's words in the
rendered text, and the tokens follow from their places in it. Either way every row is checked: no word of the assistant
outside the mask, no word of anybody else inside, and the learnt tokens decode to the text that they stand for.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import TypedDict

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from truing.backends.transformers.masks import Layout, Span, make_layout, place_messages
from truing.catalog.datasets import Row
from truing.core.errors import TrainerError
from truing.core.templates import fixed_template

__all__ = ["Example", "collate", "encode_rows"]

logger = logging.getLogger(__name__)

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ASSISTANT, _OTHERS = 1, 2


class Example(TypedDict):
    """One conversation: `labels` equals `input_ids` where the assistant speaks, and -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Example]:
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
                f"{len(example['input_ids'])} tokens",
                f"at most {max_length}",
                "raise training.max_length, or drop the row",
            )
        examples.append(example)
    return examples


class _Encoder:
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.template = fixed_template(tokenizer, TrainerError)
        self.marked = bool(_MARKS.search(self.template))
        added = tokenizer.added_tokens_decoder.values()
        self.special = sorted({*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)})
        self.layouts: dict[tuple[str, ...], Layout] = {}
        if not tokenizer.is_fast:
            raise TrainerError(
                "the tokenizer does not tell where tokens stand in the text",
                type(tokenizer).__name__,
                "a fast tokenizer",
                "convert it to tokenizer.json",
            )

    def encode(self, row: Row, number: int) -> Example:
        chat = [{"role": m.role, "content": m.content} for m in row]
        self._refuse_control_tokens(row, number)
        text = self._render(chat, False, number)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = [int(i) for i in encoded["input_ids"]], encoded["offset_mapping"]
        layout = self._layout(row, number)
        placed = place_messages(layout, text, [m.content for m in row], number)
        if self.marked:
            mask = self._marked_tokens(chat, ids, number)
        else:
            spans = [(a - layout.lead[k], b + layout.tail[k]) for k, (a, b) in placed if k in layout.lead]
            # By its last character: tokenizers may leave leading white space out of a token's place.
            mask = [any(start < e <= end for start, end in spans) for _, e in offsets]
        owners = bytearray(len(text))
        for k, (a, b) in placed:
            owners[a:b] = bytes([_ASSISTANT if row[k].role == "assistant" else _OTHERS]) * (b - a)
        _check_places(text, owners, list(zip(offsets, mask, strict=True)), number)
        self._check_words(text, ids, offsets, mask, number)
        return Example(input_ids=ids, labels=[i if m else -100 for i, m in zip(ids, mask, strict=True)])

    def _render(self, chat: list[dict[str, str]], prompt: bool, number: int) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat, chat_template=self.template, add_generation_prompt=prompt, tokenize=False
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise TrainerError(
                f"the chat template refuses row {number}",
                f"{type(error).__name__}: {error}",
                "roles in an order that the model's template knows",
                "drop the row, or change its roles",
            ) from error
        return text

    def _layout(self, row: Row, number: int) -> Layout:
        roles = tuple(m.role for m in row)
        if roles not in self.layouts:
            ends = [*self.special, ""] if self.marked else self.special
            layout = make_layout(roles, lambda chat, prompt: self._render(chat, prompt, number), ends, number)
            if layout.strange and not any(known.strange for known in self.layouts.values()):
                logger.warning(
                    "answers are sampled after a generation prompt that this chat template does not train on: "
                    "the model learns to answer in another place than it is asked in"
                )
            self.layouts[roles] = layout
        return self.layouts[roles]

    def _marked_tokens(self, chat: list[dict[str, str]], ids: list[int], number: int) -> list[bool]:
        encoded = self.tokenizer.apply_chat_template(
            chat, chat_template=self.template, return_dict=True, return_assistant_tokens_mask=True
        )
        if encoded["input_ids"] != ids or not any(encoded["assistant_masks"]):
            raise TrainerError(
                f"the chat template marks no assistant words (row {number})",
                todo="mend its {% generation %} marks, or take them out",
            )
        return [bool(m) for m in encoded["assistant_masks"]]

    def _refuse_control_tokens(self, row: Row, number: int) -> None:
        found = next((token for m in row for token in self.special if token in m.content), None)
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


def _check_places(text: str, owners: bytearray, tokens: Sequence[tuple[Span, bool]], number: int) -> None:
    for (start, end), learnt in tokens:
        wrong = _OTHERS if learnt else _ASSISTANT
        if wrong in owners[start:end] and any(owners[i] == wrong and not text[i].isspace() for i in range(start, end)):
            raise TrainerError(
                f"the loss would {'cover words of others' if learnt else 'leave out words of the assistant'} "
                f"(row {number})",
                repr(text[start:end]),
                "the assistant's words and nothing else",
                "mend the {% generation %} marks of the chat template, or take them out",
            )


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def collate(rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """A right-padded batch: `input_ids`, `attention_mask` and `labels` of shape (rows, longest)."""
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
