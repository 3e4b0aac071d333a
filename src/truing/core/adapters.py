"""Loading a model, putting a PEFT adapter on it, and proof that all of it arrived.

PEFT drops tensors that fit no module and fills absent ones at random, with a warning at most. Here both are
errors: every tensor of the adapter's file must be found in the model after loading, with equal contents, and
every adapter tensor of the model must come from the file.
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

from truing.core.errors import EngineError, WorkError, plural
from truing.core.files import read_object
from truing.core.weights import read_header

NAME = "truing"
SMALL = 200_000_000
"""Parameters up to which a model is copied rather than changed."""


@contextmanager
def without_global_rng() -> Iterator[None]:
    """Put torch's global random state back afterwards: building modules draws from it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch the progress bars of `transformers` off inside the block, and back as they were."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def is_small(model: Any) -> bool:
    """True if a copy of a model costs little."""
    return sum(p.numel() for p in model.parameters()) <= SMALL


def load_model(
    source: str, kind: type[WorkError] = EngineError, device: str | None = None, unused: bool = False
) -> Any:
    """A model from safetensors, in eval mode, whole.

    It runs on `device`, or on a GPU if there is one; `unused`: the files may hold more than the model uses.

    Raises:
        WorkError: Of that kind: the files lack or do not fit some of the model's weights.
    """
    from transformers import AutoModelForCausalLM

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with without_global_rng(), no_progress_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                source,
                # Half precision is for storage where there is no GPU, and adapters are trained on float32.
                dtype="auto" if device != "cpu" else torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise kind(f"cannot load the model {source}", f"{type(error).__name__}: {error}") from error
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys")[: 2 if unused else 3]:
        if keys := sorted(map(str, info.get(problem, ()))):
            raise kind(
                f"the weights in {source} do not fit the model",
                f"{problem.replace('_', ' ')}: {len(keys)}, first {keys[0]}",
            )
    model = model.float() if device == "cpu" else model
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def attached(base: Any, folder: Path) -> Iterator[Any]:
    """The base model with the adapter of a folder active; taken off again at the end.

    Raises:
        EngineError: The adapter does not fit the model, or not all of it arrived. The base is spoilt then.
    """
    start = read_object(folder / "adapter_config.json").get("init_lora_weights", True)
    if start not in (True, False, "gaussian") and not is_small(base):  # its base is not the model as it was
        got, todo = f"init_lora_weights {start}", "merge it into the model, and ask that as full weights"
        raise EngineError(f"the adapter in {folder} changes its base", got, "LoRA that leaves the base alone", todo)
    model = _attach(copy.deepcopy(base) if is_small(base) else base, folder)
    try:
        yield model
    finally:
        model.unload()


def merged_copy(base: Any, folder: Path) -> Any:
    """A copy of the base model with the adapter merged in; None if merging would not be exact.

    That is so for a base in half precision: what an adapter adds to a weight is often less than half of the step to the
    next number, and would be rounded away, all of it.

    Raises:
        EngineError: The adapter does not fit the model, or not all of it arrived.
    """
    return _merged(_attach(copy.deepcopy(base), folder))


def save_merged(source: str, adapter: Path, folder: Path) -> None:
    """Save a base model with an adapter merged in as full weights, without a tokenizer.

    Raises:
        EngineError: The adapter does not fit the model, or merging would not be exact.
    """
    merged = merged_copy(load_model(source).float(), adapter)
    if merged is None:
        raise EngineError(
            f"the adapter in {adapter} cannot be merged",
            "it changes a weight that two modules share (tied embeddings)",
            todo="use the engine transformers",
        )
    with no_progress_bars():
        merged.save_pretrained(folder)


def snapshot(model: Any) -> Any:
    """A copy of a model as it stands, adapters merged in, in eval mode; None if there is no exact copy.

    That is so for a model whose forward was replaced (mixed precision, sharding), whose weights are quantised, or
    that has an adapter on weights in half precision, see `merged_copy`.
    """
    modules = list(model.modules())
    replaced = any("forward" in vars(module) for module in modules)
    if replaced or getattr(model, "is_quantized", False) or not hasattr(model, "config"):
        return None
    try:
        copied = copy.deepcopy(model)
    except RuntimeError:  # a module keeps a tensor of the training graph
        return None
    copied = _merged(copied) if hasattr(copied, "merge_and_unload") else copied
    return None if copied is None else copied.requires_grad_(False).eval()


def _attach(base: Any, folder: Path) -> Any:
    from peft import PeftModel

    try:
        with without_global_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft warns of is an error in `_check`
            _make_room(base, folder)
            model = PeftModel.from_pretrained(base, str(folder), adapter_name=NAME, torch_device=str(base.device))
            for name, parameter in model.named_parameters():
                if ".modules_to_save." in name:  # saved in another precision than the base is loaded in
                    parameter.data = parameter.data.to(base.dtype)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        raise EngineError(
            f"the adapter in {folder} does not fit the model", f"{type(error).__name__}: {error}"
        ) from error
    _check(model, folder)
    return model.eval()


def _make_room(base: Any, folder: Path) -> None:
    """Give the model as many tokens as the adapter's own embeddings have: tokens were added before it was trained.

    Raises:
        EngineError: They cannot be taken off again, as `attached` must.
    """
    header = read_header(folder / "adapter_model.safetensors")
    own = {n: entry["shape"][0] for n, entry in header.items() if n.endswith(("embed_tokens.weight", "lm_head.weight"))}
    now = base.get_input_embeddings().weight.shape[0]
    if not own or max(own.values()) == now:
        return
    if not is_small(base):
        raise EngineError(
            f"the adapter in {folder} is for another vocabulary",
            f"{plural(max(own.values()), 'token')}, the base has {now:,}",
            "an adapter for the base as it is",
            "tokens were added before training: merge the adapter into the model, and ask that as full weights",
        )
    base.resize_token_embeddings(max(own.values()), mean_resizing=False)


def _check(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    asked = load_file(folder / "adapter_model.safetensors", device=str(model.device))
    loaded = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    held = {**model.state_dict(), **loaded}
    problems = {
        "were not used": [key for key in asked if key not in held],
        "are missing in the file": [key for key in loaded if key not in asked],
        "differ after loading": [
            key
            for key, tensor in asked.items()
            if key in held and not torch.equal(tensor.to(held[key].dtype), held[key])
        ],
    }
    for problem, keys in problems.items():
        if keys:
            raise EngineError(
                f"tensors of the adapter in {folder} {problem}",
                f"{len(keys)} of {len(asked)}, first {min(keys)}",
                todo="check that the adapter was made for this model",
            )


def _merged(model: Any) -> Any:
    """The base model of a PEFT model with the adapter merged in; None if that changes more than it should.

    A weight that two modules share (tied embeddings) would change for both, and one in half precision too little.
    """
    modules = list(model.get_base_model().modules())
    owners = Counter(id(p) for module in modules for p in module.parameters(recurse=False))
    adapted = {
        id(parameter)
        for module in modules
        if hasattr(module, "get_base_layer")
        for parameter in module.get_base_layer().parameters(recurse=False)
    }
    half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.get_base_model().parameters())
    return None if half or any(owners[parameter] > 1 for parameter in adapted) else model.merge_and_unload()
