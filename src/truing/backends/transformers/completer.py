"""A language model on this machine as judge's completer, with `transformers`, many prompts at a time.

Where the tokenizer has a token for every integer from 0 to 100, the likeliest first tokens are reported as they are.
Where it writes 85 as 8 and 5, as many do, the probability of each whole number is computed instead, by a few tokens
more behind each prompt, the beginnings of all numbers: P("85") = P(8) P(5 | 8), and P("8") = P(8) (1 - P(further digit
| 8)). So the same reading of scores holds for every model. What prompts begin with alike, such as a rubric, is computed
once for all that stand in one row (`packing`), and of the distributions only what is read leaves the device.

Text under judgment cannot speak as the chat template: control tokens of the tokenizer in it are broken by a space.
Weights load from safetensors only and no code of a model is run.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from truing.backends.transformers.packing import Row, Tail, forward, is_packable, pack
from truing.catalog.models import resolve_model
from truing.core.chat import INTEGERS, TOP_TOKENS, ChatRequest, ChatResult, Completer
from truing.core.errors import JudgeError, boundary, plural
from truing.core.plugins import require
from truing.core.progress import ahead
from truing.core.templates import fixed_template, left_out, load_tokenizer
from truing.core.weights import model_hash

_ROW = {"cpu": 2048, "cuda": 4096}
"""Most tokens of a row of prompts."""
_WINDOW = 1024
"""Requests drawn at a time and sorted by what they begin with."""
_MOST_MODELS = 4
"""Models that stay loaded, the latest used."""
_loading = threading.Lock()


class LocalCompleter(Completer):
    """Answers chat requests by one token, with the probabilities of all first tokens or whole numbers.

    Only what a judge needs: temperature 0, and as text the likeliest answer. Libraries and the model load at the first
    request, the model once for all completers of a process; it runs on `device`, None: on a GPU if there is one.

    Raises:
        MissingExtraError: A library is not installed.
    """

    together = True

    def __init__(self, device: str | None = None) -> None:
        require("hf", "torch", "transformers")
        self.device = device

    def identify(self, model: str) -> str:
        """With the hash of its weights."""
        return f"{model}@{model_hash(resolve_model(model))[:12]}"

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order.

        Raises:
            JudgeError: The model cannot be loaded or run.
        """
        drawn = iter(requests)
        while window := list(islice(drawn, _WINDOW)):
            with boundary(f"the judge {window[0].model}", JudgeError):
                results = self._window(window)
            yield from results

    def _window(self, requests: Sequence[ChatRequest]) -> list[ChatResult]:
        if len(names := sorted({r.model for r in requests})) > 1:
            raise JudgeError("one model at a time", ", ".join(names))
        judge = _load(requests[0].model, self.device)
        room = judge.context - judge.numbers.depth - 1
        results: dict[int, ChatResult] = {}
        able: dict[int, list[int]] = {}
        for i, encoded in enumerate(encode(judge.tokenizer, requests)):
            if isinstance(encoded, str):
                results[i] = ChatResult(None, error=encoded)
            elif len(encoded) > room:
                results[i] = ChatResult(None, error=f"{plural(len(encoded), 'token')} do not fit the {room} there are")
            else:
                able[i] = encoded
        places = list(able)
        for k, (likeliest, numbers) in judge.distributions(list(able.values())):
            i = places[k]
            ahead("judge", len(results) + 1)
            results[i] = _result(judge, likeliest, numbers, len(able[i]), requests[i].top_logprobs)
        return [results[i] for i in range(len(requests))]


class NumberTree:
    """The tokens in which a tokenizer of `transformers` writes the integers 0 to 100."""

    def __init__(self, tokenizer: Any) -> None:
        self.paths = {n: tuple(tokenizer.encode(n, add_special_tokens=False)) for n in INTEGERS}
        unknown = tokenizer.unk_token_id
        if len(set(self.paths.values())) < len(self.paths) or any(unknown in path for path in self.paths.values()):
            raise JudgeError(
                "the judge's tokenizer cannot write the numbers 0 to 100", todo="use another model as judge"
            )
        inner = {path[:k] for path in self.paths.values() for k in range(1, len(path))}
        self.inner = sorted(path for path in inner if not any(_goes_on(other, path) for other in inner))
        """The longest beginnings that numbers go on from; none if every number is one token."""
        self.nodes = inner
        """All beginnings of numbers that go on."""
        self.children = {
            node: {path[len(node)] for path in self.paths.values() if _goes_on(path, node)} for node in inner
        }
        self.depth = max(map(len, self.paths.values()))
        self.columns = sorted({token for path in self.paths.values() for token in path})
        """The tokens that numbers are made of."""

    def log_probabilities(self, after: Mapping[Tail, Mapping[int, float]]) -> dict[str, float]:
        """Log-probability of each number.

        In `after`: beginning of a number, () included -> log-probability of each of `columns` after it.
        """
        found = {}
        for number, path in self.paths.items():
            total = sum(after[path[:k]][path[k]] for k in range(len(path)))
            if path in self.children:  # 8 goes on to 85: here it must not
                more = sum(math.exp(after[path][token]) for token in sorted(self.children[path]))
                total += math.log(max(1 - more, 1e-300))
            found[number] = total
        return found


def _goes_on(path: Tail, beginning: Tail) -> bool:
    """True if a number's tokens begin so and go on."""
    return len(path) > len(beginning) and path[: len(beginning)] == beginning


@dataclass(frozen=True)
class _Judge:
    """A model that is loaded, and what is known of it."""

    model: Any
    tokenizer: Any
    numbers: NumberTree
    context: int
    """Most tokens of a sequence."""
    packable: bool
    words: dict[int, str] = field(default_factory=dict)
    """Tokens in words, as far as they were needed."""

    def distributions(self, prompts: Sequence[list[int]]) -> Iterator[tuple[int, Distribution]]:
        """The distributions after each prompt, as they come."""
        if not prompts:
            return
        most = _ROW.get(self.model.device.type, 2048) if self.packable else 0
        config = self.model.config.get_text_config(decoder=True)
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        if window and window <= max(map(len, prompts)) + self.numbers.depth:
            most = 0
        known: dict[int, dict[Tail, list[float]]] = {}
        likeliest: dict[int, dict[int, float]] = {}
        for row, found in self._forwards(pack(prompts, self.numbers.inner, most)):
            values, ids, numbers = (part.tolist() for part in found)
            rows = iter(numbers)
            for k, (i, ends) in enumerate(row.ends.items()):
                likeliest[i] = dict(zip(ids[k], values[k], strict=True))
                known.setdefault(i, {}).update({tail: next(rows) for tail in ends})
                if len(known[i]) == 1 + len(self.numbers.nodes):
                    yield i, (likeliest.pop(i), self._numbers(known.pop(i)))

    def _forwards(self, rows: Iterable[Row]) -> Iterator[tuple[Row, tuple[Any, Any, Any]]]:
        """Of each row, on the device: the likeliest first tokens, log-probabilities and ids, and the numbers' tokens.

        The next row is launched before one is handed on, so that a GPU works while its figures are read.
        """
        launched: tuple[Row, tuple[Any, Any, Any]] | None = None
        for row in rows:
            table = forward(self.model, row, [place for ends in row.ends.values() for place in ends.values()])
            first = [k for k, tail in enumerate(tail for ends in row.ends.values() for tail in ends) if not tail]
            values, ids = table[first].topk(min(TOP_TOKENS, table.shape[1]))
            if launched is not None:
                yield launched
            launched = row, (values, ids, table[:, self.numbers.columns])
        if launched is not None:
            yield launched

    def _numbers(self, known: Mapping[Tail, Sequence[float]]) -> dict[str, float]:
        if not self.numbers.inner:
            return {}
        columns = self.numbers.columns
        return self.numbers.log_probabilities({p: dict(zip(columns, row, strict=True)) for p, row in known.items()})


Distribution = tuple[dict[int, float], dict[str, float]]
"""Log-probabilities of the likeliest first tokens, and of all numbers if these are made of several tokens."""


def _load(name: str, device: str | None) -> _Judge:
    """A model and what belongs to it; loaded once in a process, however many judges use it."""
    source = resolve_model(name)
    files = frozenset((file.name, file.stat().st_mtime_ns) for file in Path(source).glob("*"))
    with _loading:
        return _loaded(source, device, files)


@lru_cache(_MOST_MODELS)
def _loaded(source: str, device: str | None, files: frozenset[tuple[str, int]]) -> _Judge:
    """As `_load`; `files` are a folder's files with their times, so that a changed one is loaded again."""
    from truing.core.adapters import load_model

    tokenizer = load_tokenizer(source)
    fixed_template(tokenizer, JudgeError)
    model = load_model(source, JudgeError, device, unused=True)
    context = model.config.get_text_config(decoder=True).max_position_embeddings
    return _Judge(model, tokenizer, NumberTree(tokenizer), context, is_packable(model))


def encode(tokenizer: Any, requests: Sequence[ChatRequest]) -> list[list[int] | str]:
    """Token ids of each request by the chat template, or why there are none; the texts hold no control token."""
    control = sorted({*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}, key=len)[::-1]
    template = fixed_template(tokenizer, JudgeError)
    roles = [tuple(m.role for m in request.messages) for request in requests]
    lost = {each: "system" in left_out(tokenizer, template, each, add_generation_prompt=True) for each in set(roles)}
    texts = [_rendered(tokenizer, template, control, r, lost[own]) for r, own in zip(requests, roles, strict=True)]
    able = [text for text, refused in texts if not refused]
    ids = iter(tokenizer(able, add_special_tokens=False)["input_ids"] if able else ())
    return [text if refused else next(ids) for text, refused in texts]


def _rendered(
    tokenizer: Any, template: str, control: Sequence[str], request: ChatRequest, loses_system: bool
) -> tuple[str, bool]:
    """The text of a request and False, or why the template refuses it and True."""
    from jinja2 import TemplateError

    messages = [{"role": m.role, "content": _without(m.content, control)} for m in request.messages]
    options = {"add_generation_prompt": True, "tokenize": False, "enable_thinking": False, "chat_template": template}
    try:
        if not loses_system:
            return tokenizer.apply_chat_template(messages, **options), False
    except (TemplateError, ValueError) as refusal:
        if messages[0]["role"] != "system" or len(messages) < 2:
            return f"the chat template refuses the request: {refusal}", True
    if len(messages) < 2:
        return "the chat template leaves out the system message", True
    joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"  # templates without system messages
    try:
        return tokenizer.apply_chat_template([{**messages[1], "content": joined}, *messages[2:]], **options), False
    except (TemplateError, ValueError) as refusal:
        return f"the chat template refuses the request: {refusal}", True


def _without(text: str, control: Sequence[str]) -> str:
    for token in control:
        if len(token) > 1 and token in text and token.strip() == token and not token.isalnum():
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _result(judge: _Judge, likeliest: Mapping[int, float], numbers: dict[str, float], n: int, top: int) -> ChatResult:
    begins = {path[0] for path in judge.numbers.paths.values()} if numbers else set()
    found: dict[str, float] = {}
    for token, value in likeliest.items():
        if token not in begins:
            if token not in judge.words:
                judge.words[token] = judge.tokenizer.decode([token])
            text = judge.words[token]
            found[text] = math.log(math.exp(found.get(text, -math.inf)) + math.exp(max(value, -700.0)))
    found |= numbers
    text = max(found, key=lambda token: found[token])
    return ChatResult(text, found if top else None, "length", n, 1)
