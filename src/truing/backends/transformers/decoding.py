"""The decoding loop: many answers to many prompts from one causal language model, from its own distribution.

It stands on nothing but the model's `forward` with a cache, masks and positions handed in (`steps.py`), so
every architecture of `transformers` with full or sliding attention works. It saves time like this:

- prompts are sorted by length and each is run through the model once, however many answers it gets;
- the cache is one grid per layer, written in place;
- a finished answer leaves its row at once, and new ones can take the free rows while others are under way.

Invariants: the t-th token of an answer is where the t-th number of the answer's own random stream
(`randomness.py`) falls in the softmax's distribution function. Which rows share a batch changes the logits by
rounding only (about 1e-6, so that about one answer in 10,000 differs), never the randomness. Nothing global
is touched.

Shapes: R active rows, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truing.backends.transformers.graphs import GraphStepper
from truing.backends.transformers.steps import Ints, KVGrid, Stepper, Tensor
from truing.core.errors import EngineError
from truing.core.progress import report
from truing.core.randomness import uniforms

SLACK = 64
"""Spare columns of the grid: the used ones move to the left edge once in so many steps."""
QUANTUM = 32
"""Rows in use change by so many: a product of new size costs a CPU library more than a few dead rows."""
PREFILL_TOKENS = 16_384
"""Most prompt tokens (with padding) in one forward."""
NOT_FINITE = "the model's logits are not finite"


@dataclass(frozen=True)
class DecodeSettings:
    """Settings of decoding."""

    temperature: float
    max_tokens: int
    eos: tuple[int, ...]
    """Token ids that end an answer."""
    context: int
    """Most tokens of prompt and answer together."""
    rows: int
    """Answers under way at a time."""
    patience: float = 6.0
    """Steps that the rows may stand free, on average over all rows, before new answers join those under way. Joining
    late gathers more free rows; joining early lets fewer stand free behind a few long answers."""
    fixed: bool = False
    """Whether steps have fixed shapes, which a GPU replays as graphs (`graphs.py`)."""


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
    """The answers under way; arrays have one entry per row of the grid, of which the first `grid.active` count.

    A finished answer's row stays where it is, dead, until there are enough of them to be worth closing the gaps.
    """

    grid: KVGrid
    alive: npt.NDArray[np.bool_]
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
        tokens = np.zeros((rows, max_tokens), np.int64)
        return cls(KVGrid(rows, columns), np.zeros(rows, np.bool_), job, start, step, limit, tokens)

    @property
    def count(self) -> int:
        """Answers under way."""
        return int(self.alive.sum())

    @property
    def free(self) -> int:
        """Rows for new answers."""
        return len(self.alive) - self.count

    def end(self, rows: Ints) -> None:
        """Let rows die. They go on being computed, with no place before the present one to look at."""
        self.alive[rows] = False
        self.start[rows] = self.grid.high

    def close_gaps(self, active: int, stepper: Stepper) -> None:
        """Use the first `active` rows only; living rows beyond take the places of dead ones."""
        sources = np.flatnonzero(self.alive[active:]) + active
        targets = np.flatnonzero(~self.alive[:active])[: len(sources)]
        self.grid.move(stepper.tensor(sources), stepper.tensor(targets), active)
        for array in (self.alive, self.job, self.start, self.step, self.limit, self.tokens):
            array[targets] = array[sources]
        self.alive[active:] = False


@dataclass
class _Decoder:
    """One pass over some prompts with a fixed number of rows."""

    stepper: Stepper
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
        idle = 0
        while order or self.waiting or rows.count:
            idle += rows.free
            if not rows.count or idle > self.settings.patience * len(rows.job):
                self._admit(rows, order)
                idle = 0
            if rows.count:
                self._accept(rows, 0, self._step(rows))

    def _jobs(self, prompt: int) -> range:
        samples = self.keys.shape[1]
        return range(prompt * samples, (prompt + 1) * samples)

    def _admit(self, rows: _Rows, order: deque[int]) -> None:
        """Let waiting answers take the free rows; prompts are run through the model as they are needed."""
        rows.close_gaps(rows.count, self.stepper)
        while rows.free and (order or self.waiting):
            if not self.waiting:
                self._prefill(order, rows.free)
            grid = self.waiting[0].grid
            taken: list[_Waiting] = []
            free = rows.free
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
        sources = self.stepper.tensor(picked)
        rows.grid.append(source, sources)
        new = slice(first, rows.grid.active)
        lengths = np.array([len(self.prompts[j // self.keys.shape[1]]) for j in jobs], np.int64)
        rows.alive[new], rows.job[new], rows.step[new] = True, jobs, 0
        rows.start[new] = rows.grid.high - lengths
        rows.limit[new] = np.minimum(self.settings.max_tokens, self.settings.context - lengths)
        self._accept(rows, first, taken[0].logits[sources])
        rows.close_gaps(rows.count, self.stepper)

    def _prefill(self, order: deque[int], free: int) -> None:
        """Run the next prompts through the model, enough for `free` answers, and let their answers wait."""
        longest = len(self.prompts[order[0]])
        samples = self.keys.shape[1]
        count = max(1, min(len(order), -(-free // samples), PREFILL_TOKENS // longest))
        chosen = [order.popleft() for _ in range(count)]
        ids = np.zeros((count, longest), np.int64)
        start = np.array([longest - len(self.prompts[p]) for p in chosen], np.int64)
        for i, prompt in enumerate(chosen):
            ids[i, start[i] :] = self.prompts[prompt]
        grid = KVGrid(count, longest)
        logits = self.stepper.prefill(ids, start, grid)
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
        return self.stepper.step(rows.tokens[np.arange(n), rows.step[:n] - 1], start, grid)

    def _accept(self, rows: _Rows, first: int, logits: Tensor) -> None:
        """Draw a token for the rows from `first` on (logits `[R - first, V]`) and let finished answers go."""
        active = rows.grid.active
        numbers = uniforms(self.keys.reshape(-1, 2)[rows.job[first:active]], rows.step[first:active])
        drawn, valid = draw_tokens(logits, self.stepper.tensor(numbers), self.settings.temperature)
        living = np.flatnonzero(rows.alive[first:active])
        tokens, fine = drawn.cpu().numpy()[living], valid.cpu().numpy()[living]
        living += first
        rows.tokens[living, rows.step[living]] = tokens
        rows.step[living] += 1
        ended = np.isin(tokens, self.settings.eos) & fine
        over = ended | (rows.step[living] >= rows.limit[living]) | ~fine
        if not over.any():
            return
        for row, end, good in zip(living[over], ended[over], fine[over], strict=True):
            answer = tuple(rows.tokens[row, : rows.step[row] - (end or not good)].tolist())
            self.done[int(rows.job[row])] = Sampled(answer, bool(end), None if good else NOT_FINITE)
        rows.end(living[over])
        report("sample", len(self.done), self.keys.shape[0] * self.keys.shape[1])
        quantum = max(1, min(QUANTUM, len(rows.job) // 8))
        needed = -(-rows.count // quantum) * quantum
        if needed < active:
            rows.close_gaps(needed, self.stepper)


def decode(
    model: Any, prompts: Sequence[Sequence[int]], keys: npt.NDArray[np.uint64], settings: DecodeSettings
) -> list[list[Sampled]]:
    """Sample answers from a causal language model of `transformers` in eval mode; for each prompt its own, in order.

    Prompts are token ids, each shorter than `settings.context`; `keys` are the random streams, `[prompts, samples, 2]`,
    see `randomness.stream_keys`.

    Raises:
        EngineError: Not even one answer at a time fits into memory.
    """
    done: dict[int, Sampled] = {}
    samples = keys.shape[1]
    report("sample", 0, len(prompts) * samples)
    kind = GraphStepper if settings.fixed else Stepper
    with torch.no_grad():
        while not _run(_Decoder(kind(model), prompts, keys, settings, done)):
            if settings.rows == 1:
                raise EngineError("out of memory with one answer at a time", todo="lower max_tokens")
            settings = replace(settings, rows=settings.rows // 2)
            torch.cuda.empty_cache()
    return [[done[p * samples + s] for s in range(samples)] for p in range(len(prompts))]


def _run(decoder: _Decoder) -> bool:
    """True if memory was enough to decode everything; finished answers stay finished."""
    try:
        decoder.run()
    except torch.OutOfMemoryError:
        return False
    return True


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
    rows, vocabulary = logits.shape
    size = 1 << max(5, (vocabulary - 1).bit_length() // 2)
    blocks = -(-vocabulary // size)
    weights = logits.new_zeros(rows, blocks * size)
    shifted = logits - logits.amax(-1, keepdim=True)
    torch.exp(shifted if temperature == 1 else shifted.div_(temperature), out=weights[:, :vocabulary])
    weights = weights.view(rows, blocks, size)
    # first the block in which the number falls, then the token inside: far less than one sum over all tokens
    sums = weights.sum(-1).double()
    block, rest = _place(sums, numbers)
    inside, _ = _place(weights[torch.arange(rows, device=weights.device), block].double(), rest)
    return (block * size + inside).clamp_(max=vocabulary - 1), sums.sum(-1).isfinite()


def _place(weights: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The index in which each row's number falls, and where in it, as a new number in [0, 1].

    An index of weight 0 is never chosen. `weights` `[R, n]`, `numbers` `[R]`, both float64.
    """
    sums = weights.cumsum(-1)
    target = numbers * sums[:, -1]
    index = torch.searchsorted(sums, target[:, None], right=True).clamp_(max=weights.shape[1] - 1)
    weight = weights.gather(1, index)
    below = sums.gather(1, index) - weight
    rest = ((target[:, None] - below) / weight).clamp_(0, 1)
    return index.squeeze(1), rest.squeeze(1)
