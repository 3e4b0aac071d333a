"""The decoding loop: many answers to many prompts from one causal language model, exactly from its own distribution.

It stands on nothing but the model's `forward` with a cache, masks and positions handed in, so every architecture of
`transformers` with full or sliding attention works. What it does against time:

- prompts are sorted by length and each is run through the model once, however many answers it gets;
- the cache is one grid per layer, written in place (`kv.py`);
- a finished answer leaves its row at once, and new ones take the free rows while others are under way.

Invariants: the t-th token of an answer is the inverse of the softmax's distribution function at the t-th number of the
answer's own random stream (`randomness.py`). Which rows share a batch changes the logits by rounding only (about 1e-6),
never the randomness. Nothing global is touched.

Shapes: R active rows, V vocabulary, W columns that a step looks at.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truing.engines.attention import Unsupported, quick_attention, quick_attention_fits
from truing.engines.kv import KVGrid
from truing.engines.randomness import uniforms
from truing.errors import EngineError

__all__ = ["DecodeSettings", "Sampled", "decode", "draw_tokens"]

Tensor = torch.Tensor
Ints = npt.NDArray[np.int64]

SLACK = 64
"""Spare columns of the grid: the used ones move to the left edge once in so many steps."""
PREFILL_TOKENS = 16_384
"""Most prompt tokens (with padding) in one forward."""
NOT_FINITE = "the model's logits are not finite"


@dataclass(frozen=True)
class DecodeSettings:
    """How answers are decoded."""

    temperature: float
    max_tokens: int
    eos: tuple[int, ...]
    """Token ids that end an answer."""
    context: int
    """Most tokens of prompt and answer together."""
    rows: int
    """Answers under way at a time."""
    refill: float = 0.5
    """Share of rows that must be free before new answers join."""


@dataclass(frozen=True)
class Sampled:
    """One decoded answer."""

    tokens: tuple[int, ...]
    """Token ids, without the one that ended it."""
    finished: bool
    error: str | None = None


@dataclass(frozen=True)
class _Waiting:
    """Answers to one prompt that have not begun: jobs `first .. last-1`, their prompt in row `row` of `grid`."""

    grid: KVGrid
    logits: Tensor
    row: int
    first: int
    last: int


@dataclass
class _Rows:
    """The answers under way; arrays have one entry per row of the grid, the first `grid.active` count."""

    grid: KVGrid
    job: Ints
    start: Ints
    """Column of the prompt's first token."""
    step: Ints
    """Tokens drawn so far."""
    limit: Ints
    """Most tokens."""
    tokens: Ints
    """`[rows, max_tokens]`."""

    @classmethod
    def empty(cls, rows: int, columns: int, max_tokens: int) -> _Rows:
        job, start, step, limit = (np.zeros(rows, np.int64) for _ in range(4))
        return cls(KVGrid(rows, columns), job, start, step, limit, np.zeros((rows, max_tokens), np.int64))

    def keep(self, kept: npt.NDArray[np.bool_], device: torch.device) -> None:
        """Close the gaps of finished rows with rows from the end. `kept`: `[active]`."""
        active = int(kept.sum())
        targets = np.flatnonzero(~kept[:active])
        sources = np.flatnonzero(kept[active:]) + active
        self.grid.move(_to(sources, device), _to(targets, device), active)
        for array in (self.job, self.start, self.step, self.limit, self.tokens):
            array[targets] = array[sources]


@dataclass
class _Decoder:
    """One pass over some prompts with a fixed number of rows."""

    model: Any
    prompts: Sequence[Sequence[int]]
    keys: npt.NDArray[np.uint64]
    """`[prompts, samples, 2]`."""
    settings: DecodeSettings
    done: dict[int, Sampled]
    """Job (prompt * samples + sample) -> answer."""
    waiting: deque[_Waiting] = field(default_factory=deque)

    def run(self) -> None:
        """Decode every job that is not done."""
        samples = self.keys.shape[1]
        undone = [p for p in range(len(self.prompts)) if any(j not in self.done for j in self._jobs(p))]
        order = deque(sorted(undone, key=lambda p: len(self.prompts[p]), reverse=True))
        if not order:
            return
        count = self.settings.rows
        width = len(self.prompts[order[0]]) + self.settings.max_tokens + SLACK
        rows = _Rows.empty(min(count, len(order) * samples), width, self.settings.max_tokens)
        while order or self.waiting or rows.grid.active:
            free = len(rows.job) - rows.grid.active
            if free >= len(rows.job) * self.settings.refill or not rows.grid.active:
                self._admit(rows, order)
            if rows.grid.active:
                self._accept(rows, 0, self._step(rows))

    def _jobs(self, prompt: int) -> range:
        samples = self.keys.shape[1]
        return range(prompt * samples, (prompt + 1) * samples)

    def _admit(self, rows: _Rows, order: deque[int]) -> None:
        """Let waiting answers take the free rows; prompts are run through the model as they are needed."""
        while rows.grid.active < len(rows.job) and (order or self.waiting):
            if not self.waiting:
                self._prefill(order, len(rows.job) - rows.grid.active)
            grid = self.waiting[0].grid
            taken: list[_Waiting] = []
            free = len(rows.job) - rows.grid.active
            while free and self.waiting and self.waiting[0].grid is grid:
                item = self.waiting.popleft()
                if item.last - item.first > free:
                    self.waiting.appendleft(replace(item, first=item.first + free))
                    item = replace(item, last=item.first + free)
                free -= item.last - item.first
                taken.append(item)
            self._place(rows, taken)

    def _place(self, rows: _Rows, taken: list[_Waiting]) -> None:
        """Copy prompts into free rows and draw the first token of each new answer."""
        source, first = taken[0].grid, rows.grid.active
        if not first:
            rows.grid.low, rows.grid.high = 0, source.high
        jobs = np.concatenate([np.arange(t.first, t.last) for t in taken])
        picked = np.repeat([t.row for t in taken], [t.last - t.first for t in taken])
        device = taken[0].logits.device
        rows.grid.append(source, _to(picked, device))
        new = slice(first, rows.grid.active)
        lengths = np.array([len(self.prompts[j // self.keys.shape[1]]) for j in jobs], np.int64)
        rows.job[new], rows.step[new] = jobs, 0
        rows.start[new] = rows.grid.high - lengths
        rows.limit[new] = np.minimum(self.settings.max_tokens, self.settings.context - lengths)
        self._accept(rows, first, taken[0].logits[_to(picked, device)])

    def _prefill(self, order: deque[int], free: int) -> None:
        """Run the next prompts through the model, enough for `free` answers, and let their answers wait."""
        longest = len(self.prompts[order[0]])
        samples = self.keys.shape[1]
        count = max(1, min(len(order), -(-free // samples), PREFILL_TOKENS // longest))
        chosen = [order.popleft() for _ in range(count)]
        device = self.model.device
        ids = np.zeros((count, longest), np.int64)
        start = np.array([longest - len(self.prompts[p]) for p in chosen], np.int64)
        for i, prompt in enumerate(chosen):
            ids[i, start[i] :] = self.prompts[prompt]
        grid = KVGrid(count, longest)
        columns = torch.arange(longest, device=device)
        first = _to(start, device)[:, None, None]
        hidden = (columns[None, None, :] < first) | (columns[None, :, None] < columns[None, None, :])
        distance = columns[:, None] - columns[None, :]
        positions = (columns[None] - first[:, 0]).clamp_(min=0)
        logits = self._forward(_to(ids, device), positions, grid, hidden, distance)
        grid.active, grid.high = count, longest
        for i, prompt in enumerate(chosen):
            jobs = self._jobs(prompt)
            if any(j in self.done for j in jobs):
                self.waiting.extend(_Waiting(grid, logits, i, j, j + 1) for j in jobs if j not in self.done)
            else:
                self.waiting.append(_Waiting(grid, logits, i, jobs.start, jobs.stop))

    def _step(self, rows: _Rows) -> Tensor:
        """One more token for every active row: logits `[R, V]`."""
        grid, n = rows.grid, rows.grid.active
        start = rows.start[:n]
        grid.low = int(start.min())
        if grid.high == grid.columns:
            start -= grid.shift()
        device = self.model.device
        last = rows.tokens[np.arange(n), rows.step[:n] - 1]
        columns = torch.arange(grid.low, grid.high + 1, device=device)
        hidden = columns[None, None, :] < _to(start, device)[:, None, None]
        positions = _to(grid.high - start, device)[:, None]
        with quick_attention(self.model):
            logits = self._forward(_to(last, device)[:, None], positions, grid, hidden, (grid.high - columns)[None])
        grid.high += 1
        return logits

    def _accept(self, rows: _Rows, first: int, logits: Tensor) -> None:
        """Draw a token for the rows from `first` on (logits `[R - first, V]`) and let finished answers go."""
        active = slice(first, rows.grid.active)
        job, step = rows.job[active], rows.step[active]
        numbers = uniforms(self.keys.reshape(-1, 2)[job], step.astype(np.uint64))
        drawn, valid = draw_tokens(logits, _to(numbers, logits.device), self.settings.temperature)
        tokens, fine = drawn.cpu().numpy(), valid.cpu().numpy()
        rows.tokens[np.arange(first, rows.grid.active), step] = tokens
        step += 1
        ended = np.isin(tokens, self.settings.eos)
        over = ended | (step >= rows.limit[active]) | ~fine
        if not over.any():
            return
        for i in np.flatnonzero(over):
            length = int(step[i]) - int(ended[i] or not fine[i])
            answer = tuple(rows.tokens[first + i, :length].tolist())
            error = None if fine[i] else NOT_FINITE
            self.done[int(job[i])] = Sampled(answer, bool(ended[i]), error)
        kept = np.ones(rows.grid.active, np.bool_)
        kept[active] = ~over
        rows.keep(kept, logits.device)

    def _forward(self, ids: Tensor, positions: Tensor, grid: KVGrid, hidden: Tensor, distance: Tensor) -> Tensor:
        """The logits `[R, V]` after the last of the new tokens.

        `hidden` `[R, new, W]` marks places a token must not look at, `distance` `[new, W]` is how far back each lies.
        """
        kwargs = {"logits_to_keep": 1} if _takes(self.model, "logits_to_keep") else {}
        output = self.model(
            input_ids=ids,
            attention_mask=_masks(self.model, hidden, distance),
            position_ids=positions,
            past_key_values=grid,
            use_cache=True,
            **kwargs,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def decode(
    model: Any, prompts: Sequence[Sequence[int]], keys: npt.NDArray[np.uint64], settings: DecodeSettings
) -> list[list[Sampled]]:
    """Sample answers to prompts.

    Args:
        model: A causal language model of `transformers`, in eval mode.
        prompts: Token ids; each shorter than `settings.context`.
        keys: Random streams, `[prompts, samples, 2]`, see `randomness.stream_keys`.
        settings: How to decode.

    Returns:
        For each prompt its answers, in the given order.

    Raises:
        EngineError: Not even one answer at a time fits into memory.
    """
    done: dict[int, Sampled] = {}
    samples = keys.shape[1]
    with torch.inference_mode():
        while len(done) < len(prompts) * samples:
            try:
                _Decoder(model, prompts, keys, settings, done).run()
            except torch.OutOfMemoryError as error:
                if settings.rows == 1:
                    raise EngineError("out of memory with one answer at a time", todo="lower max_tokens") from error
                settings = replace(settings, rows=settings.rows // 2)
                torch.cuda.empty_cache()
    return [[done[p * samples + s] for s in range(samples)] for p in range(len(prompts))]


def draw_tokens(logits: Tensor, numbers: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row from the whole softmax at a temperature.

    Args:
        logits: `[R, V]`.
        numbers: Uniform in [0, 1), float64 `[R]`.
        temperature: Above 0.

    Returns:
        Token ids `[R]`, and whether the row's logits were finite enough to draw from, bool `[R]`.
    """
    logits = logits.float()
    weights = ((logits - logits.amax(-1, keepdim=True)) / temperature).exp_()
    sums = weights.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:]
    index = torch.searchsorted(sums, numbers[:, None] * total, right=True)
    return index.squeeze(1).clamp_(max=logits.shape[1] - 1), total.squeeze(1).isfinite()


def _masks(model: Any, hidden: Tensor, distance: Tensor) -> Tensor | dict[str, Tensor]:
    """The additive masks `[R, 1, new, W]` that a model's layers take: one, or one per kind of layer."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise EngineError(
            "cannot sample from this architecture", str(sorted(kinds)), "full or sliding attention", "use another engine"
        )
    dtype = model.dtype
    full = _additive(hidden, dtype)
    if not kinds:
        return _additive(hidden | (distance >= window), dtype) if window else full
    if kinds == {"full_attention"}:
        return full
    return {"full_attention": full, "sliding_attention": _additive(hidden | (distance >= window), dtype)}


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min).unsqueeze(1)


def _takes(model: Any, argument: str) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(base.forward).parameters


def _to(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
