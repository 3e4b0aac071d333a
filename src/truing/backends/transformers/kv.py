"""A key-value cache laid out as one grid per layer: rows are answers in the making, columns are token places.

All rows share the column that is written next (`high`); row `r` uses the columns `start[r] .. high-1`, so a
short prompt is padded on the left and a new answer can join while others are under way. The grid is allocated
once: a step writes one column in place where `transformers`' `DynamicCache` copies everything, a finished row
is overwritten by the last one, and when the columns run out the used ones move to the left edge.

Shapes: stored as `[columns, rows, heads, width]`, so that one step's keys lie together and what a step reads
is one dense block (on a CPU that is two to four times faster than a block per row: fewer pages). Handed out
as `[rows, heads, columns, width]`, as `transformers` has it. Heads and width are whatever the layer hands
over, so grouped heads and DeepSeek's compressed keys need nothing special. Sliding windows are kept whole and
cut by the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache

__all__ = ["KVGrid"]

Tensor = torch.Tensor


class KVGrid(Cache):
    """The cache of `rows` answers with room for `columns` tokens each.

    Attributes:
        rows: Most answers at a time.
        columns: Places per row.
        active: Rows in use: 0 .. active-1.
        low: First column that any active row uses.
        high: The column that the next token is written to.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.rows, self.columns = rows, columns
        self.active = self.low = self.high = 0
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens of a layer, `[active, heads, new, width]`; return all that they may look at."""
        keys = self._buffer(self._keys, layer_idx, key_states, heads=1)
        values = self._buffer(self._values, layer_idx, value_states, heads=1)
        n, end = key_states.shape[0], self.high + key_states.shape[2]
        keys[self.high : end, :n] = key_states.permute(2, 0, 1, 3)
        values[self.high : end, :n] = value_states.permute(2, 0, 1, 3)
        return keys[self.low : end, :n].permute(1, 2, 0, 3), values[self.low : end, :n].permute(1, 2, 0, 3)

    def append(self, source: KVGrid, picked: Tensor) -> None:
        """Copy rows of a grid of prompts (`picked`: int64 `[new]`, repeats allowed) behind the active rows.

        They are aligned on the right, at `high`; what would stick out on the left must be padding.
        """
        width, first, last = min(source.high, self.high), self.active, self.active + len(picked)
        for mine, theirs in ((self._keys, source._keys), (self._values, source._values)):
            for layer, tensor in theirs.items():
                buffer = self._buffer(mine, layer, tensor, heads=2)
                # masked places must hold numbers: 0 x NaN is NaN
                buffer[self.low : self.high - width, first:last] = 0
                torch.index_select(
                    tensor[source.high - width : source.high],
                    1,
                    picked,
                    out=buffer[self.high - width : self.high, first:last],
                )
        self.active = last

    def move(self, sources: Tensor, targets: Tensor, active: int) -> None:
        """Copy rows `sources` over rows `targets` (int64, disjoint), then use only the first `active`."""
        self.active = active
        if len(sources):
            for buffer in (*self._keys.values(), *self._values.values()):
                used = buffer[self.low : self.high]
                used[:, targets] = used[:, sources]

    def shift(self) -> int:
        """Move the used columns to the left edge; returns by how many."""
        by = self.low
        for buffer in (*self._keys.values(), *self._values.values()):
            used = buffer[by : self.high, : self.active].clone()
            buffer[: len(used), : self.active] = used
        self.low, self.high = 0, self.high - by
        return by

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before the one written next."""
        return self.high - self.low

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns that `query_length` new tokens look at, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def _buffer(self, buffers: dict[int, Tensor], layer: int, like: Tensor, heads: int) -> Tensor:
        if layer not in buffers:
            shape = (self.columns, self.rows, like.shape[heads], like.shape[3])
            buffers[layer] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return buffers[layer]
