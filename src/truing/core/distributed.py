"""All processes of a training agree: rank 0 works, the others get what it made, or the error that it raised.

A group of its own over gloo carries the words: an evaluation may take longer than the time after which NCCL gives up.
torch is imported where it is needed, so that asking whether a launcher started this process costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

from truing.core.errors import EngineError, TruingError, boundary

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many processes a launcher (torchrun, accelerate) started; (0, 1) without one."""
    world = int(os.environ.get("WORLD_SIZE") or 1)
    return (int(os.environ.get("RANK") or 0), world) if world > 1 else (0, 1)


def start_ranks() -> Ranks:
    """The processes that a launcher started, joined if they are not yet: NCCL with CUDA, gloo without."""
    if rank_and_world()[1] > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())
    return Ranks()


class Ranks:
    """The processes of one training. Making one is collective: every rank does it at the same point."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.world = 0, 1
        self._group: Any = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
            self._group = dist.new_group(backend="gloo", timeout=timedelta(days=30))

    @property
    def is_first(self) -> bool:
        """True for the one process that writes and decides."""
        return self.rank == 0

    def share(self, work: Callable[[], T]) -> T:
        """Give every rank the result of work that rank 0 does.

        Raises:
            TruingError: What rank 0 raised, on every rank.
        """
        if self.world == 1:
            return work()
        import torch.distributed as dist

        box: list[Any] = [None]
        if self.is_first:
            try:
                with boundary("the work of rank 0", EngineError):  # the others wait, whatever happens
                    box = [(work(), None)]
            except TruingError as error:
                box = [(None, error)]
        dist.broadcast_object_list(box, src=0, group=self._group)
        made, raised = box[0]
        if raised is not None:
            raised.of_rank_0 = True  # on every rank, so that none takes it for its own
            raise raised
        result: T = made
        return result

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier(group=self._group)

    def spread(self, tensors: Iterable[Any]) -> None:
        """Give every rank the tensors of rank 0."""
        if self.world > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)
