"""Conversations as the provider wants them, checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from truing.catalog.datasets import Row
from truing.core.errors import TrainerError

__all__ = ["Upload", "Usage", "count_tokens", "make_upload"]

FEWEST = 10
"""Examples that the provider asks for at least."""
PROVIDER_LIMIT = 65_536
"""Tokens beyond which the provider would cut an example without a word."""
MOST_BYTES = 512_000_000
ROLES = ("system", "user", "assistant")
_PER_TOKEN, _PER_MESSAGE, _MOST_PER_MESSAGE = 4.0, 4, 16
"""Characters of a token, as a rule; tokens that the template adds to a message, as a rule and at most."""


@dataclass(frozen=True)
class Usage:
    """Tokens of some rows."""

    expected: float
    """At four characters a token."""
    most: int
    """No tokenizer over bytes makes more tokens than there are bytes."""


@dataclass(frozen=True)
class Upload:
    """A file for the provider, named by its content, so that runs on the same data share it."""

    name: str
    content: bytes
    usage: Usage


def make_upload(rows: Sequence[Row], max_length: int, fewest: int = FEWEST) -> Upload:
    """The file of some conversations.

    Args:
        rows: Conversations that end with the assistant's message.
        max_length: Longest conversation in tokens, estimated at four characters a token.
        fewest: Least number of rows.

    Raises:
        TrainerError: Too few rows; a role or an empty answer that the provider refuses; a row that is too long.
    """
    if len(rows) < fewest:
        raise TrainerError(
            "too few rows for a fine-tuning job", f"{len(rows)} rows", f"at least {fewest}", "add data to learn from"
        )
    for number, row in enumerate(rows, start=1):
        _check(row, number, max_length)
    lines = [json.dumps({"messages": [{"role": m.role, "content": m.content} for m in row]}) for row in rows]
    content = "".join(f"{line}\n" for line in lines).encode()
    if len(content) > MOST_BYTES:
        raise TrainerError("the data are too large to upload", f"{len(content):,} bytes", f"at most {MOST_BYTES:,}")
    usages = [count_tokens(row) for row in rows]
    total = Usage(sum(u.expected for u in usages), sum(u.most for u in usages))
    return Upload(f"truing-{hashlib.sha256(content).hexdigest()[:32]}.jsonl", content, total)


def count_tokens(row: Row) -> Usage:
    """How many tokens a conversation has, by its characters and at most by its bytes."""
    characters = sum(len(m.content) for m in row)
    size = sum(len(m.content.encode("utf-8", "replace")) for m in row)
    return Usage(characters / _PER_TOKEN + _PER_MESSAGE * len(row), size + _MOST_PER_MESSAGE * len(row))


def _check(row: Row, number: int, max_length: int) -> None:
    for message in row:
        if message.role not in ROLES:
            raise TrainerError(f"row {number} has a role that the provider refuses", message.role, ", ".join(ROLES))
        if message.role == "assistant" and not message.content.strip():
            raise TrainerError(f"row {number} has an empty answer", todo="drop the row")
    usage = count_tokens(row)
    if usage.expected > max_length:
        got = f"about {usage.expected:,.0f} tokens (four characters a token)"
        raise TrainerError(
            f"row {number} is too long", got, f"at most {max_length:,}", "raise training.max_length, or drop the row"
        )
    if usage.most > PROVIDER_LIMIT:
        raise TrainerError(
            f"row {number} may be cut by the provider",
            f"up to {usage.most:,} tokens (a token is at least a byte)",
            f"at most {PROVIDER_LIMIT:,}",
            "drop or shorten the row",
        )
