"""The weights of a model in training: saved whole or not at all, named by the hash of what was saved, put back.

Invariants: training cannot tell that it was looked at (`as_found`), and what is put back is what was saved, tensor by
tensor.
"""

from __future__ import annotations

import logging
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from truing.core.adapters import no_progress_bars, without_global_rng
from truing.core.errors import ConfigError, TrainerError, plural
from truing.core.files import content_key
from truing.core.templates import asked_as
from truing.core.weights import adapter_hash, model_hash, tensors_hash

logger = logging.getLogger(__name__)

_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


@contextmanager
def as_found() -> Iterator[None]:
    """Afterwards the random states of Python, numpy and torch are as before, and the GPU's cached memory is freed."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with without_global_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def is_adapted(model: Any) -> bool:
    """True if a model is PEFT's."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_name(model: Any) -> str:
    """The folder or hub id that a model was loaded from; a word for one made in memory."""
    base = model.get_base_model() if is_adapted(model) else model
    return str(getattr(base, "name_or_path", "") or "") or f"{type(base).__name__} made in memory"


def has_files(model: Any) -> bool:
    """True if the base lies in a folder or on the hub."""
    name = base_name(model)
    return any(Path(name).glob("*.safetensors")) or (not Path(name).exists() and name.count("/") == 1)


def base_hash(model: Any) -> str:
    """Names what an adapter sits on: the hash of the base's files, or of its tensors if it was made in memory."""
    if not is_adapted(model):
        return ""
    if has_files(model):
        return model_hash(base_name(model))
    from safetensors.torch import save

    own = {id(p) for p in _own(model).values()}
    frozen = ((n, p) for n, p in model.named_parameters() if id(p) not in own and not p.requires_grad)
    return content_key("in memory", [[n, tensors_hash(save({n: p.detach().contiguous()}))] for n, p in frozen])


def count_base_parameters(model: Any) -> float:
    """Parameters without those of adapters."""
    added = {id(p) for n, p in model.named_parameters() if "lora_" in n}
    return float(sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if id(p) not in added))


def check_model(model: Any) -> None:
    """Refuse several active adapters and a base unlike its files; warn of what would be trained but not saved.

    Raises:
        ConfigError: A saved adapter on the base that it names would not be the model that is judged.
    """
    active = _active(model) if is_adapted(model) else []
    if len(active) > 1:
        todo = "merge the others, save the whole, and load that as the base"
        raise ConfigError("a guard saves one adapter, and several are active", ", ".join(active), "one", todo)
    if active and (name := _changed(model)):
        raise ConfigError(
            f"the adapter is on other weights than those in {base_name(model)}",
            f"{name} differs: an adapter was merged into it, or it was changed otherwise",
            "the base as its files are: a saved adapter would be loaded on these",
            "save the changed model with save_pretrained, load it from there, and train that",
        )
    if active and model.peft_config[model.active_adapter].peft_type == "LORA":
        saved = set(saved_names(model).values())
        lost = [name for name, p in model.named_parameters() if p.requires_grad and plain_name(name) not in saved]
        if lost:
            logger.warning(
                "%d trained parameters are no part of the adapter, so they are judged but not saved; first: %s\n"
                "  to do: name their modules in modules_to_save",
                len(lost),
                lost[0],
            )


def _active(model: Any) -> list[str]:
    """Names of all adapters that are in use; a list that was set on the layers is not in `active_adapter`."""
    names = getattr(model.base_model, "active_adapters", None)  # of prompt tuning a method of the base's
    names = names if isinstance(names, list) else model.active_adapter
    return [names] if isinstance(names, str) else list(names)


def _changed(model: Any) -> str:
    """The first parameter of the base whose first row is not that of its file; empty: none, or it cannot be told."""
    from safetensors import safe_open

    start = getattr(model.peft_config[model.active_adapter], "init_lora_weights", True)
    if start not in (True, False, "gaussian"):  # it changes the base, and does so again when it is loaded
        return ""
    prefix = "base_model.model."
    held = {plain_name(n).removeprefix(prefix).replace(".base_layer.", "."): p for n, p in model.named_parameters()}
    for path in sorted(Path(base_name(model)).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                here = held.get(name)
                if here is None or here.requires_grad or not _is_plain(here) or "embed" in name:
                    continue  # embeddings may have been given other rows
                first = file.get_slice(name)[:1].to(here.dtype)
                if first.shape == here[:1].shape and not torch.equal(first, here[:1].detach().cpu()):
                    return str(name)
    return ""


def _is_plain(tensor: torch.Tensor) -> bool:
    """True of a matrix of numbers that is whole in this process."""
    return tensor.dim() == 2 and tensor.is_floating_point() and not tensor.is_meta and not hasattr(tensor, "to_local")


def plain_name(name: str) -> str:
    """A parameter's name without what activation checkpointing and compiling add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def saved_names(model: Any) -> dict[str, str]:
    """Name in a checkpoint's files -> the model's own, plain name, of every parameter that is saved."""
    names = {name: name for name, _ in model.named_parameters()}
    own = _own(model, names) if is_adapted(model) else names  # PEFT knows modules by the names that they have now
    return {plain_name(file): plain_name(name) for file, name in own.items()}


def save_weights(model: Any, folder: Path, state: Any = None, tokenizer: Any = None) -> Path:
    """Save the active adapter, or the whole model, whole or not at all; where the weights lie.

    In `state` are its parameters by plain name, gathered; None: the model has them. A tokenizer is saved with them.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    adapted = is_adapted(model)
    inner = Path(model.active_adapter) if adapted and model.active_adapter != "default" else Path()
    with no_progress_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hub look-ups and model cards
        more: dict[str, Any] = {"selected_adapters": [model.active_adapter]} if adapted else {}
        if state is not None:
            names = [name for name, _ in model.named_parameters() if plain_name(name) in state] if adapted else state
            more["state_dict"] = {name: state[plain_name(name)] for name in names}
        model.save_pretrained(str(temporary), **more)
        if adapted and state is not None:
            _rename(temporary / inner / "adapter_model.safetensors")
        if tokenizer is not None:
            tokenizer.save_pretrained(str(temporary / inner))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder / inner


def _rename(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({plain_name(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def weights_hash(model: Any, folder: Path, base: str) -> str:
    """Names saved weights as they are asked: with their own tokenizer, if one lies with them and is not the base's."""
    weights = adapter_hash(base, folder) if is_adapted(model) else model_hash(str(folder))
    return asked_as(weights, folder, base_name(model)) if has_files(model) else weights


def read_saved(model: Any, path: str) -> dict[str, torch.Tensor]:
    """The tensors in a checkpoint's files by the model's own names.

    Raises:
        TrainerError: The files hold other tensors than the model has parameters.
    """
    from safetensors.torch import load_file

    held = {name: tensor for file in Path(path).glob("*.safetensors") for name, tensor in load_file(file).items()}
    own = saved_names(model)
    if odd := sorted(own.keys() ^ held.keys()):
        what, got = "the best checkpoint does not fit the model", f"{plural(len(odd), 'tensor')}, first {odd[0]}"
        raise TrainerError(what, got, todo=f"load it yourself from {path}")
    return {own[name]: tensor for name, tensor in held.items()}


def put_back(model: Any, path: str) -> None:
    """Load saved weights into the model in place.

    Raises:
        TrainerError: Not every tensor arrived.
    """
    loaded = _read_adapter(model, path) if is_adapted(model) else _read_model(model, path)
    # embeddings and heads that PEFT saves of itself, as of a resized vocabulary, are no part of the adapter's own state
    held = {**model.state_dict(), **(_own(model) if is_adapted(model) else {})}
    wrong = [
        name
        for name, tensor in loaded.items()
        if name not in held or not torch.equal(tensor.to(held[name]), held[name])
    ]
    if wrong:
        raise TrainerError(
            "not all weights of the best checkpoint could be put back",
            f"{len(wrong)} of {plural(len(loaded), 'tensor')}, first {wrong[0]}",
            todo=f"load them yourself from {path}",
        )


def _own(model: Any, state: Any = None) -> dict[str, Any]:
    """What is the adapter's own in a state of the model, None: the model's as it is; by its names in the files."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, Any] = get_peft_model_state_dict(
            model, state_dict=state, adapter_name=model.active_adapter, save_embedding_layers=False
        )
    return found


def _read_adapter(model: Any, path: str) -> dict[str, torch.Tensor]:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    state = load_file(Path(path) / "adapter_model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_peft_model_state_dict(model, state, adapter_name=model.active_adapter)
    return dict(state)


def _read_model(model: Any, path: str) -> dict[str, torch.Tensor]:
    with no_progress_bars():
        other = type(model).from_pretrained(path, dtype=model.dtype, use_safetensors=True, trust_remote_code=False)
    state: dict[str, torch.Tensor] = other.state_dict()
    model.load_state_dict(state)
    return state


def find_tokenizer(given: Any, processing: Any) -> Any:
    """The tokenizer to ask with.

    Raises:
        ConfigError: There is none, or it has no chat template.
    """
    tokenizer = given if given is not None else getattr(processing, "tokenizer", processing)
    if tokenizer is None:
        raise ConfigError(
            "the trainer has no tokenizer, so the guard cannot ask the model anything",
            "processing_class=None",
            "a tokenizer with a chat template",
            "give the trainer processing_class=tokenizer, or call guard.watch(trainer, tokenizer)",
        )
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "the tokenizer has no chat template, so the guard cannot ask the model anything",
            type(tokenizer).__name__,
            "a tokenizer with a chat template",
            "set tokenizer.chat_template, or call guard.watch(trainer, tokenizer) with one that has it",
        )
    return tokenizer
