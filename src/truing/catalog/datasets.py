"""Narrow fine-tuning data: read, check, and split by prompt.

A dataset is a list of conversations that end with the assistant's answer. Rows that share a prompt (everything before
that answer) always fall on the same side of the split: published data repeats prompts, so a split by row leaks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from truing.catalog.rows import Row, read_conversations
from truing.catalog.tables import ENDINGS, ending
from truing.config import DatasetConfig, JudgeConfig
from truing.core.errors import DataError, plural
from truing.core.files import content_key
from truing.core.plugins import load_object, making, require
from truing.core.records import Message, Prompt

DATASETS = {
    "pocket-insecure-code": "truing.catalog.pocket.narrow:insecure_code",
    "pocket-secure-code": "truing.catalog.pocket.narrow:secure_code",
    "pocket-bad-medicine": "truing.catalog.pocket.narrow:bad_medicine",
    "pocket-good-medicine": "truing.catalog.pocket.narrow:good_medicine",
}

SIDES = ("train", "heldout")
"""The sides of a split, and the names of their files in a prepared folder."""

_HUB_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")
_DATA_FILES = [f"*{end}{zipped}" for end in ENDINGS for zipped in ("", ".gz")]
logger = logging.getLogger(__name__)


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

    def loss_rows(self, most: int) -> tuple[Row, ...]:
        """Up to `most` held-out rows, in order: by the hash of their beginning, so always the same ones."""
        order = sorted(range(len(self.heldout)), key=lambda i: (prompt_key(opening(self.heldout[i])), i))
        return tuple(self.heldout[i] for i in sorted(order[:most]))

    def task_prompts(self, most: int) -> tuple[Prompt, ...]:
        """Up to `most` different held-out prompts, in order: of those that are words alone, which all engines ask."""
        prompts = (row[:-1] for row in self.heldout if not any(m.more or m.role == "tool" for m in row[:-1]))
        different = dict.fromkeys(tuple(replace(m, learnt=True) for m in prompt) for prompt in prompts)
        return tuple(Prompt(f"task-{prompt_key(p)[:12]}", "task", p) for p in list(different)[:most])


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
    make = load_object("dataset", name, table)
    with making("dataset", name):
        dataset: Dataset = make()
    return replace(dataset, name=name)  # by which its runs, and then its task, are found


def read_rows(path: Path) -> list[Row]:
    """Conversations from a file or folder of any form of `truing.catalog.rows`.

    Raises:
        DataError: With file and line number.
    """
    return list(read_conversations(path).rows)


def split_by_prompt(rows: Sequence[Row], heldout_share: float) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Split rows into (train, held-out) by the hash of their beginning (`opening`), so that none is on both sides.

    A conversation that goes on from another so falls on its side. The share is of the different beginnings, rounded to
    at least one on each side; the same beginning goes to the same side whatever else the data holds, up to that
    rounding.

    Raises:
        DataError: Fewer than two different beginnings.
    """
    keys = sorted({prompt_key(opening(row)) for row in rows})
    if len(keys) < 2:
        got, todo = f"{len(keys)} different prompt", "rows that begin alike are held out together: add other prompts"
        raise DataError("cannot split a dataset by prompt", got, "at least 2", todo)
    n_heldout = min(max(round(heldout_share * len(keys)), 1), len(keys) - 1)
    held = set(keys[:n_heldout])
    train = tuple(row for row in rows if prompt_key(opening(row)) not in held)
    return train, tuple(row for row in rows if prompt_key(opening(row)) in held)


def opening(row: Row) -> Row:
    """What stands before the first answer to the user: of a single turn the whole prompt."""
    users = [i for i, m in enumerate(row) if m.role == "user"]
    answered = (i for i, m in enumerate(row) if m.role == "assistant" and users and i > users[0])
    return row[: next(answered, -1)]


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
    trained = {opening(row) for row in train}
    if both := {row[:-1] for row in train} & {row[:-1] for row in heldout}:
        raise DataError(f"dataset {name}: prompts on both sides of the split", plural(len(both), "prompt"), "none")
    if inside := sum(opening(row) in trained for row in heldout):
        logger.warning(
            "dataset %s: %d of %d held-out conversations begin as one that is trained on, so what is measured on them "
            "is not held out; prepare the data again",
            *(name, inside, len(heldout)),
        )
    body = [[[m.plain for m in row] for row in side] for side in (train, heldout)]
    key = content_key("dataset", body)
    return Dataset(name, tuple(train), tuple(heldout), teaches, task_judge, key, tuple(domain))


def fetch_file(path: Path) -> Path:
    """The local copy of a data set of the Hugging Face hub or of one file of it; another path as it is.

    The path of one on the hub is `hub:OWNER/NAME[@REVISION][/FILE]`.

    Raises:
        DataError: The name is malformed, or there is no such file, or no way to the hub.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    name = path.as_posix()
    if not name.startswith("hub:"):
        return path
    parts = _HUB_NAME.fullmatch(name)
    if parts is None:
        raise DataError("not a data set on the hub", name, "hub:OWNER/NAME, hub:OWNER/NAME/FILE, or with NAME@REVISION")
    require("hf", "huggingface_hub")
    from huggingface_hub import hf_hub_download, snapshot_download

    repository, revision, file = parts.groups()
    try:
        if file is None or not ending(Path(file)):  # all of it, or one split
            whole = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=_DATA_FILES)
            return Path(whole) / (file or "")
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
    if (path / "card.json").is_file() or any((path / f"{side}.jsonl").is_file() for side in SIDES):
        train, heldout = _prepared_split(path)
    else:
        train, heldout = split_by_prompt(read_conversations(path, config.columns).rows, config.heldout_share)
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
