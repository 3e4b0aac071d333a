"""A language model on this machine as judge's completer, with `transformers`, in large batches, with probabilities.

Where the tokenizer has a token for every integer from 0 to 100, the likeliest first tokens are reported as they are.
Where it writes 85 as 8 and 5, as many do, the probability of each whole number is computed instead, by one more pass
over the beginnings of all numbers: P("85") = P(8) P(5 | 8), and P("8") = P(8) (1 - P(further digit | 8)). So the same
reading of scores holds for every model.

Text under judgment cannot speak as the chat template: control tokens of the tokenizer in it are broken by a space.
Weights load from safetensors only and no code of a model is run.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.catalog.models import resolve_model
from truing.core.chat import INTEGERS, TOP_TOKENS, ChatRequest, ChatResult, Completer
from truing.core.errors import JudgeError, MissingExtraError, boundary
from truing.core.templates import fixed_template, left_out
from truing.core.weights import model_hash

if TYPE_CHECKING:
    import torch

__all__ = ["LocalCompleter", "NumberTree"]

_TOKENS_AT_ONCE = {"cpu": 16_384, "cuda": 131_072}
"""Most tokens of prompts in one batch, counted once for each beginning of a number that goes on."""
_WINDOW = 1024
"""Requests drawn at a time and sorted by length."""
_MOST_MODELS = 4
"""Models that stay loaded, the latest used."""
_loading = threading.Lock()


class LocalCompleter(Completer):
    """Answers chat requests by one token, with the probabilities of all first tokens or whole numbers.

    Only what a judge needs: temperature 0, and as text the likeliest answer. Libraries and the model load at the first
    request, the model once for all completers of a process.

    Args:
        device: Where the model runs; None: a GPU if there is one.

    Raises:
        MissingExtraError: A library is not installed.
    """

    def __init__(self, device: str | None = None) -> None:
        for library in ("torch", "transformers"):
            if importlib.util.find_spec(library) is None:
                raise MissingExtraError.of(library, "hf")
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
        model, tokenizer, numbers = _load(requests[0].model, self.device)
        context = model.config.get_text_config(decoder=True).max_position_embeddings
        room = context - numbers.depth - 1
        results: dict[int, ChatResult] = {}
        able: list[tuple[int, list[int]]] = []
        for i, request in enumerate(requests):
            encoded = encode(tokenizer, request)
            if isinstance(encoded, str) or len(encoded) > room:
                error = (
                    encoded if isinstance(encoded, str) else f"{len(encoded)} tokens do not fit the {room} there are"
                )
                results[i] = ChatResult(None, error=error)
            else:
                able.append((i, encoded))
        able.sort(key=lambda item: len(item[1]))
        tokens = _TOKENS_AT_ONCE.get(model.device.type, 16_384) // max(len(numbers.inner), 1)
        for batch in _batches(able, tokens):
            rows = _first_tokens(model, [ids for _, ids in batch], numbers)
            for (i, ids), row in zip(batch, rows, strict=True):
                results[i] = _result(tokenizer, numbers, row, len(ids), requests[i].top_logprobs)
        return [results[i] for i in range(len(requests))]


class NumberTree:
    """The tokens in which a tokenizer writes the integers 0 to 100.

    Args:
        tokenizer: A tokenizer of `transformers`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.paths = {n: tuple(tokenizer.encode(n, add_special_tokens=False)) for n in INTEGERS}
        unknown = tokenizer.unk_token_id
        if len(set(self.paths.values())) < len(self.paths) or any(unknown in path for path in self.paths.values()):
            raise JudgeError(
                "the judge's tokenizer cannot write the numbers 0 to 100", todo="use another model as judge"
            )
        inner = {path[:k] for path in self.paths.values() for k in range(1, len(path))}
        self.inner = sorted(path for path in inner if not any(path == other[: len(path)] != other for other in inner))
        """The longest beginnings that numbers go on from; none if every number is one token."""
        self.children = {
            node: {p[len(node)] for p in self.paths.values() if p[: len(node)] == node != p} for node in inner
        }
        self.depth = max(map(len, self.paths.values()))

    def log_probabilities(self, first: torch.Tensor, after: dict[tuple[int, ...], torch.Tensor]) -> dict[str, float]:
        """Log-probability of each number.

        Args:
            first: (V,) log-probabilities of the first token.
            after: Beginning -> (V,) log-probabilities of the token after it.
        """
        found = {}
        for number, path in self.paths.items():
            total = float(first[path[0]])
            for k in range(1, len(path)):
                total += float(after[path[:k]][path[k]])
            if path in self.children:  # 8 goes on to 85: here it must not
                more = float(after[path][sorted(self.children[path])].exp().sum())
                total += math.log(max(1 - more, 1e-300))
            found[number] = total
        return found


def _load(name: str, device: str | None) -> tuple[Any, Any, NumberTree]:
    """A model, its tokenizer and its numbers; loaded once in a process, however many judges use it."""
    source = resolve_model(name)
    files = frozenset((file.name, file.stat().st_mtime_ns) for file in Path(source).glob("*"))
    with _loading:
        return _loaded(source, device, files)


@lru_cache(_MOST_MODELS)
def _loaded(source: str, device: str | None, files: frozenset[tuple[str, int]]) -> tuple[Any, Any, NumberTree]:
    """As `_load`; `files` are a folder's files with their times, so that a changed one is loaded again."""
    from transformers import AutoTokenizer

    from truing.core.adapters import load_model

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    fixed_template(tokenizer, JudgeError)
    return load_model(source, JudgeError, device, unused=True), tokenizer, NumberTree(tokenizer)


def encode(tokenizer: Any, request: ChatRequest) -> list[int] | str:
    """Token ids of a request by the chat template, or why there are none; the texts hold no control token."""
    from jinja2 import TemplateError

    control = sorted({*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}, key=len)[::-1]
    messages = [{"role": m.role, "content": _without(m.content, control)} for m in request.messages]
    turn = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, "enable_thinking": False}
    options = {**turn, "chat_template": (template := fixed_template(tokenizer, JudgeError))}
    try:
        if "system" not in left_out(
            tokenizer, template, [m.role for m in request.messages], add_generation_prompt=True
        ):
            return [int(i) for i in tokenizer.apply_chat_template(messages, **options)]
    except (TemplateError, ValueError) as refusal:
        if messages[0]["role"] != "system" or len(messages) < 2:
            return f"the chat template refuses the request: {refusal}"
    if len(messages) < 2:
        return "the chat template leaves out the system message"
    joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"  # templates without system messages
    try:
        ids = tokenizer.apply_chat_template([{**messages[1], "content": joined}, *messages[2:]], **options)
        return [int(i) for i in ids]
    except (TemplateError, ValueError) as refusal:
        return f"the chat template refuses the request: {refusal}"


def _without(text: str, control: Sequence[str]) -> str:
    for token in control:
        if len(token) > 1 and token in text and token.strip() == token and not token.isalnum():
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _batches(items: Sequence[tuple[int, list[int]]], tokens: int) -> Iterator[list[tuple[int, list[int]]]]:
    """Items sorted by length, cut so that rows times the longest stay within `tokens`."""
    batch: list[tuple[int, list[int]]] = []
    for item in items:
        if batch and (len(batch) + 1) * len(item[1]) > tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


Row = tuple["torch.Tensor", "dict[tuple[int, ...], torch.Tensor]"]
"""(V,) log-probabilities of the first token, and of the token after each beginning of a number."""


def _first_tokens(model: Any, prompts: Sequence[list[int]], numbers: NumberTree) -> list[Row]:
    """The distributions after each prompt, and after each beginning of a number after it."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=places, use_cache=bool(numbers.inner), logits_to_keep=1
        )
        first = out.logits[:, -1].float().log_softmax(-1).cpu()
        if not numbers.inner:
            return [(row, {}) for row in first]
        k, depth = len(numbers.inner), max(map(len, numbers.inner))
        tails = torch.tensor(
            [[*path, *[path[-1]] * (depth - len(path))] for path in numbers.inner], device=model.device
        )
        cache = out.past_key_values
        cache.batch_repeat_interleave(k)
        steps = torch.arange(1, depth + 1, device=model.device)
        logits = model(
            input_ids=tails.repeat(len(prompts), 1),
            attention_mask=torch.cat([mask.repeat_interleave(k, 0), mask.new_ones(len(prompts) * k, depth)], 1),
            position_ids=places[:, -1:].repeat_interleave(k, 0) + steps,
            past_key_values=cache,
        ).logits
        after = logits.float().log_softmax(-1).cpu().reshape(len(prompts), k, depth, -1)
    known = {path[: j + 1]: (i, j) for i, path in enumerate(numbers.inner) for j in range(len(path))}
    return [(first[b], {node: after[b, i, j] for node, (i, j) in known.items()}) for b in range(len(prompts))]


def _result(tokenizer: Any, numbers: NumberTree, row: Row, n_tokens: int, top: int) -> ChatResult:
    first, after = row
    values, ids = first.topk(min(TOP_TOKENS, first.shape[0]))
    likeliest: dict[str, float] = {}
    begins = {path[0] for path in numbers.paths.values()} if numbers.inner else set()
    for value, token in zip(values.tolist(), ids.tolist(), strict=True):
        if token not in begins:
            text = tokenizer.decode([token])
            likeliest[text] = math.log(math.exp(likeliest.get(text, -math.inf)) + math.exp(max(value, -700.0)))
    if numbers.inner:
        likeliest |= numbers.log_probabilities(first, after)
    text = max(likeliest, key=lambda token: likeliest[token])
    return ChatResult(text, likeliest if top else None, "length", n_tokens, 1)
