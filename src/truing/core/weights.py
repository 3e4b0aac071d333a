"""The identity of weights: a hash of tensor contents, read from safetensors files without loading a framework.

Equal weights give equal hashes whatever the file's metadata or tensor order. Only safetensors is read; anything else is
refused. Models on the Hugging Face hub are known by the hashes of their files, which the hub and its cache both tell.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from truing.core.errors import DataError, EngineError, UserError, plural
from truing.core.files import content_key, load_json, read_object
from truing.core.records import Checkpoint

_ASKING = ("chat_template*", "tokenizer*", "special_tokens_map.json", "generation_config.json")
_LOADED = re.compile(r"config\.json|model.*\.safetensors")
"""The files of a hub model that make it what it is."""
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
_RARE = (
    "layer_replication",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_dora",
    "use_qalora",
    "lora_bias",
)
"""Settings that say what else the same tensors do; only where they are set, as most adapters have none of them."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of beginning that change the base's weights, also when the adapter is loaded."""


def tensors_hash(data: bytes, name: str = "safetensors") -> str:
    """Hash of the tensors in the bytes of one safetensors file: names, types, shapes and contents.

    Raises:
        DataError: It is damaged; `name` is the file's.
    """
    stream = BytesIO(data)
    header, body = _header(stream, len(data), name), memoryview(data)[stream.tell() :]
    digest = hashlib.sha256()
    for tensor in sorted(header):
        entry = header[tensor]
        begin, end = entry["data_offsets"]
        digest.update(json.dumps([tensor, entry["dtype"], entry["shape"]]).encode())
        digest.update(body[begin:end])
    return digest.hexdigest()


def model_hash(model: str) -> str:
    """Hash of a base model: its config and its weights.

    Of a folder the tensors of every safetensors file are read; of a hub id the files' hashes are asked for.

    Raises:
        DataError: No safetensors weights, a damaged or absent file, or neither the hub nor its cache on this machine
            knows the id.
    """
    folder = Path(model)
    if not folder.is_dir():
        return _hub_hash(model)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError("no safetensors weights", str(folder), "*.safetensors", "convert the weights to safetensors")
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = read_object(index).get("weight_map", {})
        if absent := sorted({str(name) for name in shards.values()} - {file.name for file in files}):
            todo = "the saving or the copying was cut short: copy or save it again"
            raise DataError(f"{folder / absent[0]} is not there", f"{index.name} names it", "every shard", todo)
    config = read_object(folder / "config.json")
    return content_key(config, [[f.name, tensors_hash(_read_bytes(f), str(f))] for f in files])


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read", str(error), "safetensors") from error


def asking_files(model: str) -> dict[str, str]:
    """Name -> hash of the files that shape how a model is asked and when it ends: template, tokenizer, generation.

    Raises:
        DataError: Neither the hub nor its cache on this machine knows the id.
    """
    folder = Path(model)
    if not folder.is_dir():
        return {name: digest for name, digest in _hub_files(model).items() if any(map(PurePath(name).match, _ASKING))}
    files = (each for pattern in _ASKING for each in folder.glob(pattern))
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


@cache
def _hub_hash(model: str) -> str:
    files = {name: digest for name, digest in _hub_files(model).items() if _LOADED.fullmatch(name)}
    if not any(name.endswith(".safetensors") for name in files):
        raise DataError(f"{model} has no safetensors weights on the hub", allowed="model*.safetensors")
    return content_key("hub", sorted(files.items()))


def _hub_files(model: str) -> dict[str, str]:
    """Name -> hash of a model's files: from the hub, as loading asks it first too, or else from its cache here."""
    from huggingface_hub import model_info, snapshot_download

    try:
        found = model_info(model, files_metadata=True).siblings or []
        return {f.rfilename: f.lfs.sha256 if f.lfs else str(f.blob_id) for f in found}
    except Exception as offline:  # noqa: BLE001 - by whichever library the hub is called, its errors are its own
        try:
            folder = Path(snapshot_download(model, local_files_only=True))
        except (OSError, ValueError):
            raise DataError(
                f"cannot tell which weights {model} has",
                next(iter(str(offline).splitlines()), type(offline).__name__),
                "a model on the hub, or one that was loaded on this machine before",
                "check the name, the network and HF_TOKEN (gated models), or name a folder",
            ) from offline
    # In the cache a file is a link to a blob that is named by its hash.
    return {file.name: file.resolve().name for file in folder.iterdir()}


def count_parameters(model: str) -> float:
    """Numbers in the tensors of a folder's safetensors files; NaN for a hub id, whose files are elsewhere."""
    folder = Path(model)
    if not folder.is_dir():
        return math.nan
    files = folder.glob("*.safetensors")
    total = sum(math.prod(entry["shape"]) for path in files for entry in read_header(path).values())
    return float(total) if total else math.nan


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> `dtype`, `shape` and `data_offsets` (in the bytes after the header) of one safetensors file.

    Raises:
        DataError: It is damaged.
    """
    with path.open("rb") as file:
        return _header(file, path.stat().st_size, str(path))


def rounded_modules(adapter: Path, base: str) -> str:
    """In words, the modules of its own that an adapter keeps in float32 over a base in half precision; empty: none.

    Beside such a base they are rounded to its precision, for it computes in that.
    """
    config = Path(base) / "config.json"
    settings = read_object(config) if config.is_file() else {}
    half, own = settings.get("dtype") or settings.get("torch_dtype"), read_object(adapter / "adapter_config.json")
    if half not in ("bfloat16", "float16"):
        return ""
    header = read_header(adapter / "adapter_model.safetensors")
    names = sorted(
        name
        for name in own.get("modules_to_save") or ()
        if any(f".{name}." in key and entry["dtype"] == "F32" for key, entry in header.items())
    )
    return f"{', '.join(names)} in float32 over a base in {half}" if names else ""


def _header(file: BinaryIO, size: int, name: str) -> dict[str, dict[str, Any]]:
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    try:
        header: dict[str, dict[str, Any]] = load_json(file.read(min(length, size)))
        header.pop("__metadata__", None)
        spans = sorted(tuple(map(int, entry["data_offsets"])) for entry in header.values())
        ends = [0, *(end for _, end in spans)]
        whole = all(begin == before for (begin, _), before in zip(spans, ends, strict=False))
        whole &= ends[-1] == size - 8 - length
        shapes = all(
            isinstance(entry["dtype"], str) and min(entry["shape"], default=0) >= 0 for entry in header.values()
        )
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        whole = shapes = False
    if not whole or not shapes:
        todo = "the saving or the copying was cut short: save or copy it again, or remove the folder"
        raise DataError(f"{name} is damaged", plural(size, "byte"), "a whole safetensors file", todo)
    return header


def adapter_hash(base: str, folder: Path) -> str:
    """Hash of a base model (by its `model_hash`) with the adapter in a folder.

    Raises:
        DataError: The folder holds no PEFT adapter in safetensors, or a damaged one.
    """
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if not weights.is_file() or not config.is_file():
        raise DataError("not an adapter", str(folder), "adapter_model.safetensors and adapter_config.json")
    settings = read_object(config)
    kept = {key: settings.get(key) for key in _SCALING}
    kept |= {key: settings[key] for key in _RARE if settings.get(key)}
    if str(begins := settings.get("init_lora_weights")).startswith(_CHANGES_BASE):
        kept["init_lora_weights"] = begins
    # 16.0 as 16: a setting that went through YAML is the same setting
    kept = {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in kept.items()}
    for key in ("target_modules", "exclude_modules"):
        if isinstance(names := kept.get(key), list):
            kept[key] = sorted(names)
    return content_key(base, kept, tensors_hash(_read_bytes(weights), str(weights)))


def checkpoint_hash(base: str, folder: Path) -> str:
    """Hash of what a folder holds: an adapter on a base model (by its `model_hash`), or full weights.

    Raises:
        DataError: It holds no weights in safetensors, or damaged ones.
    """
    adapted = (folder / "adapter_config.json").is_file()
    return adapter_hash(base, folder) if adapted else model_hash(str(folder))


def hash_or_fail(function: Callable[[], str]) -> str:
    """The hash that a function of this module finds.

    Raises:
        EngineError: The files cannot be read.
    """
    try:
        return function()
    except (UserError, OSError, ValueError) as error:
        raise EngineError("cannot read the weights", str(error)) from error


def check_weights(
    checkpoint: Checkpoint,
    found: str,
    todo: str = "the files changed after the checkpoint was made: train the run again",
) -> None:
    """Compare the hash of what was found with the checkpoint's.

    Raises:
        EngineError: They differ; `todo` says what to do.
    """
    if found != checkpoint.weights:
        raise EngineError(
            f"the weights of run {checkpoint.run_id}, step {checkpoint.step} are not those asked for",
            f"hash {found} at {checkpoint.path or 'the base model'}",
            checkpoint.weights,
            todo,
        )
