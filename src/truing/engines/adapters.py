"""Putting a PEFT adapter on a base model, and proof that all of it arrived.

PEFT drops tensors that fit no module and fills absent ones at random, with a warning at most. Here both are errors: every
tensor of the adapter's file must be found in the model after loading, with equal contents, and every adapter tensor of
the model must come from the file.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from truing.errors import EngineError

__all__ = ["attached", "has_adapter", "merged_copy", "without_global_rng"]

NAME = "truing"


@contextmanager
def without_global_rng() -> Iterator[None]:
    """Put torch's global random state back afterwards: building modules draws from it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def attached(base: Any, folder: Path) -> Iterator[Any]:
    """The base model with the adapter of a folder active; taken off again at the end.

    Raises:
        EngineError: The adapter does not fit the model, or not all of it arrived.
    """
    model = _attach(base, folder)
    try:
        yield model
    finally:
        model.unload()


def merged_copy(base: Any, folder: Path) -> Any:
    """A copy of the base model with the adapter merged in; None if merging would not be exact.

    Merging into a weight that two modules share (tied embeddings) would change both.

    Raises:
        EngineError: The adapter does not fit the model, or not all of it arrived.
    """
    model = _attach(copy.deepcopy(base), folder)
    return None if _touches_shared(model) else model.merge_and_unload()


def has_adapter(model: Any) -> bool:
    """Whether a model carries PEFT layers."""
    return hasattr(model, "peft_config") and hasattr(model, "merge_and_unload")


def _attach(base: Any, folder: Path) -> Any:
    from peft import PeftModel

    try:
        with without_global_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(
                base, str(folder), adapter_name=NAME, low_cpu_mem_usage=True, torch_device=str(base.device)
            )
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        raise EngineError(
            f"the adapter in {folder} does not fit the model", f"{type(error).__name__}: {error}"
        ) from error
    _check(model, folder)
    return model.eval()


def _check(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    asked = load_file(folder / "adapter_model.safetensors", device=str(model.device))
    loaded = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    everything = {**model.state_dict(), **loaded}
    unused = sorted(key for key in asked if key not in everything)
    absent = sorted(key for key in loaded if key not in asked)
    shared = (key for key in asked if key in everything)
    changed = sorted(key for key in shared if not torch.equal(asked[key].to(everything[key].dtype), everything[key]))
    for what, keys in (("were not used", unused), ("are missing in the file", absent), ("differ after loading", changed)):
        if keys:
            raise EngineError(
                f"tensors of the adapter in {folder} {what}",
                f"{len(keys)} of {len(asked)}, first {keys[0]}",
                todo="check that the adapter was made for this model",
            )


def _touches_shared(model: Any) -> bool:
    """Whether an adapted module's weight is used by another module too."""
    modules = model.get_base_model().modules()
    owners = Counter(id(p) for module in modules for p in module.parameters(recurse=False))
    adapted = {
        id(parameter)
        for module in model.get_base_model().modules()
        if hasattr(module, "get_base_layer")
        for parameter in module.get_base_layer().parameters(recurse=False)
    }
    return any(owners[parameter] > 1 for parameter in adapted)
