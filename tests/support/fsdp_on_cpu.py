"""truing's command line with FSDP on CPUs: `torchrun ... -m tests.support.fsdp_on_cpu run STUDY`.

accelerate shards models on accelerators only, though torch shards them over gloo as well. Here it takes two processes
on CPUs for two GPUs, so that what it does with them is tested where there are none.
"""

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_init = AcceleratorState.__init__


def _on_cpu(self: AcceleratorState, *args: object, **more: object) -> None:
    state = PartialState(cpu=True)
    if state.distributed_type is DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU
    _init(self, *args, **more)


def allow() -> None:
    """From now on accelerate shards on CPUs."""
    AcceleratorState.__init__ = _on_cpu


if __name__ == "__main__":
    from truing.cli import main

    allow()
    main()
