"""Chat templates as they are rendered here, always on the same day, and the answer within what a model wrote.

Some templates (Llama 3.2, GPT-OSS) write today's date into the system prompt. Then a run that goes on tomorrow would
train on other tokens, and a checkpoint judged tomorrow would be asked other prompts. So the date is a fixed one, the
default of Llama's own templates.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from truing.core.answers import CHANNEL, Answer, Output, is_mark, opens_reasoning, read_answer
from truing.core.errors import DataError, EngineError, TruingError, plural
from truing.core.files import content_key
from truing.core.records import Prompt

logger = logging.getLogger(__name__)

_DAY: Mapping[str, str] = {
    "%d": "26",
    "%-d": "26",
    "%e": "26",
    "%b": "Jul",
    "%B": "July",
    "%m": "07",
    "%-m": "7",
    "%y": "24",
    "%Y": "2024",
    "%a": "Fri",
    "%A": "Friday",
    "%H": "12",
    "%I": "12",
    "%M": "00",
    "%S": "00",
    "%p": "PM",
}
"""Directive of strftime -> its text on 26 July 2024, at noon."""
_FOLD = "; the benchmark NAME+folded asks with the system message before the user's words"


def load_tokenizer(source: str) -> Any:
    """The tokenizer in a folder or of a hub id; no code of its own is run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def fixed_template(tokenizer: Any, kind: type[TruingError]) -> str:
    """The chat template of a tokenizer, with `strftime_now` as a macro that knows one day only.

    Raises:
        TruingError: Of that kind: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise kind("the tokenizer has no chat template", todo="use a chat model, or set a chat template")
    template: str = tokenizer.get_chat_template()
    if "strftime_now" not in template:
        return template
    replacing = "".join(f'|replace("{directive}", "{text}")' for directive, text in _DAY.items())
    return f"{{%- macro strftime_now(form) -%}}{{{{ form{replacing} }}}}{{%- endmacro -%}}{template}"


def own_format(folder: Path, source: str | None) -> str:
    """Names the chat template, vocabulary and end token that a checkpoint brings, if they are not those of `source`.

    Returns:
        A hash; empty if the folder holds no tokenizer, or one that asks as the base's does.

    Raises:
        DataError: One of the two tokenizers cannot be loaded.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return ""
    own = _format_of(str(folder), (folder / "tokenizer_config.json").stat().st_mtime_ns)
    return "" if source is not None and own == _format_of(source, 0) else own


@lru_cache(64)
def _format_of(source: str, changed: int) -> str:
    try:
        tokenizer = load_tokenizer(source)
    except Exception as error:
        got, todo = f"{type(error).__name__}: {error}", "save it again, or take its files away to use the base's"
        raise DataError(
            f"the tokenizer in {source} cannot be loaded", got, "a tokenizer of transformers", todo
        ) from error
    return _named(tokenizer)


def _named(tokenizer: Any) -> str:
    return content_key(tokenizer.chat_template or "", sorted(tokenizer.get_vocab().items()), tokenizer.eos_token or "")


def is_asked_alike(source: str, other: Any) -> bool:
    """True if a tokenizer, or that in a folder, has the chat template, vocabulary and end token of the one in `source`.

    Raises:
        DataError: One of the two cannot be loaded.
    """
    return _format_of(source, 0) == (_format_of(other, 0) if isinstance(other, str) else _named(other))


def asked_as(weights: str, folder: Path, source: str | None) -> str:
    """Hash of a checkpoint as it is asked: that of its weights, with its own format where it has one (`own_format`)."""
    own = own_format(folder, source)
    return content_key(weights, "asked as", own) if own else weights


def left_out(tokenizer: Any, template: str, roles: Sequence[str], **turn: Any) -> list[str]:
    """The roles of messages that a template leaves out of a conversation; none if it refuses such a conversation.

    `turn` are further arguments of `apply_chat_template`.
    """
    from jinja2 import TemplateError

    marks = [f"\ue000{i}\ue001" for i in range(len(roles))]  # of the private use area: in no template
    chat = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    try:
        text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, **turn)
    except (TemplateError, ValueError, TypeError):
        return []
    return [role for role, mark in zip(roles, marks, strict=True) if mark not in text]


def encode_prompt(tokenizer: Any, prompt: Prompt, context: int) -> list[int] | str:
    """The token ids of a prompt by the chat template, or why there are none.

    A last message of the assistant is a prefill: the model goes on from its last word, and the response holds only
    what follows.

    Prompt and answer together may have as many tokens as the `context`.

    Raises:
        EngineError: The tokenizer has no chat template.
    """
    from jinja2 import TemplateError

    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    template = fixed_template(tokenizer, EngineError)
    prefill = messages[-1]["role"] == "assistant"
    turn = {"add_generation_prompt": not prefill, "continue_final_message": prefill}
    try:
        ids = tokenizer.apply_chat_template(messages, chat_template=template, **turn, tokenize=True, return_dict=False)
    except (TemplateError, ValueError) as error:  # a template that changes the prefill is a ValueError
        hint = _FOLD if messages[0]["role"] == "system" else ""
        return f"the chat template refuses the prompt: {error}{hint}"
    if lost := left_out(tokenizer, template, [m.role for m in prompt.messages], **turn):
        return f"the chat template leaves out the {lost[0]} message{_FOLD if 'system' in lost else ''}"
    if len(ids) >= context:
        return f"the prompt has {plural(len(ids), 'token')}, the model's context {context}"
    return [int(i) for i in ids]


@lru_cache(64)
def warn_of_ends(tokenizer: Any, template: str, ends: tuple[int, ...]) -> None:
    """Say, once, that answers will run on because the token that ends a turn of the template is no end token."""
    slot = "7391"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": slot}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # noqa: BLE001 - a template of anybody's; what it refuses is told where it is used
        return
    tail = tokenizer(text.rpartition(slot)[2].strip(), add_special_tokens=False)["input_ids"]
    end = next((int(i) for i in tail if int(i) in tokenizer.added_tokens_decoder), None)
    if end is not None and end not in ends:
        names = ", ".join(repr(tokenizer.decode([i])) for i in ends) or "none"
        logger.warning(
            "the chat template ends a turn with %r, which is none of the tokens that end an answer (%s): answers will "
            "run on until they are cut\n  to do: put it into eos_token_id of generation_config.json, or set eos_token",
            tokenizer.decode([end]),
            names,
        )


def read_tokens(
    tokenizer: Any, asked: Sequence[int], answers: Sequence[Sequence[int]], finished: Sequence[bool]
) -> list[Answer]:
    """The answers to one prompt in what was sampled: without control tokens and reasoning; see `read_answer`.

    `asked` and `answers` are token ids; an answer that is not `finished` was cut at the token limit.
    """
    opened, tokens = opens_reasoning(tokenizer.decode(asked[-8:])), [list(answer) for answer in answers]
    special = tokenizer.all_special_tokens
    if CHANNEL in tokenizer.get_added_vocab():
        texts = tokenizer.batch_decode(tokens)
    elif any(map(is_mark, special)):  # what marks reasoning must not be left out with the rest
        others = "|".join(re.escape(token) for token in special if not is_mark(token)) or r"(?!)"
        texts = [re.sub(others, "", text) for text in tokenizer.batch_decode(tokens)]
    else:
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ends = ["stop" if each else "length" for each in finished]
    return [read_answer(Output(text, end, opened=opened)) for text, end in zip(texts, ends, strict=True)]
