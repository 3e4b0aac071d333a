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

__all__ = ["Row", "Tail", "forward", "is_packable", "pack"]

Tail = tuple[int, ...]
"""Tokens that may follow a prompt."""


@dataclass
class Row:
    """A tree of tokens, laid out in one sequence."""

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    """Of each token, how many stand before it on its branch."""
    ends: dict[int, dict[Tail, int]] = field(default_factory=dict)
    """Prompt -> place in the row of its last token, under (), and of the last token of each tail after it."""
    _branches: list[tuple[int, int, list[int]]] = field(default_factory=list)

    def grow(self, tokens: Sequence[int], after: list[int]) -> list[int]:
        """Add tokens behind those at the places `after`; returns the places from the first token of all to the last."""
        start, end = len(self.ids), len(self.ids) + len(tokens)
        self.ids += tokens
        self.depths += range(len(after), len(after) + len(tokens))
        self._branches.append((start, end, after))
        return [*after, *range(start, end)]

    def add(self, prompt: int, ids: Sequence[int], after: list[int], tails: Sequence[Tail]) -> list[int]:
        """Add what is new of a prompt, and the tails after it; returns the places of the prompt's tokens."""
        places = self.grow(ids, after) if ids else after
        ends: dict[Tail, list[int]] = {(): places}
        for tail in tails:
            for k in range(1, len(tail) + 1):
                if tail[:k] not in ends:
                    ends[tail[:k]] = self.grow([tail[k - 1]], ends[tail[: k - 1]])
        self.ends[prompt] = {tail: end[-1] for tail, end in ends.items()}
        return places

    def mask(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """(T, T) which token attends to which; None: each to all before it."""
        if len(self._branches) == 1:
            return None
        seen = np.zeros((len(self.ids), len(self.ids)), dtype=bool)
        for start, end, after in self._branches:
            seen[start:end, after] = True
            seen[start:end, start:end] = np.tri(end - start, dtype=bool)
        return seen


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
                row.grow([*ids, *tail], [])
                at = range(len(ids) - 1, len(row.ids))
                row.ends[i] = {tail[:k]: at[k] for k in range(len(tail) + 1)}
                yield row
        return
    extra = len({tail[:k] for tail in tails for k in range(1, len(tail) + 1)})
    row, places, before = Row(), list[int](), list[int]()
    for i in sorted(range(len(prompts)), key=lambda i: tuple(prompts[i])):
        ids = list(prompts[i])
        shared = _shared(before, ids)
        if row.ids and len(row.ids) + len(ids) - shared + extra > most:
            yield row
            row, places, shared = Row(), [], 0
        places, before = row.add(i, ids[shared:], places[:shared], tails), ids
    if row.ids:
        yield row


def forward(model: Any, row: Row, places: Sequence[int]) -> torch.Tensor:
    """(len(places), V) log-probabilities of the token after each of these places in a row, on the model's device."""
    import torch

    seen, device, dtype = row.mask(), model.device, model.dtype
    mask = None
    if seen is not None:
        mask = torch.zeros(1, 1, *seen.shape, dtype=dtype, device=device)
        mask.masked_fill_(torch.from_numpy(~seen).to(device), torch.finfo(dtype).min)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([row.ids], device=device),
            position_ids=torch.tensor([row.depths], device=device),
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
    for k, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return k
    return min(len(one), len(other))
