"""The identity of weights: a hash of tensor contents, read from safetensors files without loading a framework.

Equal weights give equal hashes whatever the file's metadata or tensor order. Only safetensors is read; anything else is
refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from truing.catalog import resolve_model
from truing.errors import DataError, UnknownNameError
from truing.files import content_key
from truing.models import known_parameters

__all__ = ["adapter_hash", "count_parameters", "model_hash", "parameters_of", "read_header", "tensors_hash"]

_SCALING = (
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "target_modules",
    "target_parameters",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
)


def tensors_hash(data: bytes) -> str:
    """Hash of the tensors in the bytes of one safetensors file: names, types, shapes and contents."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    digest = hashlib.sha256()
    for name in sorted(header):
        entry = header[name]
        begin, end = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        digest.update(body[begin:end])
    return digest.hexdigest()


def model_hash(model: str) -> str:
    """Hash of a base model: its config and the tensors of every safetensors file of a folder, or the hub id itself.

    Raises:
        DataError: A folder without safetensors weights.
    """
    folder = Path(model)
    if not folder.is_dir():
        return content_key("hub", model)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError("no safetensors weights", str(folder), "*.safetensors", "convert the weights to safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content_key(config, [[f.name, tensors_hash(f.read_bytes())] for f in files])


def parameters_of(model: str) -> float:
    """How many parameters a model has: counted in its files, or as the catalogue says; NaN if neither tells."""
    try:
        counted = count_parameters(resolve_model(model))
    except UnknownNameError:  # an endpoint's name
        counted = math.nan
    return known_parameters(model) if math.isnan(counted) else counted


def count_parameters(model: str) -> float:
    """Numbers in the tensors of a folder's safetensors files; NaN for a hub id, whose files are elsewhere."""
    folder = Path(model)
    if not folder.is_dir():
        return math.nan
    files = folder.glob("*.safetensors")
    total = sum(math.prod(entry["shape"]) for path in files for entry in read_header(path).values())
    return float(total) if total else math.nan


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> `dtype`, `shape` and `data_offsets` (in the bytes after the header) of one safetensors file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def adapter_hash(base: str, folder: Path) -> str:
    """Hash of a base model (by its `model_hash`) with the adapter in a folder.

    Raises:
        DataError: The folder holds no PEFT adapter in safetensors.
    """
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if not weights.is_file() or not config.is_file():
        raise DataError("not an adapter", str(folder), "adapter_model.safetensors and adapter_config.json")
    settings = json.loads(config.read_text(encoding="utf-8"))
    kept = {key: _whole(settings.get(key)) for key in _SCALING}
    if isinstance(kept["target_modules"], list):
        kept["target_modules"] = sorted(kept["target_modules"])
    return content_key(base, kept, tensors_hash(weights.read_bytes()))


def _whole(value: Any) -> Any:
    """16.0 as 16: a setting that went through YAML is the same setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
