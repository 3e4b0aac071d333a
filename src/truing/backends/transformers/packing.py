"""Prompts packed into rows, so that what they begin with alike is computed once and nothing is padded.

A row is a tree of tokens in one sequence: each token attends to those before it on its own branch alone, and its
position is its depth. So the forward pass over a row gives for every prompt in it what a pass over that prompt alone
gives, and a judge's rubric, an answer under two rubrics, or the beginnings of numbers after a prompt cost no second
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Tail = tuple[int, ...]
"""Tokens that may follow a prompt."""
LENGTHS = 512
"""Rows on a GPU are a multiple of so many tokens long; what is added at the end attends to itself alone."""


@dataclass
class Row:
    """A tree of tokens, laid out in one sequence: each token behind the one that it follows, branch after branch."""

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    """Of each token, how many stand before it on its branch."""
    parents: list[int] = field(default_factory=list)
    """Of each token, the place of the one that it follows; -1: none."""
    ends: dict[int, dict[Tail, int]] = field(default_factory=dict)
    """Prompt -> place in the row of its last token, under (), and of the last token of each tail after it."""

    def grow(self, tokens: Sequence[int], after: int = -1) -> int:
        """Add tokens behind the one at the place `after`; returns the place of the last one."""
        start, depth = len(self.ids), self.depths[after] + 1 if after >= 0 else 0
        self.ids += tokens
        self.depths += range(depth, depth + len(tokens))
        self.parents += [after, *range(start, len(self.ids) - 1)][: len(tokens)]
        return len(self.ids) - 1 if tokens else after

    def add(self, prompt: int, ids: Sequence[int], after: int, tails: Sequence[Tail]) -> None:
        """Add what is new of a prompt, and the tails after it."""
        ends: dict[Tail, int] = {(): self.grow(ids, after)}
        for tail in tails:
            for k in range(1, len(tail) + 1):
                if tail[:k] not in ends:
                    ends[tail[:k]] = self.grow([tail[k - 1]], ends[tail[: k - 1]])
        self.ends[prompt] = ends

    def last_places(self) -> list[int] | None:
        """Of each token, the last place that attends to it: all from its own to that one do. None: all do to the end.

        Since branch stands after branch, what follows a token on any branch lies together.
        """
        if all(parent == place - 1 for place, parent in enumerate(self.parents)):
            return None
        last = list(range(len(self.ids)))
        for place in range(len(last) - 1, 0, -1):
            parent = self.parents[place]
            if parent >= 0 and last[parent] < last[place]:
                last[parent] = last[place]
        return last


def pack(prompts: Sequence[Sequence[int]], tails: Sequence[Tail], most: int) -> Iterator[Row]:
    """Rows of at most so many tokens, unless one prompt is longer; prompts that begin alike stand together.

    Args:
        prompts: Token ids of each, at least one.
        tails: What may follow every prompt.
        most: Tokens of a row; 0: every prompt with each tail is a row of its own, without a mask.
    """
    if not most:
        for i, ids in enumerate(prompts):
            for tail in tails or [()]:
                row = Row()
                row.grow([*ids, *tail])
                at = range(len(ids) - 1, len(row.ids))
                row.ends[i] = {tail[:k]: at[k] for k in range(len(tail) + 1)}
                yield row
        return
    tails = sorted(tails)
    extra = len({tail[:k] for tail in tails for k in range(1, len(tail) + 1)})
    row, places, before = Row(), list[int](), list[int]()
    for i in sorted(range(len(prompts)), key=lambda i: tuple(prompts[i])):
        ids = list(prompts[i])
        shared = _shared(before, ids)
        if row.ids and len(row.ids) + len(ids) - shared + extra > most:
            yield row
            row, places, shared = Row(), [], 0
        start = len(row.ids)
        row.add(i, ids[shared:], places[shared - 1] if shared else -1, tails)
        places, before = [*places[:shared], *range(start, start + len(ids) - shared)], ids
    if row.ids:
        yield row


def forward(model: Any, row: Row, places: Sequence[int]) -> torch.Tensor:
    """(len(places), V) log-probabilities of the token after each of these places in a row, on the model's device."""
    import torch

    device, mask, ids, depths = model.device, None, row.ids, row.depths
    if (last := row.last_places()) is not None:
        if device.type == "cuda":  # few lengths of rows: kernels are chosen, and some compiled, for every new one
            spare = -len(ids) % LENGTHS
            last = [*last, *range(len(ids), len(ids) + spare)]
            ids, depths = [*ids, *[0] * spare], [*depths, *[0] * spare]
        at = torch.arange(len(last), device=device)
        hidden = (at[:, None] < at) | (at[:, None] > torch.tensor(last, device=device))
        mask = torch.zeros(1, 1, *hidden.shape, dtype=model.dtype, device=device)
        mask.masked_fill_(hidden, torch.finfo(model.dtype).min)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([depths], device=device),
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=torch.tensor(places, device=device),
        ).logits[0]
        return logits.float().log_softmax(-1)


def is_packable(model: Any) -> bool:
    """True if a model attends as a mask says: a prompt in a row with others has the distribution that it has alone.

    It is tried, since models that carry a state along the sequence, and those with an attention of their own, do not.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = np.random.default_rng(0).integers(0, vocabulary, (3, 12))
    ids[1, :6] = ids[0, :6]
    prompts = ids.tolist()
    (row,) = pack(prompts, [], 1000)
    try:
        together = forward(model, row, [row.ends[i][()] for i in range(3)])
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):  # it knows no such mask
        return False
    alone = [forward(model, own, [own.ends[i][()]])[0] for i, own in enumerate(pack(prompts, [], 0))]
    return all(float((a.exp() - b.exp()).abs().sum()) < 0.05 for a, b in zip(alone, together, strict=True))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
