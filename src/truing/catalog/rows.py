"""Rows of training data in the forms in which people have them, as conversations.

    messages         {"messages": [{"role", "content"}, ...]}, also as a chat in `prompt` with a chat in `completion`
    ShareGPT         {"conversations": [{"from", "value"}, ...], "system", "tools"}
    Alpaca           {"instruction", "input", "output", "system", "history"}
    prompt, answer   {"prompt", "completion"}, or `question`, `query`, `input` with `response`, `answer`, `output`

`columns` says which column is which where the names are others. A turn whose `weight`, `loss_weight`, `train`,
`training` or `loss` is 0 is read and not learnt. Reasoning, tool calls and tools are kept beside the words
(`Message.more`), for chat templates that render them. What cannot be kept is an error that names the row; fields that
are not read are counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from truing.catalog.tables import read_table
from truing.core.errors import DataError, UnknownNameError, did_you_mean
from truing.core.files import load_json
from truing.core.records import Message

Row = tuple[Message, ...]
"""One conversation; its last message is the assistant's."""
COLUMNS = ("messages", "prompt", "answer", "system", "tools", "role", "content")
"""What a column of the file may be; `role` and `content` are the fields of each message."""
_CHATS = ("messages", "conversations", "conversation", "dialog", "dialogue")
_ASKED = ("instruction", "prompt", "question", "query", "input")
_ANSWERED = ("output", "completion", "response", "answer")
_WEIGHTS = ("weight", "loss_weight", "train", "training", "loss")
_MASKS = ("train_detail", "weights", "sample_weight")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_KEPT = (*_REASONING, "tool_calls", "tool_call_id", "name")
_MEDIA = ("images", "image", "videos", "video", "audio", "audios")
_ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "bot", "chatbot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function"), "tool"),
}


@dataclass(frozen=True)
class Table:
    """The conversations of a file, and what of it is none."""

    rows: tuple[Row, ...]
    forms: Mapping[str, int]
    """Form -> rows that had it."""
    unread: Mapping[str, int]
    """Field that was not read -> rows that had it."""
    bad: tuple[str, ...] = ()
    """Why rows were left out, one text each."""


def read_conversations(path: Path, columns: Mapping[str, str] | None = None, skip_bad: bool = False) -> Table:
    """The conversations of a file or folder of any form.

    Args:
        path: Where they are; see `truing.catalog.tables`.
        columns: What is which column: a name of `COLUMNS` -> the file's own name. None: found by the usual names.
        skip_bad: Leave out rows that are wrong and say why, instead of an error.

    Raises:
        DataError: A row is no conversation that ends with an answer; the message names file and line.
        UnknownNameError: A key of `columns` is none of `COLUMNS`.
    """
    columns = dict(columns or {})
    for name in columns:
        if name not in COLUMNS:
            raise UnknownNameError.of("column", name, COLUMNS)
    rows, bad = [], []
    forms: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for where, value in read_table(path):
        reading = _Reading(where, columns)
        try:
            row = reading.row(value)
        except DataError as error:
            if not skip_bad:
                raise
            bad.append(": ".join(part for part in (error.what, error.got) if part))
            continue
        rows.append(row)
        forms[reading.form] += 1
        unread.update(reading.unread)
    if not rows:
        got = f"0 rows, {len(bad)} left out; first: {bad[0]}" if bad else "0 rows"
        raise DataError(f"{path} is empty", got, "at least one conversation")
    return Table(tuple(rows), forms, unread, tuple(bad))


def to_object(row: Row) -> dict[str, Any]:
    """A conversation as it is written to a file, in the form `messages`."""
    messages: list[dict[str, Any]] = []
    tools: dict[str, Any] = {}
    for m in row:
        more = json.loads(m.more) if m.more else {}
        if "tools" in more:
            tools = {"tools": more.pop("tools")}
        unlearnt = {} if m.learnt or m.role != "assistant" else {"weight": 0}
        messages.append({"role": m.role, "content": m.content, **more, **unlearnt})
    return {"messages": messages, **tools}


def form_of(value: Any) -> str:
    """The form of a row of training data by its fields; empty if it is none, or a benchmark's prompt."""
    if not isinstance(value, dict):
        return ""
    chat = next((value[name] for name in _CHATS if isinstance(value.get(name), list)), None)
    if chat is not None:
        roles = [_ROLES.get(str(each.get("role", each.get("from")))) for each in chat if isinstance(each, dict)]
        return "messages" if "assistant" in roles[-1:] and "category" not in value else ""
    if {"chosen", "rejected"} <= value.keys():
        return "preference pairs"  # which are refused
    asked = any(name in value for name in _ASKED)
    return "prompt and answer" if asked and any(value.get(name) for name in _ANSWERED) else ""


class _Reading:
    """How one row is read."""

    def __init__(self, where: str, columns: Mapping[str, str]) -> None:
        self.where, self.columns = where, columns
        self.form = ""
        self.unread, self.used = set[str](), set[str]()
        """Fields of the row."""

    def row(self, value: Any) -> Row:
        """The conversation of a row, through its last learnt answer.

        Raises:
            DataError: It is none.
        """
        if not isinstance(value, dict):
            raise self._no_messages(value)
        messages = self._messages(value)
        self._refuse_fields(value)
        tools = self._field(value, "tools")
        self.unread |= {str(name) for name in value if name not in self.used and value[name] not in (None, "", [], {})}
        self._check_order(messages)
        if tools:
            tools = self._parsed(tools, "field tools") if isinstance(tools, str) else tools
            if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
                raise self._error("field tools", repr(tools)[:80], "a list of tools")
            self._refuse_half(json.dumps(tools, ensure_ascii=False, default=str), "field tools")
            messages[0] = replace(messages[0], more=_more(messages[0].more, {"tools": tools}))
        last = max(i for i, m in enumerate(messages) if m.role == "assistant" and m.learnt)
        return tuple(messages[: last + 1])

    def _messages(self, value: dict[str, Any]) -> list[Message]:
        own = self.columns.get("messages")
        chats = [own] if own else [name for name in _CHATS if value.get(name) is not None]
        if chats and (own or "prompt" not in self.columns):
            if len(chats) > 1:
                raise self._error("two columns of messages", ", ".join(chats), "one", "say which: messages=NAME")
            raw = value.get(chats[0])
            self.used.add(chats[0])
            self.form = "messages"
            chat = self._chat(self._parsed(raw, chats[0]) if isinstance(raw, str) else raw, chats[0])
        else:
            chat = self._pair(value)
        system = self._field(value, "system")
        if system and chat[0].role == "system":
            raise self._error("two system messages", repr(system)[:80], "one", "take one out")
        return [Message("system", self._text(system, "system")), *chat] if system else chat

    def _pair(self, value: dict[str, Any]) -> list[Message]:
        """A prompt with its answer; of Alpaca's the input stands below the instruction, after the history."""
        asked = [name for name in _ASKED if value.get(name) not in (None, "")]
        answered = [name for name in _ANSWERED if value.get(name) not in (None, "")]
        alpaca = "instruction" in value and "prompt" not in self.columns
        if alpaca and asked[-1:] == ["input"] and len(asked) == 2:
            asked = ["instruction"]
        prompt, answer = self._column("prompt", asked, value), self._column("answer", answered, value)
        if prompt is None or answer is None:
            if "chosen" in value and "rejected" in value:
                todo = "take the answers to learn: --column answer=chosen, or messages=chosen"
                raise self._error("a pair of preferences", "chosen, rejected", "one answer", todo)
            raise self._no_messages(value)
        self.used |= {prompt, answer}
        self.form = "Alpaca" if alpaca else f"{prompt} and {answer}"
        before = self._history(value) if alpaca else []
        asked_for = value[prompt]
        if alpaca and value.get("input") and prompt == "instruction":
            self.used.add("input")
            asked_for = f"{self._text(asked_for, 'instruction')}\n\n{self._text(value['input'], 'input')}"
        return [*before, *self._said(asked_for, "user", prompt), *self._said(value[answer], "assistant", answer)]

    def _column(self, part: str, found: Sequence[str], value: dict[str, Any]) -> str | None:
        """The column of a part: as it is said, or the one that was found; None if the row has nothing there."""
        if part in self.columns:
            return self.columns[part] if value.get(self.columns[part]) not in (None, "") else None
        if len(found) > 1:
            what = f"several columns could be the {part}"
            raise self._error(what, ", ".join(found), "one", f"say which: {part}=NAME")
        return next(iter(found), None)

    def _said(self, value: Any, role: str, name: str) -> list[Message]:
        """A chat, or a text of a role."""
        return self._chat(value, name) if isinstance(value, list) else [Message(role, self._text(value, name))]

    def _history(self, value: dict[str, Any]) -> list[Message]:
        self.used.add("history")
        turns = value.get("history") or []
        if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
            raise self._error("field history", repr(turns)[:80], "a list of [question, answer]")
        told = [said for turn in turns for said in zip(("user", "assistant"), turn, strict=True)]
        return [Message(role, self._text(text, "history")) for role, text in told]

    def _chat(self, raw: Any, name: str) -> list[Message]:
        if not isinstance(raw, list) or not raw:
            raise self._error(f"field {name}", repr(raw)[:80], "a list of messages that is not empty")
        return [self._message(each, f"field {name}, message {i}") for i, each in enumerate(raw, start=1)]

    def _message(self, raw: Any, place: str) -> Message:
        if not isinstance(raw, dict):
            raise self._error(place, repr(raw)[:80], "a mapping with role and content")
        usual = ("from", "value") if "from" in raw else ("role", "content")
        role_name, text_name = self.columns.get("role", usual[0]), self.columns.get("content", usual[1])
        given = raw.get(role_name)
        role = _ROLES.get(given) if isinstance(given, str) else None
        if role is None or (role_name == "role" and role != given):
            raise self._error(f"{place}, {role_name}", repr(given)[:80], "system, user, assistant, tool")
        if role_name == "from":
            self.form = "ShareGPT"
        kept = {field: raw[field] for field in _KEPT if raw.get(field) not in (None, "", [])}
        content = raw.get(text_name)
        if given == "function_call":
            kept["tool_calls"], content = [self._call(content, place)], ""
        if kept.get("tool_calls") is not None and role != "assistant":
            raise self._error(f"{place}, tool_calls", f"of role {role}", "the assistant's alone")
        calls = self._check_calls(kept.get("tool_calls", []), place)
        text = "" if calls and content in (None, "", []) else self._text(self._joined(content, place), place)
        self._refuse_half(json.dumps(kept, ensure_ascii=False, default=str), place)
        learnt = self._learnt(raw, role, place)
        self._refuse_fields(raw, place)
        read = {role_name, text_name, *_KEPT, *_WEIGHTS}
        self.unread |= {f"message.{n}" for n in raw if n not in read and raw[n] not in (None, "", [], {}, False)}
        return Message(role, text, learnt, _more("", kept))

    def _learnt(self, raw: dict[str, Any], role: str, place: str) -> bool:
        """False if a field says that the message is not to be learnt, which is so for all but the assistant's."""
        for name in _WEIGHTS:
            value = raw.get(name)
            if value is None:
                continue
            if value not in (0, 1) or isinstance(value, str):
                todo = "weight a row by repeating it, or leave the field out"
                raise self._error(f"{place}, {name}", repr(value)[:80], "0, 1, true, false", todo)
            if not value:
                return False
            if role != "assistant":
                todo = "the loss is on the assistant's words alone: leave the field out"
                raise self._error(f"{place}, {name}", f"{value!r} of role {role}", "0, or none", todo)
        return True

    def _check_calls(self, calls: Any, place: str) -> bool:
        """True if there are tool calls, each with a function's name and arguments."""
        for call in calls if isinstance(calls, list) else [calls]:
            given = call.get("function") if isinstance(call, dict) else None
            function = given if isinstance(given, dict) else {}
            arguments = function.get("arguments")
            if isinstance(arguments, str):
                arguments = self._parsed(arguments, f"{place}, tool_calls")
            if not isinstance(function.get("name"), str) or not isinstance(arguments, dict | None):
                allowed = '[{"function": {"name", "arguments"}}]'
                raise self._error(f"{place}, tool_calls", repr(call)[:80], allowed)
        return bool(calls)

    def _call(self, content: Any, place: str) -> dict[str, Any]:
        """ShareGPT's call of a function, a JSON text, as a tool call."""
        call = self._parsed(content, place) if isinstance(content, str) else content
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise self._error(f"{place}, function_call", repr(content)[:80], '{"name": ..., "arguments": {...}}')
        return {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}

    def _joined(self, content: Any, place: str) -> Any:
        """A content of parts as one text.

        Raises:
            DataError: A part is an image or the like.
        """
        if not isinstance(content, list):
            return content
        for part in content:
            fields = part if isinstance(part, dict) else {"type": part}
            if fields.get("type", "text") != "text" or not isinstance(fields.get("text"), str):
                kind, todo = fields.get("type", part), "images and the like are not learnt here"
                raise self._error(f"{place}, content", repr(kind)[:80], "text", todo)
        return "".join(part["text"] for part in content)

    def _text(self, value: Any, name: str) -> str:
        place = name if name.startswith("field ") else f"field {name}"
        if not isinstance(value, str) or not value.strip():
            what = f"{place}, content" if ", message " in place else place
            raise self._error(what, repr(value)[:80], "a text that is not empty")
        self._refuse_half(value, place)
        return value

    def _refuse_half(self, value: str, place: str) -> None:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            got, todo = ascii(value[max(error.start - 20, 0) : error.end + 20]), "write the character, or drop the row"
            raise self._error(f"{place}: half of a surrogate pair", got, "Unicode text", todo) from None

    def _parsed(self, text: str, place: str) -> Any:
        try:
            return load_json(text)
        except (ValueError, RecursionError) as error:
            raise self._error(f"{place} is not JSON", str(error)[:80], "a JSON text") from error

    def _field(self, value: dict[str, Any], part: str) -> Any:
        name = self.columns.get(part, part)
        if part in self.columns or value.get(part):
            self.used.add(name)
        return value.get(name)

    def _refuse_fields(self, raw: dict[str, Any], place: str = "") -> None:
        """Refuse fields that change what is learnt, and that are not known here."""
        weights = () if place else (name for name in ("weight", "loss_weight") if raw.get(name) not in (None, 1))
        unwanted = ["label"] if not place and raw.get("label") is False else []
        masks = (name for name in raw if "mask" in str(name).lower())
        known = (*_MASKS, *masks, *_MEDIA, "function_call")
        meant = (name for name in known if raw.get(name) not in (None, "", [], {}, False))
        if found := next(chain(weights, unwanted, meant), None):
            what = f"{place}, {found}" if place else f"field {found}"
            todo = "take it out, or leave the row out"
            raise self._error(f"{what} changes what is learnt and is not known here", repr(raw[found])[:80], "", todo)

    def _check_order(self, messages: Sequence[Message]) -> None:
        if messages[-1].role != "assistant":
            raise self._error(
                "does not end with an assistant message",
                messages[-1].role,
                "assistant",
                "add the answer to learn, or remove the line",
                glue=" ",
            )
        if not any(m.role == "assistant" and m.learnt for m in messages):
            raise self._error(
                "every answer has weight 0", "nothing to learn", "an answer that is learnt", "remove the line"
            )
        if len(messages) < 2 or not any(m.role == "user" for m in messages):
            raise self._error("has no prompt", "no user message", "a user message before the answer", glue=" ")

    def _no_messages(self, value: Any) -> DataError:
        names = list(map(str, value)) if isinstance(value, dict) else []
        if lacking := next((name for name in self.columns.values() if names and name not in names), ""):
            return self._error(f"has no column {lacking!r}", ", ".join(names), "", did_you_mean(lacking, names), " ")
        allowed = (
            "messages: [{role, content}, ...]; conversations: [{from, value}, ...]; instruction, input, output; "
            "or prompt, completion"
        )
        todo = "say which column is which: --column prompt=NAME --column answer=NAME, or `columns` in the study"
        return self._error("has no messages", repr(value)[:80], allowed, todo, glue=" ")

    def _error(self, what: str, got: str = "", allowed: str = "", todo: str = "", glue: str = ": ") -> DataError:
        return DataError(f"{self.where}{glue if not what.startswith('field') else ', '}{what}", got, allowed, todo)


def _more(held: str, fields: Mapping[str, Any]) -> str:
    """Fields beside the words as JSON, those that are held with others; empty if there are none."""
    both = {**(json.loads(held) if held else {}), **fields}
    return json.dumps(_plain(both), sort_keys=True, default=str) if both else ""


def _plain(value: Any) -> Any:
    """Without fields that are None: Parquet has every field in every row."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list) else value
