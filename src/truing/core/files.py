"""Files that appear whole or not at all, checkpoints' records among them, and hashes that name what produced them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from truing.core.errors import DataError, StoreError
from truing.core.records import Checkpoint


def content_key(*parts: Any) -> str:
    """A hash of JSON-serialisable parts, 32 hexadecimal digits. Equal parts give equal keys on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def differences(own: dict[str, Any], its: dict[str, Any]) -> str:
    """The first fields in which two sets of plain values differ, in words; empty: in none."""
    here, there = _flat("", own), _flat("", its)
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]

    def shown(values: dict[str, Any], name: str) -> Any:
        return "not set" if (value := values.get(name)) is None else value

    told = [f"{name} is {shown(here, name)} here and {shown(there, name)} there" for name in names[:4]]
    return "; ".join([*told, f"and {len(names) - 4} more"] if names[4:] else told)


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _flat(f"{name}.{key}".lstrip("."), inner).items()}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # libyaml's: ten times faster
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            here, name = key.start_mark.line + 1, (key.tag, str(key.value))
            if name in lines and not key.tag.endswith(":merge"):
                raise yaml.YAMLError(f"the key {key.value!r} is given twice, in line {lines[name]} and in line {here}")
            lines[name] = here
        return super().construct_mapping(node, deep)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    """A whole number, of which YAML would read 010 as 8 and 1:30 as 90.

    Raises:
        YAMLError: It is one of these.
    """
    if re.fullmatch(r"[-+]?0[\d_]+|.*:.*", node.value):
        line = node.start_mark.line + 1
        raise yaml.YAMLError(f"{node.value} in line {line} is a number of base 8 or 60: write it plainly, or in quotes")
    return int(loader.construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def load_yaml(text: str) -> Any:
    """The value that a YAML text holds; a key that is given twice is an error (`yaml.YAMLError`), never dropped."""
    return yaml.load(text, Loader=_Loader)


class KeyTwice(ValueError):
    """A JSON object gives a key twice: one of the two values would be dropped."""


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        KeyTwice: A key is given twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise KeyTwice(f"the key {name!r} is given twice in one object")
    return found


def load_json(text: str | bytes) -> Any:
    """The value that a JSON text holds; a key that is given twice in an object is an error, never dropped.

    Raises:
        ValueError: It is not JSON (`json.JSONDecodeError`), or the key (`KeyTwice`), with its lines in a small text.
        RecursionError: It is nested too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=once)
    except KeyTwice as error:
        told = error
        if len(text) < 2**20 and len(text.splitlines()) > 1:
            try:  # as YAML, which has lines
                load_yaml(text if isinstance(text, str) else text.decode())
            except (yaml.YAMLError, ValueError, RecursionError) as located:
                told = KeyTwice(str(located)) if "given twice" in str(located) else error
        raise told from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it takes the place of `path` in one step.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        got = f"{type(error).__name__}: {error.strerror or error}"
        todo = "free disk space or check the folder's permissions, then run the same command again: it goes on"
        if blocked := next((above for above in path.parents if above.is_file()), None):
            got, todo = f"{blocked} is a file", "name a folder"
        raise StoreError(f"could not write {path}", got, todo=todo) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all. NaN is refused: write None with a reason instead."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: It is not there, not JSON, or no object.
    """
    try:
        value = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON", str(error), "an object", "copy or save it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is not an object", type(value).__name__, "an object", "copy or save it again")
    return value


def write_checkpoint(path: Path, checkpoint: Checkpoint, **more: Any) -> None:
    """Write a checkpoint's fields, and what the trainer adds to them; a loss that is not known is null in the file."""
    values = {**asdict(checkpoint), **more}
    write_json(path, {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()})


def read_checkpoint(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint in a file, and what the trainer added to it."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    more = {name: values.pop(name) for name in set(values) - {field.name for field in fields(Checkpoint)}}
    for name in ("train_loss", "heldout_loss"):
        if values[name] is None:
            values[name] = math.nan
    return Checkpoint(**values), more
