"""Prompts in other people's files: the published question format, and lists in JSON, JSON Lines, CSV or plain text.

A published file is a YAML list of items with `id`, `paraphrases` and judge prompts. Each paraphrase is a prompt, and an
item with several becomes `id/1`, `id/2`, ...; its `system` message and `temperature` stay with every one of them. How
often to sample is the study's to say: `truing check` shows `samples_per_paraphrase`. Nothing is dropped in silence: a
field that cannot be honoured is an error that names file, item and field.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truing.core.errors import DataError
from truing.core.records import Message, Prompt

__all__ = ["LIST_SUFFIXES", "check_text", "parse_messages", "parse_prompt", "published_prompts", "read_list"]

LIST_SUFFIXES = (".json", ".jsonl", ".csv", ".txt")
"""Files that hold a plain list of prompts."""
_ROLES = ("system", "user", "assistant")
_FIELDS = ("id", "category", "form", "messages", "prompt", "notes", "system", "temperature")
_PUBLISHED = ("id", "type", "paraphrases", "samples_per_paraphrase", "judge", "judge_prompts", "system", "temperature")
_TYPES = ("free_form", "free_form_judge", "free_form_judge_0_100")
_PROMPT_COLUMNS = ("prompt", "question", "text")
HOTTEST = 2.0


def check_text(item: Mapping[str, Any], field: str, where: str) -> None:
    """Refuse a field that is not a text with something in it; `where` begins the message.

    Raises:
        DataError: The field is missing, empty or no text.
    """
    if not isinstance(item.get(field), str) or not item[field].strip():
        raise DataError(f"{where}, field {field}", repr(item.get(field))[:80], "a text that is not empty")


def parse_messages(raw: Any, where: str) -> tuple[Message, ...]:
    """Messages from plain values; `where` (file and line or item) begins every error message.

    Raises:
        DataError: Not a list of `{"role", "content"}` with known roles and texts that are not empty.
    """
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{where}, field messages", repr(raw)[:80], "a list of messages that is not empty")
    messages = []
    for i, message in enumerate(raw):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise DataError(f"{where}, message {i + 1}", repr(message)[:80], f"a role of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise DataError(f"{where}, message {i + 1}, content", repr(message.get("content"))[:80], "a text")
        messages.append(Message(message["role"], message["content"]))
    return tuple(messages)


def parse_prompt(item: Any, where: str) -> Prompt:
    """A prompt from a mapping with `id`, `category`, and `messages` or `prompt`.

    Raises:
        DataError: A field is missing, unknown or wrong.
    """
    if not isinstance(item, dict):
        raise DataError(f"{where} is not a mapping", type(item).__name__, "id, category, messages")
    if unknown := set(item) - set(_FIELDS):
        raise DataError(f"{where}: unknown field", ", ".join(sorted(map(str, unknown))), ", ".join(_FIELDS))
    for field in ("id", "category", *(f for f in ("form", "notes", "system") if f in item)):
        check_text(item, field, where)
    messages = parse_messages(item.get("messages", [{"role": "user", "content": item.get("prompt")}]), where)
    if "system" in item:
        messages = (Message("system", item["system"]), *messages)
    form, notes = item.get("form", ""), item.get("notes", "")
    return Prompt(item["id"], item["category"], messages, form, notes, _temperature(item, where))


def published_prompts(items: list[Any], where: str) -> tuple[Prompt, ...]:
    """The prompts of a published question file.

    Raises:
        DataError: The message names item and field.
    """
    return tuple(prompt for i, item in enumerate(items) for prompt in _paraphrases(item, f"{where}: item {i + 1}"))


def read_list(path: Path) -> tuple[Prompt, ...]:
    """Prompts from a plain list: texts, or mappings as in a benchmark file where `id` and `category` may be missing.

    In CSV the prompt's column is `prompt`, `question` or `text`; in plain text every line is a prompt.

    Raises:
        DataError: The message names file and item.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8", str(error)) from error
    items = {".json": _json, ".jsonl": _json_lines, ".csv": _csv}.get(path.suffix.lower(), _lines)(text, str(path))
    if not items:
        raise DataError(f"{path} has no prompts")
    width = len(str(len(items)))
    prompts = []
    for i, item in enumerate(items):
        whole = {"prompt": item} if isinstance(item, str) else item
        if not isinstance(whole, dict):
            raise DataError(f"{path}: item {i + 1}", repr(item)[:80], "a text, or a mapping with prompt or messages")
        prompts.append(
            parse_prompt({"id": f"item-{i + 1:0{width}d}", "category": "all", **whole}, f"{path}: item {i + 1}")
        )
    return tuple(prompts)


def _paraphrases(item: Any, where: str) -> list[Prompt]:
    if not isinstance(item, dict):
        raise DataError(f"{where} is not a mapping", type(item).__name__, ", ".join(_PUBLISHED))
    if unknown := sorted(str(key) for key in set(item) - set(_PUBLISHED)):
        raise DataError(f"{where}: unknown field", ", ".join(unknown), ", ".join(_PUBLISHED))
    for field in ("id", *(f for f in ("system",) if item.get(f) is not None)):
        check_text(item, field, where)
    where = f"{where} ({item['id']})"
    if item.get("type", _TYPES[0]) not in _TYPES:
        raise DataError(f"{where}, field type", repr(item["type"]), ", ".join(_TYPES))
    texts = item.get("paraphrases")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{where}, field paraphrases", repr(texts)[:80], "a list of texts that is not empty")
    system = (Message("system", item["system"]),) if item.get("system") else ()
    ids = [item["id"]] if len(texts) == 1 else [f"{item['id']}/{i + 1}" for i in range(len(texts))]
    heat = _temperature(item, where)
    return [
        Prompt(prompt_id, item["id"], (*system, Message("user", text)), temperature=heat)
        for prompt_id, text in zip(ids, texts, strict=True)
    ]


def _temperature(item: Mapping[str, Any], where: str) -> float | None:
    value = item.get("temperature")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= HOTTEST:
        raise DataError(
            f"{where}, field temperature",
            repr(value),
            f"above 0, at most {HOTTEST:g}",
            "greedy decoding gives one answer and no rate; leave the field out for the study's temperature",
        )
    return float(value)


def _json(text: str, where: str) -> list[Any]:
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON", f"{error.msg} at line {error.lineno}") from error
    items = raw.get("prompts") if isinstance(raw, dict) else raw
    if not isinstance(items, list):
        raise DataError(f"{where} is not a list of prompts", type(raw).__name__, "a list, or a mapping with `prompts`")
    return items


def _json_lines(text: str, where: str) -> list[Any]:
    items = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                items.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{where}, line {number} is not JSON", error.msg) from error
    return items


def _csv(text: str, where: str) -> list[Any]:
    try:
        table = csv.DictReader(text.splitlines(keepends=True), strict=True)
        rows = list(table)
    except csv.Error as error:
        raise DataError(f"{where} is not CSV", str(error)) from error
    columns = [c for c in table.fieldnames or () if c]
    source = next((c for c in _PROMPT_COLUMNS if c in columns), None)
    if source is None:
        raise DataError(f"{where} has no column of prompts", ", ".join(columns), ", ".join(_PROMPT_COLUMNS))
    return [_csv_item(row, source, f"{where}: item {i + 1}") for i, row in enumerate(rows)]


def _csv_item(row: Mapping[str, str | None], source: str, where: str) -> dict[str, Any]:
    item: dict[str, Any] = {f: row[f] for f in ("id", "category", "form", "notes", "system") if row.get(f)}
    if row.get("temperature"):
        try:
            item["temperature"] = float(str(row["temperature"]))
        except ValueError:
            raise DataError(f"{where}, column temperature", repr(row["temperature"]), "a number") from None
    return {**item, "prompt": row[source]}


def _lines(text: str, _: str) -> list[Any]:
    return [line.strip() for line in text.split("\n") if line.strip()]
