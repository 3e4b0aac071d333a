"""The weights of a model whose parameters are spread over processes: gathered onto rank 0, and given back.

By FSDP2, whose parameters are DTensors, and by DeepSpeed's ZeRO-3, one parameter at a time, and of an adapter only what
is its own. Every function here is collective: all ranks call it at the same point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from truing.core.distributed import Ranks
from truing.core.errors import ConfigError, TrainerError, plural
from truing.integrations.guard.weights import plain_name


def is_sharded(model: Any) -> bool:
    """True if no process has all weights.

    Raises:
        ConfigError: They are spread in a way that cannot be gathered here.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ConfigError(
            "a guard cannot gather the weights of this model",
            "FSDP version 1",
            "FSDP2, DeepSpeed ZeRO, or a model that is whole on rank 0",
            "set fsdp_version: 2",
        )
    return is_zero(model) or any(_is_distributed(p) for p in model.parameters())


def is_zero(model: Any) -> bool:
    """True if DeepSpeed's ZeRO-3 spreads the weights; models that are loaded meanwhile are spread by it, too."""
    return any(hasattr(p, "ds_id") for p in model.parameters())


def gather(model: Any, names: set[str], ranks: Ranks) -> dict[str, torch.Tensor]:
    """The parameters of these names, whole, in the memory of rank 0's CPU; nothing on other ranks."""
    whole: dict[str, Any] = {}
    for name, parameter in _named(model, names):
        if _is_distributed(parameter):
            tensor = parameter.detach().full_tensor()
            whole[name] = tensor.cpu() if ranks.is_first else None
        elif hasattr(parameter, "ds_id"):
            from deepspeed import zero

            with zero.GatheredParameters([parameter]):
                whole[name] = parameter.detach().cpu().clone() if ranks.is_first else None
        else:
            whole[name] = parameter.detach().cpu().clone() if ranks.is_first else None
    return whole if ranks.is_first else {}


def scatter(model: Any, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Give every rank its part of the tensors that rank 0 has, and see that they arrived.

    Raises:
        TrainerError: The model has other parameters, or not every tensor arrived.
    """
    names = ranks.share(lambda: set(tensors))
    lost = names - {name for name, _ in _named(model, names)}
    if lost:
        what, got = "the best checkpoint does not fit the model", f"{plural(len(lost), 'tensor')}, first {min(lost)}"
        raise TrainerError(what, got, todo="load it yourself: guard.best.path")
    with torch.no_grad():
        for name, parameter in _named(model, names):
            _fill(parameter, tensors.get(name), ranks)
    held = gather(model, names, ranks)

    def check() -> None:
        if wrong := [n for n, tensor in tensors.items() if not torch.equal(tensor.to(held[n].dtype), held[n])]:
            what, got = "not all weights of the best checkpoint could be put back", f"{len(wrong)}, first {wrong[0]}"
            raise TrainerError(what, got, todo="load it yourself: guard.best.path")

    ranks.share(check)


def _fill(parameter: Any, tensor: torch.Tensor | None, ranks: Ranks) -> None:
    if hasattr(parameter, "ds_id"):
        from deepspeed import zero

        with zero.GatheredParameters([parameter], modifier_rank=0):
            if tensor is not None:
                parameter.data.copy_(tensor)
        return
    if tensor is None:
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype)
    if not _is_distributed(parameter):
        parameter.data.copy_(tensor)
        ranks.spread([parameter])
        return
    from torch.distributed.tensor import distribute_tensor

    whole = tensor.to(parameter.dtype).to(parameter.device_mesh.device_type)
    spread: Any = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
    parameter.to_local().copy_(spread.to_local())


def _is_distributed(parameter: Any) -> bool:
    return type(parameter.data).__name__ == "DTensor"


def _named(model: Any, names: set[str]) -> list[tuple[str, Any]]:
    """Plain name and parameter, of these names, in one order on all ranks."""
    return [(plain_name(name), p) for name, p in model.named_parameters() if plain_name(name) in names]
