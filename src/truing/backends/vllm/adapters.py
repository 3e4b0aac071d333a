"""An adapter as its files describe it, and proof that vLLM would apply all of it.

vLLM leaves out in silence what fits no module of the model: an adapter of another model, or of more layers, would be
scored as the base, or in part. So every tensor must belong to a linear layer or embedding of the base, with its shape.
Experts' parameters are refused: nobody has shown here that vLLM applies them as PEFT does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truing.core.errors import DataError, EngineError
from truing.core.files import read_object
from truing.core.weights import read_header

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")
_WEIGHT = re.compile(r"(.+)\.(?:weight|qweight|weight_packed)")
_FLOATS = ("F64", "F32", "F16", "BF16")
OTHERWISE = "set vllm.adapters to merge and vllm.dtype to float32, or use the engine transformers"
"""What to do with an adapter that vLLM would not apply."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk."""

    folder: Path
    rank: int
    """Largest rank of its layers."""
    empty: bool
    """Whether it changes nothing: in every layer one of the two matrices is zero, as before the first step."""


def base_shapes(source: str) -> dict[str, list[int] | None]:
    """Module -> shape of its weight in a base model's files (None if the weight is quantised); empty for a hub id."""
    entries = [item for path in sorted(Path(source).glob("*.safetensors")) for item in read_header(path).items()]
    return {
        found[1]: entry["shape"] if entry["dtype"] in _FLOATS and len(entry["shape"]) == 2 else None
        for name, entry in entries
        if (found := _WEIGHT.fullmatch(name))
    }


def read_adapter(folder: Path, base: Mapping[str, list[int] | None]) -> Adapter:
    """An adapter that vLLM would apply whole.

    `base` is what `base_shapes` says of the base; empty: unknown.

    Raises:
        EngineError: vLLM would apply it not at all or in part.
        DataError: The files cannot be read.
    """
    file = folder / "adapter_model.safetensors"
    try:
        settings = read_object(folder / "adapter_config.json")
        header = read_header(file)
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"the adapter in {folder} cannot be read", str(error)) from error
    layers: dict[str, dict[str, bytes]] = {}
    start = 8 + int.from_bytes(data[:8], "little")
    for name, module, side in _layers(folder, settings, header):
        _check_shape(folder, module, header[name]["shape"], side, "embedding" in name, base)
        begin, end = header[name]["data_offsets"]
        layers.setdefault(module, {})[side] = data[start + begin : start + end]
    ranks = [int(header[name]["shape"][0]) for name in header if name.endswith(("lora_A.weight", "lora_embedding_A"))]
    changes = any(all(layer.get(side, b"").strip(b"\0") for side in "AB") for layer in layers.values())
    return Adapter(folder, max(ranks, default=0), not changes)


def _layers(folder: Path, settings: Mapping[str, Any], header: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, module and side (A or B) of every tensor."""
    if settings.get("peft_type") != "LORA" or settings.get("use_dora"):
        kind = "DoRA" if settings.get("use_dora") else settings.get("peft_type")
        raise _refusal(folder, f"an adapter of the kind {kind}", "LoRA")
    for name in sorted(header):
        match = _LORA.fullmatch(name)
        if match is None:
            raise _refusal(folder, f"the tensor {name}", "lora_A and lora_B of linear layers and embeddings")
        if ".experts" in name:
            raise _refusal(folder, f"the tensor {name}", "no parameters of experts")
        yield name, match["module"], match["side"]


def _check_shape(
    folder: Path, module: str, shape: list[int], side: str, embedding: bool, base: Mapping[str, list[int] | None]
) -> None:
    if not base:
        return
    found = _find(module, base)
    if found is None:
        raise _refusal(folder, f"the module {module}", "modules of the base model")
    weight = base[found]
    if weight is None or embedding:
        return
    fits = shape[1] == weight[1] if side == "A" else shape[0] == weight[0]
    if not fits:
        raise _refusal(folder, f"lora_{side} {shape} for {module}", f"what fits a weight of {weight}")


def _find(module: str, base: Mapping[str, list[int] | None]) -> str | None:
    """The base's name of a module; models that hold a language model name it in several ways."""
    if module in base:
        return module
    tail = module[module.find("layers.") :] if "layers." in module else module.rsplit(".", 1)[-1]
    tail = "embed_tokens" if tail == "lm_head" else tail  # tied: the file holds it once
    return next((name for name in base if name.endswith(f".{tail}") or name == tail), None)


def _refusal(folder: Path, got: str, allowed: str) -> EngineError:
    return EngineError(f"vLLM would not apply all of the adapter in {folder}", got, allowed, OTHERWISE)
