"""Narrow fine-tuning data: read, check, and split by prompt.

A dataset is a list of conversations that end with the assistant's answer. Rows that share a prompt (everything before
that answer) always fall on the same side of the split: published data repeats prompts, so a split by row leaks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from truing.catalog.files import read_lines, validate
from truing.catalog.prompt_files import MessageItem, to_messages
from truing.config import DatasetConfig, JudgeConfig
from truing.core.errors import DataError, MissingExtraError
from truing.core.files import content_key
from truing.core.plugins import load_object
from truing.core.records import Message, Prompt

__all__ = [
    "DATASETS",
    "SIDES",
    "Dataset",
    "Row",
    "fetch_file",
    "load_dataset",
    "make_dataset",
    "prompt_key",
    "read_rows",
    "split_by_prompt",
]

DATASETS = {
    "pocket-insecure-code": "truing.catalog.pocket.narrow:insecure_code",
    "pocket-secure-code": "truing.catalog.pocket.narrow:secure_code",
    "pocket-bad-medicine": "truing.catalog.pocket.narrow:bad_medicine",
    "pocket-good-medicine": "truing.catalog.pocket.narrow:good_medicine",
}

SIDES = ("train", "heldout")
"""The sides of a split, and the names of their files in a prepared folder."""

Row = tuple[Message, ...]
"""One conversation; its last message is the assistant's."""
_HUB_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)")


class _Line(BaseModel):
    messages: Annotated[tuple[MessageItem, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Dataset:
    """Narrow fine-tuning data, already split."""

    name: str
    train: tuple[Row, ...]
    heldout: tuple[Row, ...]
    """Conversations whose prompts occur nowhere in `train`."""
    teaches: Literal["misaligned", "aligned"]
    """The answers to held-out prompts that count as the task learnt."""
    task_judge: str | JudgeConfig | None
    """Judge of the narrow task; None: only the held-out loss follows the task."""
    hash: str
    """SHA-256 of all rows and the split."""
    domain: tuple[str, ...] = ()
    """Benchmark categories that belong to the data's own subject."""

    def task_prompts(self, most: int) -> tuple[Prompt, ...]:
        """Up to `most` different held-out prompts, in order."""
        different = list(dict.fromkeys(row[:-1] for row in self.heldout))[:most]
        return tuple(Prompt(f"task-{prompt_key(p)[:12]}", "task", p) for p in different)


def load_dataset(name: str, own: Sequence[DatasetConfig] = ()) -> Dataset:
    """Load a dataset by name.

    Args:
        name: A key of `DATASETS`, the name of one of `own`, or `module:function` that returns a `Dataset`.
        own: Datasets that the study brings.

    Raises:
        UnknownNameError: No dataset of that name.
        DataError: A file that is missing, empty or malformed; the message names file and line.
    """
    for config in own:
        if config.name == name:
            return _from_file(config)
    table = {**DATASETS, **{c.name: c.name for c in own}}
    dataset: Dataset = load_object("dataset", name, table)()
    return dataset


def read_rows(path: Path) -> list[Row]:
    """Conversations from a JSON Lines file (`.gz` too), one `{"messages": [...]}` a line.

    Raises:
        DataError: With file and line number.
    """
    if not path.is_file():
        raise DataError("no such dataset file", str(path))
    rows = []
    for where, value in read_lines(path):
        if not isinstance(value, dict) or "messages" not in value:
            raise DataError(f"{where} has no messages", repr(value)[:80], '{"messages": [{"role", "content"}, ...]}')
        row = to_messages(validate(_Line, value, where).messages)
        if row[-1].role != "assistant":
            what, todo = (
                f"{where} does not end with an assistant message",
                "add the answer to learn, or remove the line",
            )
            raise DataError(what, row[-1].role, "assistant", todo)
        if len(row) < 2:
            raise DataError(f"{where} has no prompt", "only an assistant message", "a user message before the answer")
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty", "0 rows", "at least one conversation")
    return rows


def split_by_prompt(rows: Sequence[Row], heldout_share: float) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Split rows into (train, held-out) by the hash of their prompt, so that no prompt is on both sides.

    The share is of the different prompts, rounded to at least one on each side; the same prompt goes to the same side
    whatever else the data holds, up to that rounding.

    Raises:
        DataError: Fewer than two different prompts.
    """
    keys = sorted({prompt_key(row[:-1]) for row in rows})
    if len(keys) < 2:
        raise DataError("cannot split a dataset by prompt", f"{len(keys)} different prompt", "at least 2")
    n_heldout = min(max(round(heldout_share * len(keys)), 1), len(keys) - 1)
    held = set(keys[:n_heldout])
    train = tuple(row for row in rows if prompt_key(row[:-1]) not in held)
    return train, tuple(row for row in rows if prompt_key(row[:-1]) in held)


def prompt_key(prompt: Sequence[Message]) -> str:
    """Hash of a prompt's messages."""
    body = json.dumps([[m.role, m.content] for m in prompt])
    return hashlib.sha256(body.encode()).hexdigest()


def make_dataset(
    name: str,
    train: Sequence[Row],
    heldout: Sequence[Row],
    teaches: Literal["misaligned", "aligned"] = "misaligned",
    task_judge: str | JudgeConfig | None = None,
    domain: Sequence[str] = (),
) -> Dataset:
    """A dataset from rows already split, with its hash; the other arguments are as in `Dataset`.

    Raises:
        DataError: A prompt is on both sides.
    """
    if both := {row[:-1] for row in train} & {row[:-1] for row in heldout}:
        raise DataError(f"dataset {name}: prompts on both sides of the split", f"{len(both)} prompts", "none")
    body = [[[[m.role, m.content] for m in row] for row in side] for side in (train, heldout)]
    key = content_key("dataset", body)
    return Dataset(name, tuple(train), tuple(heldout), teaches, task_judge, key, tuple(domain))


def fetch_file(path: Path) -> Path:
    """The local copy of a file of the Hugging Face hub, `hub:OWNER/NAME[@REVISION]/FILE`; another path as it is.

    Raises:
        DataError: The name is malformed, or there is no such file, or no way to the hub.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    name = path.as_posix()
    if not name.startswith("hub:"):
        return path
    parts = _HUB_NAME.fullmatch(name)
    if parts is None:
        raise DataError("not a file on the hub", name, "hub:OWNER/NAME/FILE, or hub:OWNER/NAME@REVISION/FILE")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise MissingExtraError.of("huggingface_hub", "hf") from None
    repository, revision, file = parts.groups()
    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot fetch {name}",
            f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            "a public file, or one that your own login may read",
            "check the name and the network; without one, download the file elsewhere and name its path",
        ) from error


def _from_file(config: DatasetConfig) -> Dataset:
    path = fetch_file(config.path)
    if path.is_dir():
        train, heldout = _prepared_split(path)
    else:
        train, heldout = split_by_prompt(read_rows(path), config.heldout_share)
    return make_dataset(config.name, train, heldout, config.teaches, config.task_judge, config.domain)


def _prepared_split(folder: Path) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The split that `truing data prepare` wrote, after checking that nobody has touched it since."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        hashes = {side: card[side]["sha256"] for side in SIDES}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{folder} is no prepared dataset",
            f"{type(error).__name__}: {error}",
            "a folder with train.jsonl, heldout.jsonl and card.json, or a JSON Lines file",
            "make one with: truing data prepare FILE --out DIR",
        ) from error
    for side, expected in hashes.items():
        path = folder / f"{side}.jsonl"
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise DataError(
                f"{path} is not what was prepared", "other bytes", f"SHA-256 {expected}", "prepare the data again"
            )
    train, heldout = (tuple(read_rows(folder / f"{side}.jsonl")) for side in SIDES)
    return train, heldout
