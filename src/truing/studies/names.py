"""What the names of checkpoints and of base models tell: the step or the epoch, and which model it is a copy of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truing.core.files import read_object

_STEP = re.compile(r"(?:^|[-_.])(?:checkpoint|global_?step|step|iter|ckpt)[-_=]?(\d+)(?!\d)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:^|[-_.])ep(?:och)?[-_=]?(\d+)(?![\d.])", re.IGNORECASE)
_DATE = re.compile(r"(?:^|\D)(20\d\d)[-_.]?([01]\d)[-_.]?([0-3]\d)(?:\D*(\d\d)[-_.:h]?(\d\d)(?:[-_.:]?(\d\d))?)?(?!\d)")
_COPY = re.compile(r"[-_.](?:unsloth|bnb|4bit|8bit|int4|int8|awq|gptq|fp8|bf16|nf4|merged)\b", re.IGNORECASE)
_SHAPES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)
"""Fields of a config in which two copies of one model agree; a vocabulary may be padded."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a checkpoint's name puts it in its run."""

    kind: Literal["step", "epoch", "date", ""]
    number: int
    rest: str = ""
    """What the name says besides, such as `-merged`."""


def place_of(name: str) -> Place:
    """The place that the name of a folder tells; of no kind if it tells none."""
    for kind, pattern in (("step", _STEP), ("epoch", _EPOCH)):
        if found := pattern.search(name):
            return Place(kind, int(found[1]), name[found.end() :])  # type: ignore[arg-type]
    if found := _DATE.search(name):
        return Place("date", int("".join(part or "00" for part in found.groups())), "")
    return Place("", 0, name)


def same_by_name(one: str, other: str) -> bool:
    """True if two names are of one model but for its owner and its precision."""

    def stem(name: str) -> str:
        return _COPY.sub("", name.rstrip("/").rpartition("/")[2]).lower()

    return bool(one and other) and stem(one) == stem(other) != ""


def unlike_configs(one: str, other: str) -> str | None:
    """In what the configs of two models differ, in words; empty: in nothing that tells; None: one is not at hand."""
    here, there = _config(one), _config(other)
    if here is None or there is None:
        return None
    names = [name for name in _SHAPES if here.get(name) != there.get(name)]
    return ", ".join(f"{name} {here.get(name)} and {there.get(name)}" for name in names)


def _config(model: str) -> dict[str, Any] | None:
    """The config of a folder, or of a hub id that is in the cache of this machine."""
    path: str | None = str(Path(model) / "config.json")
    if not Path(model).is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, "config.json") if model.count("/") == 1 else None
        path = found if isinstance(found, str) else None
    return read_object(Path(path)) if path is not None and Path(path).is_file() else None
