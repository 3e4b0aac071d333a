"""Calling a model: prompts once, then one token per row, with masks and positions handed in.

Three ways to take a step, each checked or refused rather than trusted: `QuickStep` where it fits and agrees
with the model's own forward on its first step; the model's forward with `grid_attention`; the plain forward.

Shapes: R rows, N new tokens per row, W columns looked at, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truing.backends.transformers.attention import Unsupported, quick_attention, quick_attention_fits
from truing.backends.transformers.kv import KVGrid
from truing.backends.transformers.quick import QuickStep
from truing.core.errors import EngineError

__all__ = ["Stepper"]

Tensor = torch.Tensor
Ints = npt.NDArray[np.int64]

AGREE = 1e-3
"""Largest difference of logits, relative to their size, at which `QuickStep` counts as the same function."""


class Stepper:
    """Runs a causal language model over a `KVGrid`.

    Args:
        model: The model, in eval mode; it must not change while the stepper is used.
        quick: Whether to use the shortcuts where they fit.
    """

    def __init__(self, model: Any, quick: bool = True) -> None:
        self.device: torch.device = model.device
        self._model = model
        self._config = model.config.get_text_config(decoder=True)
        self._kwargs = {"logits_to_keep": 1} if _takes(model, "logits_to_keep") else {}
        self._windows = _window_kinds(self._config)
        self._quick = QuickStep.of(model) if quick else None
        self._agreed = False
        self._attention = quick and quick_attention_fits(model)

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
        ids, positions = self.tensor(tokens), self.tensor(grid.high - start)
        logits = self._step(ids, positions, masks, grid)
        grid.high += 1
        return logits

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """An array on the model's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _step(self, ids: Tensor, positions: Tensor, masks: Any, grid: KVGrid) -> Tensor:
        if self._quick is None:
            return self._own_step(ids, positions, masks, grid)
        logits = self._quick(ids, positions, masks, grid)
        if not self._agreed:
            own = self._own_step(ids, positions, masks, grid)
            self._agreed = bool((logits - own).abs().max() <= AGREE * own.abs().max().clamp(min=1))
            if not self._agreed:
                self._quick = None
            return own
        return logits

    def _own_step(self, ids: Tensor, positions: Tensor, masks: Any, grid: KVGrid) -> Tensor:
        if self._attention:
            try:
                with quick_attention(self._config):
                    return self._forward(ids[:, None], positions[:, None], masks, grid)
            except Unsupported:
                self._attention = False
        return self._forward(ids[:, None], positions[:, None], masks, grid)

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
    """Whether a model has layers with full, and with sliding attention."""
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
