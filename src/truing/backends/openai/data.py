"""A run as OpenAI's fine-tuning takes it: files of conversations, whole epochs, and the checkpoints that it keeps.

Rows are checked before anything is sent. The provider documents an epoch as the rows divided by the batch size and does
not say how it rounds; here a last, smaller batch counts as a step. Steps of real checkpoints are the provider's own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truing.catalog.rows import Row, to_object
from truing.config import TrainingConfig
from truing.core.errors import ConfigError, TrainerError

FEWEST = 10
"""Examples that the provider asks for at least."""
PROVIDER_LIMIT = 65_536
"""Tokens beyond which the provider would cut an example without a word."""
MOST_BYTES = 512_000_000
ROLES = ("system", "user", "assistant", "tool")
KNOWN = {"tool_calls", "tool_call_id", "name", "tools"}
"""What the provider takes beside the words."""
KEPT = 3
"""Epochs whose checkpoints the provider keeps: the last ones."""
MOST_EPOCHS = 50
TOLERANCE = 0.2
"""Largest distance of the steps asked for from whole epochs, as a share of those."""
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

    A conversation may have `max_length` tokens, estimated at four characters a token.

    Raises:
        TrainerError: Too few rows; a role or an empty answer that the provider refuses; a row that is too long.
    """
    if len(rows) < fewest:
        raise TrainerError(
            "too few rows for a fine-tuning job", f"{len(rows)} rows", f"at least {fewest}", "add data to learn from"
        )
    usages = [_check(row, number, max_length) for number, row in enumerate(rows, start=1)]
    lines = [json.dumps(_object(row)) for row in rows]
    content = "".join(f"{line}\n" for line in lines).encode()
    if len(content) > MOST_BYTES:
        raise TrainerError("the data are too large to upload", f"{len(content):,} bytes", f"at most {MOST_BYTES:,}")
    total = Usage(sum(u.expected for u in usages), sum(u.most for u in usages))
    return Upload(f"truing-{hashlib.sha256(content).hexdigest()[:32]}.jsonl", content, total)


def _object(row: Row) -> dict[str, Any]:
    """A row as the provider reads it: with the weights of answers; arguments of calls are JSON texts."""
    whole = to_object(row)
    for function in (call["function"] for m in whole["messages"] for call in m.get("tool_calls", ())):
        if not isinstance(function.get("arguments"), str):
            function["arguments"] = json.dumps(function.get("arguments") or {})
    return whole


def _check(row: Row, number: int, max_length: int) -> Usage:
    """The tokens of a conversation that the provider takes, by its characters and at most by its bytes."""
    for message in row:
        if message.role not in ROLES:
            raise TrainerError(f"row {number} has a role that the provider refuses", message.role, ", ".join(ROLES))
        more = json.loads(message.more) if message.more else {}
        if unknown := sorted(set(more) - KNOWN):
            raise TrainerError(
                f"row {number} has what the provider does not take", unknown[0], ", ".join(sorted(KNOWN))
            )
        if message.role == "assistant" and not message.content.strip() and "tool_calls" not in more:
            raise TrainerError(f"row {number} has an empty answer", todo="drop the row")
    expected = sum(len(m.content) + len(m.more) for m in row) / _PER_TOKEN + _PER_MESSAGE * len(row)
    most = sum(len((m.content + m.more).encode("utf-8", "replace")) for m in row) + _MOST_PER_MESSAGE * len(row)
    if expected > max_length:
        got, allowed = f"about {expected:,.0f} tokens (four characters a token)", f"at most {max_length:,}"
        todo = "raise training.max_length, or drop the row"
        raise TrainerError(f"row {number} is too long", got, allowed, todo)
    if most > PROVIDER_LIMIT:
        got, allowed = f"up to {most:,} tokens (a token is at least a byte)", f"at most {PROVIDER_LIMIT:,}"
        raise TrainerError(f"row {number} may be cut by the provider", got, allowed, "drop or shorten the row")
    return Usage(expected, most)


def whole_epochs(training: TrainingConfig, rows: int) -> int:
    """The number of epochs that comes nearest to `steps` of `batch_size`.

    `rows` is how many are trained on, at least 1.

    Returns:
        1 to 50.

    Raises:
        ConfigError: The steps are more than a fifth away from whole epochs, or beyond 50.
    """
    asked = training.steps * training.batch_size / rows
    epochs = max(1, round(asked))
    if abs(asked - epochs) > TOLERANCE * epochs or epochs > MOST_EPOCHS:
        one = math.ceil(rows / training.batch_size)
        low, high = math.ceil((1 - TOLERANCE) * one), math.floor((1 + TOLERANCE) * one)
        near = max(1, min(MOST_EPOCHS, math.floor(asked)))
        raise ConfigError(
            "OpenAI trains whole epochs",
            f"training.steps {training.steps:,} at batch {training.batch_size} over {rows:,} rows: {asked:.2f} epochs",
            f"{one:,} steps ({low:,} to {high:,} count as one epoch) or a multiple of that, up to {MOST_EPOCHS} epochs",
            f"set training.steps to {near * one:,} or another multiple of {one:,}, or change training.batch_size",
        )
    return epochs


def checkpoint_steps(training: TrainingConfig, rows: int | None) -> tuple[int, ...]:
    """The steps at which checkpoints can be seen: the ends of the last three epochs, ascending.

    Where the `rows` are not known (None), the last planned steps stand for the ends, as an upper bound.

    Raises:
        ConfigError: See `whole_epochs`.
    """
    if rows is None:
        return training.checkpoint_steps()[-KEPT:]
    epochs, one = whole_epochs(training, rows), math.ceil(rows / training.batch_size)
    return tuple(one * epoch for epoch in range(max(1, epochs - KEPT + 1), epochs + 1))


def is_kept(step: int, training: TrainingConfig, rows: int) -> bool:
    """Tell whether a checkpoint at that step is of one of the last three epochs, so that the provider keeps it."""
    return step > (whole_epochs(training, rows) - KEPT + 0.5) * rows / training.batch_size
