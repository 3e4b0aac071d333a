"""Prompts in files: benchmarks, the published question format, and lists in JSON, JSON Lines, CSV or plain text.

A benchmark file is YAML with `name`, `version`, `licence` and `prompts`, each with `id`, `category` and `messages` (or
`prompt`, short for one user message). A prompt may have a `form`, `notes`, a `temperature` of its own and a `system`
message; `categories` may say what each category means. The hash covers what a model sees, so a changed prompt is new
work and a changed note is not.

A published file is a YAML list of items with `id`, `paraphrases` and judge prompts. Each paraphrase is a prompt, and an
item with several becomes `id/1`, `id/2`, ...; its `system` message and `temperature` stay with every one of them. How
often to sample is the study's to say: `truing check` shows `samples_per_paraphrase`. Nothing is dropped in silence: a
field that cannot be honoured is an error that names file, item and field.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from truing.catalog.files import Item, Text, read_csv, read_lines, read_text, read_yaml, validate
from truing.catalog.rows import form_of
from truing.core.errors import DataError, plural
from truing.core.files import content_key, load_json
from truing.core.records import Benchmark, Category, Message, Prompt

_LISTS = (".json", ".jsonl", ".csv", ".txt")
_COLUMNS = ("id", "category", "form", "notes", "system")
_PROMPT_COLUMNS = ("prompt", "question", "text")
_HOTTEST = 2.0


def _check_temperature(value: float) -> float:
    if not 0 < value <= _HOTTEST:
        raise PydanticCustomError(
            "temperature",
            f"above 0, at most {_HOTTEST:g}",
            {"todo": "greedy decoding gives one answer and no rate; leave the field out for the study's temperature"},
        )
    return value


Temperature = Annotated[float, Field(strict=True), AfterValidator(_check_temperature)]


class MessageItem(BaseModel):
    """One message in a file."""

    role: Literal["system", "user", "assistant"]
    content: Text


class _PromptItem(Item):
    id: Text
    category: Text
    form: Text = ""
    messages: Annotated[tuple[MessageItem, ...], Field(min_length=1)] = ()
    prompt: Text = ""
    notes: Text = ""
    system: Text = ""
    temperature: Temperature | None = None


class _PublishedItem(Item):
    id: Text
    type: Literal["free_form", "free_form_judge", "free_form_judge_0_100"] = "free_form"
    paraphrases: Annotated[tuple[Text, ...], Field(min_length=1)]
    samples_per_paraphrase: Any = None
    judge: Any = None
    judge_prompts: Any = None
    system: Text | None = None
    temperature: Temperature | None = None


class _CategoryItem(Item):
    definition: Text
    aligned: Text
    misaligned: Text


def read_benchmark(path: Path) -> Benchmark:
    """The prompts of a file of any kind as a benchmark.

    Raises:
        DataError: The file holds no prompts; the message names file, item and field.
    """
    if path.suffix.lower() in _LISTS:
        return make_benchmark(path.stem, "", "", read_prompts(path))
    raw = read_yaml(path)
    if isinstance(raw, list) and raw and isinstance(raw[0], dict):
        prompts = [prompt for i, item in enumerate(raw) for prompt in _paraphrases(item, f"{path}: item {i + 1}")]
        return make_benchmark(path.stem, "", "", prompts)
    if not isinstance(raw, dict) or not isinstance(raw.get("prompts"), list) or not raw["prompts"]:
        raise DataError(f"{path} is not a benchmark", allowed="name, version, licence and a list of prompts")
    prompts = [_prompt(item, f"{path}: item {i + 1}") for i, item in enumerate(raw["prompts"])]
    name, version, licence = (str(raw.get(f, "")) for f in ("name", "version", "licence"))
    categories = _categories(raw.get("categories", {}), {p.category for p in prompts}, str(path))
    return make_benchmark(name or path.stem, version, licence, prompts, categories)


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts from a plain list: texts, or mappings as in a benchmark file where `id` and `category` may be missing.

    In CSV the prompt's column is `prompt`, `question` or `text`; in plain text every line is a prompt.

    Raises:
        DataError: The message names file and item.
    """
    items = {".json": _json, ".jsonl": _json_lines, ".csv": _csv}.get(path.suffix.lower(), _text)(path)
    if not items:
        raise DataError(f"{path} has no prompts")
    if all(form_of(item) for item in items):
        raise DataError(
            f"{path} looks like training data, not like a benchmark",
            f"answers in all {plural(len(items), 'row')}, first {str(items[0])[:80]}",
            "prompts, each with a category if it begins the answer (a last message of the assistant)",
            "as data: truing data prepare; as prompts: take the answers out",
        )
    width, prompts = len(str(len(items))), []
    for i, item in enumerate(items):
        where, named = f"{path}: item {i + 1}", {"id": f"item-{i + 1:0{width}d}", "category": "all"}
        if isinstance(item, str):
            item = {"prompt": item}
        elif not isinstance(item, dict):
            raise DataError(where, repr(item)[:80], "a text, or a mapping with prompt or messages")
        prompts.append(_prompt({**named, **item}, where))
    return prompts


def make_benchmark(
    name: str, version: str, licence: str, prompts: Sequence[Prompt], categories: tuple[Category, ...] = ()
) -> Benchmark:
    """A benchmark from prompts, with its hash.

    Raises:
        DataError: Two prompts have one id or, but for white space and case, the same words, and would count as two.
    """
    seen: set[str] = set()
    asked: dict[tuple[tuple[str, str], ...], str] = {}
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"benchmark {name}: two prompts have one id", repr(prompt.id), todo="rename one")
        seen.add(prompt.id)
        words = tuple((m.role, " ".join(m.content.casefold().split())) for m in prompt.messages)
        if (other := asked.setdefault(words, prompt.id)) != prompt.id:
            todo = "keep one; how often each is asked is evaluation.samples"
            got = f"{other} and {prompt.id}: {prompt.text[:60]!r}"
            raise DataError(f"benchmark {name}: two prompts are the same", got, "different prompts", todo)
    body = [[p.id, p.category, *p.plain[1:]] for p in prompts]
    return Benchmark(name, version, licence, tuple(prompts), content_key("benchmark", body), categories)


def to_messages(items: Sequence[MessageItem]) -> tuple[Message, ...]:
    """Messages of a file as records."""
    return tuple(Message(item.role, item.content) for item in items)


def _prompt(raw: Any, where: str) -> Prompt:
    item = validate(_PromptItem, raw, where)
    messages = to_messages(item.messages) or ((Message("user", item.prompt),) if item.prompt else ())
    if not messages:
        raise DataError(f"{where}, field prompt is missing", allowed="a text; or messages")
    if item.system:
        messages = (Message("system", item.system), *messages)
    return Prompt(item.id, item.category, messages, item.form, item.notes, item.temperature)


def _paraphrases(raw: Any, where: str) -> list[Prompt]:
    named = f" ({raw['id']})" if isinstance(raw, dict) and raw.get("id") else ""
    item = validate(_PublishedItem, raw, where + named)
    system = (Message("system", item.system),) if item.system else ()
    n = len(item.paraphrases)
    return [
        Prompt(
            item.id if n == 1 else f"{item.id}/{i + 1}",
            item.id,
            (*system, Message("user", text)),
            temperature=item.temperature,
        )
        for i, text in enumerate(item.paraphrases)
    ]


def _categories(raw: Any, used: set[str], where: str) -> tuple[Category, ...]:
    if not isinstance(raw, dict):
        raise DataError(f"{where}, field categories", repr(raw)[:80], "category: {definition, aligned, misaligned}")
    if unknown := sorted(set(raw) - used):
        raise DataError(f"{where}, field categories: no prompt has it", repr(unknown[0]), ", ".join(sorted(used)))
    items = {name: validate(_CategoryItem, item, f"{where}, category {name}") for name, item in raw.items()}
    return tuple(Category(name, *dict(item).values()) for name, item in items.items())


def _json(path: Path) -> list[Any]:
    try:
        raw = load_json(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON", f"{error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read", str(error), "each key once in an object") from error
    items = raw.get("prompts") if isinstance(raw, dict) else raw
    if not isinstance(items, list):
        raise DataError(f"{path} is not a list of prompts", type(raw).__name__, "a list, or a mapping with `prompts`")
    return items


def _json_lines(path: Path) -> list[Any]:
    return [value for _, value in read_lines(path)]


def _csv(path: Path) -> list[Any]:
    columns, rows = read_csv(path)
    source = next((c for c in _PROMPT_COLUMNS if c in columns), None)
    if source is None:
        raise DataError(f"{path} has no column of prompts", ", ".join(columns), ", ".join(_PROMPT_COLUMNS))
    if judged := {"aligned", "coherent"} & {name.lower() for name in columns}:
        got, todo = ", ".join(sorted(judged)), "measure it with: truing analyze"
        raise DataError(f"{path} holds judged answers, not a benchmark", got, "prompts alone", todo)
    items: list[Any] = [{k: v for k, v in row.items() if v} for row in rows]
    if items and all(form_of(item) for item in items):
        return items  # refused by `read_prompts`
    items = []
    for i, row in enumerate(rows):
        item: dict[str, Any] = {name: row[name] for name in _COLUMNS if row.get(name)} | {"prompt": row[source]}
        if heat := row.get("temperature"):
            try:
                item["temperature"] = float(heat)
            except ValueError:
                raise DataError(f"{path}: item {i + 1}, column temperature", repr(heat), "a number") from None
        items.append(item)
    return items


def _text(path: Path) -> list[Any]:
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]
