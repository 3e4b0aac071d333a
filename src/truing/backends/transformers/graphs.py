"""Steps of fixed shape, recorded once as CUDA graphs and replayed: what one token per row costs on a GPU.

A step of a small model is some hundreds of kernels that take microseconds each, and Python launches them one by one: 33
milliseconds a step for 30 layers on an H200, whatever the number of rows. A recorded graph launches them all at once.
It needs the same shapes and addresses at every replay. So the step here takes a fixed number of rows (some of them
dead) and of columns (those that nobody uses are masked), and reads from tensors on the device which column to write.

The numbers are those of `Stepper.step` up to rounding. A model that cannot be recorded, since it decides something on
the host (a mixture of experts, a rope that grows), is stepped without a graph.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from truing.backends.transformers.steps import Ints, KVGrid, Stepper, Tensor

COLUMNS = 256
"""The columns looked at are a multiple of this, or all."""
FEWEST = 16
"""Rows of the smallest graph; others have twice as many, four times, and so on."""

log = logging.getLogger(__name__)
Recorded = tuple[torch.cuda.CUDAGraph, Tensor]
"""A step, and the logits that it writes."""


class GraphStepper(Stepper):
    """Runs a causal language model in eval mode over one `KVGrid`, by recorded graphs where it is on a GPU.

    Neither the model's weights nor where they lie may change while the stepper is used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._recordable = self.device.type == "cuda"
        self._grid: KVGrid | None = None
        self._graphs: dict[tuple[int, int], Recorded | None] = {}
        self._pool: Any = None

    def step(self, tokens: Ints, start: Ints, grid: KVGrid) -> Tensor:
        """Write one more token per active row into the next column; see `Stepper.step`.

        The logits that it returns are overwritten by the next step.
        """
        if grid is not self._grid:
            self._begin(grid)
        active = len(tokens)
        rows = next(n for n in _ladder(grid.rows) if n >= active)
        width = min(grid.columns, (grid.high // COLUMNS + 1) * COLUMNS)
        padded = np.full((2, rows), grid.high)
        padded[0, :active], padded[1, :active] = tokens, start
        self._inputs[:, :rows].copy_(torch.from_numpy(padded))
        self._column.fill_(grid.high)
        logits = self._run(rows, width, grid)
        grid.high += 1
        return logits[:active]

    def _begin(self, grid: KVGrid) -> None:
        self._grid, self._graphs = grid, {}
        grid.clear_free()  # steps of fixed shape look at these places, masked
        self._inputs = torch.zeros(2, grid.rows, dtype=torch.int64, device=self.device)
        self._column = torch.zeros(1, dtype=torch.int64, device=self.device)

    def _run(self, rows: int, width: int, grid: KVGrid) -> Tensor:
        """The step as a graph: without one at first, which also warms up; recorded when it comes again."""
        key = rows, width
        recorded = self._graphs.get(key) if self._recordable else None
        if recorded is None and self._recordable and key in self._graphs:
            recorded = self._record(rows, width, grid)
        self._graphs[key] = recorded
        if recorded is None:
            return self._fixed_step(rows, width, grid)
        graph, logits = recorded
        graph.replay()  # which overwrites the logits of the last one
        return logits

    def _fixed_step(self, rows: int, width: int, grid: KVGrid) -> Tensor:
        """Logits `[rows, V]` of a step whose shapes depend on `rows` and `width` (columns looked at) alone."""
        (ids, start), columns = self._inputs[:, :rows], torch.arange(width, device=self.device)
        hidden = ((columns < start[:, None]) | (columns > self._column))[:, None, :]
        masks = self._masks(hidden, (self._column - columns)[None])
        grid.fixed = (self._column, rows, width)
        try:
            return self._forward(ids[:, None], (self._column - start)[:, None], masks, grid)
        finally:
            grid.fixed = None

    def _record(self, rows: int, width: int, grid: KVGrid) -> Recorded | None:
        """The step as a graph; None, now and later, if the model cannot be recorded."""
        stream, now = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        stream.wait_stream(now)
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    logits = self._fixed_step(rows, width, grid)
                finally:
                    graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._recordable = False
            log.info("%s is sampled without CUDA graphs: %s", type(self._model).__name__, error)
            return None
        finally:
            now.wait_stream(stream)
        return graph, logits


def _ladder(rows: int) -> list[int]:
    """The numbers of rows that graphs have, smallest first, the last one `rows`."""
    sizes = [rows]
    while sizes[0] >= 2 * FEWEST:
        sizes.insert(0, -(-sizes[0] // 2))
    return sizes
