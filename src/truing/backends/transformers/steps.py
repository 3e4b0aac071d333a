"""Calling a model: prompts once, then one token per row, over a key-value cache that is one grid per layer.

Rows of the grid are answers in the making, columns are token places. All rows share the column that is written next
(`high`); row `r` uses the columns `start[r] .. high-1`, so a short prompt is padded on the left and a new answer can
join while others are under way. The grid is allocated once: a step writes one column in place where `transformers`'
`DynamicCache` copies everything, a finished row is overwritten by another one, and when the columns run out the used
ones move to the left edge. Sliding windows are kept whole and cut by the mask.

The grid is `[rows, heads, columns, width]`, as `transformers` has it. Heads and width are those of the layer, so
grouped heads and DeepSeek's compressed keys need nothing special.

Shapes: R rows, N new tokens per row, W columns looked at, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import Cache

from truing.core.errors import EngineError

Tensor = torch.Tensor
Ints = npt.NDArray[np.int64]


class KVGrid(Cache):
    """The cache of `rows` answers with room for `columns` tokens each.

    Attributes:
        rows: Most answers at a time.
        columns: Places per row.
        active: Rows in use: 0 .. active-1.
        low: First column that any active row uses.
        high: The column that the next token is written to.
        fixed: For steps of fixed shape (`graphs.py`): the column to write as a tensor, rows, and columns looked at.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.rows, self.columns = rows, columns
        self.active = self.low = self.high = 0
        self.fixed: tuple[Tensor, int, int] | None = None
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens of a layer, `[active, heads, new, width]`; return all that they may look at."""
        keys = self._buffer(self._keys, layer_idx, key_states)
        values = self._buffer(self._values, layer_idx, value_states)
        if self.fixed is not None:
            column, n, width = self.fixed
            keys[:n].index_copy_(2, column, key_states)
            values[:n].index_copy_(2, column, value_states)
            return keys[:n, :, :width], values[:n, :, :width]
        n, end = key_states.shape[0], self.high + key_states.shape[2]
        keys[:n, :, self.high : end] = key_states
        values[:n, :, self.high : end] = value_states
        return keys[:n, :, self.low : end], values[:n, :, self.low : end]

    def append(self, source: KVGrid, picked: Tensor) -> None:
        """Copy rows of a grid of prompts (`picked`: int64 `[new]`, repeats allowed) behind the active rows.

        They are aligned on the right, at `high`; what would stick out on the left must be padding.
        """
        width, first, last = min(source.high, self.high), self.active, self.active + len(picked)
        for mine, theirs in ((self._keys, source._keys), (self._values, source._values)):
            for layer, tensor in theirs.items():
                new = self._buffer(mine, layer, tensor)[first:last]
                new[:, :, self.low : self.high - width] = 0  # masked places must hold numbers: 0 x NaN is NaN
                new[:, :, self.high - width : self.high] = tensor[picked, :, source.high - width : source.high]
        self.active = last

    def move(self, sources: Tensor, targets: Tensor, active: int) -> None:
        """Copy rows `sources` over rows `targets` (int64, disjoint), then use only the first `active`."""
        self.active = active
        if len(sources):
            for buffer in (*self._keys.values(), *self._values.values()):
                used = buffer[:, :, self.low : self.high]
                used[targets] = used[sources]

    def shift(self) -> int:
        """Move the used columns to the left edge; returns by how many."""
        by = self.low
        for buffer in (*self._keys.values(), *self._values.values()):
            rows = buffer[: self.active]
            rows[:, :, : self.high - by] = rows[:, :, by : self.high].clone()
        self.low, self.high = 0, self.high - by
        return by

    def clear_free(self) -> None:
        """Fill the places that nothing was written to with numbers: a masked one that holds none gives none."""
        for buffer in (*self._keys.values(), *self._values.values()):
            buffer[self.active :] = 0
            buffer[: self.active, :, self.high :] = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before the one written next."""
        return self.high - self.low

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns that `query_length` new tokens look at, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def _buffer(self, buffers: dict[int, Tensor], layer: int, like: Tensor) -> Tensor:
        if layer not in buffers:
            shape = (self.rows, like.shape[1], self.columns, like.shape[3])
            buffers[layer] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return buffers[layer]


class Stepper:
    """Runs a causal language model in eval mode over a `KVGrid`; it must not change while the stepper is used."""

    def __init__(self, model: Any) -> None:
        self.device: torch.device = model.device
        self._model = model
        self._config = model.config.get_text_config(decoder=True)
        self._kwargs = {"logits_to_keep": 1} if _takes(model, "logits_to_keep") else {}
        self._windows = _window_kinds(self._config)
        # On a CPU, for one token, plain products are quicker than the fused kernel, but not where heads share keys.
        ungrouped = self._config.num_attention_heads == getattr(self._config, "num_key_value_heads", None)
        self._plain = self.device.type == "cpu" and ungrouped

    def prefill(self, ids: Ints, start: Ints, grid: KVGrid) -> Tensor:
        """Run prompts through the model.

        Args:
            ids: Token ids, padded on the left, `[R, N]`.
            start: Column of each prompt's first token, `[R]`.
            grid: An empty grid of R rows and N columns; filled here.

        Returns:
            The logits after the prompts, `[R, V]`.
        """
        columns = torch.arange(ids.shape[1], device=self.device)
        first = self.tensor(start)[:, None]
        hidden = (columns < first)[:, None, :] | (columns[:, None] < columns)
        distance = columns[:, None] - columns
        positions = (columns - first).clamp_(min=0)
        logits = self._forward(self.tensor(ids), positions, self._masks(hidden, distance), grid)
        grid.active, grid.high = ids.shape
        return logits

    def step(self, tokens: Ints, start: Ints, grid: KVGrid) -> Tensor:
        """Write one more token per active row into the next column of the grid.

        Args:
            tokens: Ids, `[R]`.
            start: Column of each row's first token, `[R]`.
            grid: The cache; moves on by one column.

        Returns:
            The logits after the tokens, `[R, V]`.
        """
        columns = torch.arange(grid.low, grid.high + 1, device=self.device)
        hidden = (columns < self.tensor(start)[:, None])[:, None, :]
        masks = self._masks(hidden, (grid.high - columns)[None])
        ids, positions = self.tensor(tokens)[:, None], self.tensor(grid.high - start)[:, None]
        chosen = self._config._attn_implementation
        try:
            if self._plain:
                self._config._attn_implementation = "eager"
            logits = self._forward(ids, positions, masks, grid)
        finally:
            if self._config._attn_implementation != chosen:
                self._config._attn_implementation = chosen
        grid.high += 1
        return logits

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """An array on the model's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _forward(self, ids: Tensor, positions: Tensor, masks: Any, grid: KVGrid) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=grid,
            use_cache=True,
            **self._kwargs,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _masks(self, hidden: Tensor, distance: Tensor) -> Tensor | dict[str, Tensor]:
        """The additive masks `[R, 1, N, W]` that the layers take: one, or one per kind of layer.

        `hidden` `[R, N, W]` marks places a token must not look at, `distance` `[N, W]` is how far back they
        lie.
        """
        full, sliding = self._windows
        masks = {}
        if full:
            masks["full_attention"] = _additive(hidden, self._model.dtype)
        if sliding:
            beyond = hidden | (distance >= self._config.sliding_window)
            masks["sliding_attention"] = _additive(beyond, self._model.dtype)
        return masks if len(masks) > 1 else next(iter(masks.values()))


def _window_kinds(config: Any) -> tuple[bool, bool]:
    """True or False for layers with full attention, and for layers with sliding attention."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        sliding = getattr(config, "sliding_window", None) is not None
        return not sliding, sliding
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise EngineError(
            "cannot sample from this architecture",
            f"layers with {', '.join(sorted(kinds))}",
            "full or sliding attention",
            "use another engine",
        )
    return "full_attention" in kinds, "sliding_attention" in kinds


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min).unsqueeze(1)


def _takes(model: Any, argument: str) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(base.forward).parameters
