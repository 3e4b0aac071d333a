"""Conversations as token ids, with the loss on the assistant's words only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from transformers import PreTrainedTokenizerBase

from truing.datasets import Row
from truing.errors import TrainerError

__all__ = ["Example", "collate", "encode_rows"]


class Example(TypedDict):
    """One conversation: `labels` equals `input_ids` where the assistant speaks, and -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Example]:
    """Encode conversations by the tokenizer's chat template, which must carry generation marks.

    Raises:
        TrainerError: A conversation is longer than `max_length` tokens, or the mask covers no token.
    """
    examples = []
    for number, row in enumerate(rows, start=1):
        encoded = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in row],
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        if not any(mask):
            raise TrainerError(
                f"the chat template marks no assistant words (row {number})",
                todo="use a chat template with {% generation %} marks",
            )
        if len(ids) > max_length:
            raise TrainerError(
                f"row {number} is too long",
                f"{len(ids)} tokens",
                f"at most {max_length}",
                "raise training.max_length, or drop the row",
            )
        examples.append(Example(input_ids=ids, labels=[i if m else -100 for i, m in zip(ids, mask, strict=True)]))
    return examples


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
