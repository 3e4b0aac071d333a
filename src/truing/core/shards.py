"""Shards of FSDP and DCP (`torch.distributed.checkpoint`), merged into whole weights in safetensors.

Their index, `.metadata`, is a pickle. It is read with the classes that torch writes into one and no others, so it runs
no code; torch then reads the model's tensors, by its own loader that takes tensors only, and nothing else of the files.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from truing.core.errors import DataError, TruingError
from truing.core.files import content_key

INDEX = ".metadata"
_METADATA = "torch.distributed.checkpoint.metadata"
_OTHERS = {
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath"),
    "collections": ("OrderedDict",),
}
_TODO = "save whole weights (fsdp_state_dict_type: FULL_STATE_DICT), or merge them with the framework's own tool"


def shards_of(checkpoint: Path) -> Path | None:
    """The folder of a model's shards in a checkpoint without whole weights, or the checkpoint itself; None: neither."""
    found = [] if any(checkpoint.glob("*.safetensors")) else shards_in(checkpoint)
    return found[0] if len(found) == 1 else None


def shards_in(checkpoint: Path) -> list[Path]:
    """The folders with shards in a checkpoint, and the checkpoint itself if it is one; those of optimizers left out."""
    inner = [each for each in sorted(checkpoint.glob("*")) if not each.name.startswith("optimizer")]
    return [each for each in (checkpoint, *inner) if (each / INDEX).is_file() or any(each.glob("*.distcp"))]


class Merged:
    """Whole weights of checkpoints in shards, of one at a time, in a folder that is removed at the end.

    Args:
        parent: Where that folder is made; None: where temporary files are.
        base: Finds the model before fine-tuning, whose config is taken where a checkpoint has none; None: not known.
    """

    def __init__(self, parent: Path | None, base: Callable[[], str] | None) -> None:
        self._parent, self._base = parent, base
        for left in parent.glob(".merged-*") if parent else ():  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._held: tuple[str, TemporaryDirectory[str]] | None = None

    def whole(self, checkpoint: Path) -> Path:
        """The checkpoint, or a folder with its weights merged, and with its tokenizer if it has one.

        Raises:
            DataError: The shards are not whole, not safe, or not those of a model that transformers knows.
        """
        folder = shards_of(checkpoint)
        if folder is None:
            return checkpoint
        files = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(checkpoint.rglob("*")) if f.is_file()]
        if self._held is None or self._held[0] != content_key(files):
            self.close()
            if self._parent:
                self._parent.mkdir(parents=True, exist_ok=True)
            held = TemporaryDirectory(dir=self._parent, prefix=".merged-")
            try:
                _merge(folder, checkpoint, self._base, Path(held.name))
            except BaseException:
                held.cleanup()
                raise
            self._held = (content_key(files), held)
        return Path(self._held[1].name)

    def close(self) -> None:
        """Remove what was merged."""
        if self._held is not None:
            self._held[1].cleanup()
            self._held = None


def check_shards(folder: Path) -> tuple[Any, dict[str, str]]:
    """The index of shards that are all there, and the model's tensors: name -> name in the index.

    Raises:
        DataError: They are not whole, not safe, or hold no model.
    """
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

    if not (folder / INDEX).is_file():
        raise DataError(f"{folder} is not whole", f"no {INDEX}, which is saved last", "shards with their index")
    try:
        with (folder / INDEX).open("rb") as file:
            index = _Index(file).load()
        assert isinstance(index, Metadata)
        ends = [(each.relative_path, each.offset + each.length) for each in index.storage_data.values()]
        paths = {name: index.planner_data.get(name, (name,)) for name in index.state_dict_metadata}
        short = [n for n, end in ends if Path(n).name != n or not (f := folder / n).is_file() or f.stat().st_size < end]
    except Exception as error:
        raise DataError(f"{folder / INDEX} cannot be read", f"{type(error).__name__}: {error}", todo=_TODO) from error
    if short:
        raise DataError(f"{folder} is not whole", f"{short[0]} is short or not there", "every shard")
    tensors = [n for n, each in index.state_dict_metadata.items() if isinstance(each, TensorStorageMetadata)]
    names = {str(paths[n][-1]): n for n in tensors if len(paths[n]) == 1 or paths[n][-2] == "model"}
    if not names:
        raise DataError(f"{folder} holds no model", "shards of an optimizer or of something else", todo=_TODO)
    if any("lora_" in name for name in names):
        raise DataError(f"{folder} holds an adapter in shards", "no adapter in PEFT's format", todo=_TODO)
    return index, names


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        found = getattr(torch, name, None) if module == "torch" else None
        if isinstance(found, torch.dtype) or (found is torch.Size):
            return found
        if "." not in name and (module == _METADATA or name in _OTHERS.get(module, ())):
            found = super().find_class(module, name)
            if module != _METADATA or (isinstance(found, type) and found.__module__ == module):
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")


def _merge(folder: Path, checkpoint: Path, base: Callable[[], str] | None, into: Path) -> None:
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    index, names = check_shards(folder)

    class Reader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Any:
            return index

    own = (checkpoint / "config.json").is_file()
    if not own and base is None:
        todo = "name the base, whose config it then has: --base MODEL"
        raise DataError(f"{checkpoint} has no config.json", "shards alone", "a config, or a base", todo)
    try:
        known = index.state_dict_metadata
        loaded = {n: torch.empty(known[n].size, dtype=known[n].properties.dtype) for n in names.values()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that one process alone loads, which is meant
            load(loaded, storage_reader=Reader(folder), no_dist=True)
        _save(str(checkpoint) if own or base is None else base(), {name: loaded[n] for name, n in names.items()}, into)
    except TruingError:
        raise
    except Exception as error:
        raise DataError(f"the shards in {folder} cannot be merged", f"{type(error).__name__}: {error}") from error
    for pattern in ("chat_template*", "tokenizer*", "special_tokens_map.json", "generation_config.json"):
        for file in checkpoint.glob(pattern):
            shutil.copy(file, into)


def _save(source: str, tensors: dict[str, Any], into: Path) -> None:
    """Save weights as `transformers` does, what it ties once; all of them fit the model, and it lacks none."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from truing.core.adapters import no_progress_bars, without_global_rng

    with torch.device("meta"), without_global_rng():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, trust_remote_code=False))
    fit = model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    held = model.state_dict()
    absent = [name for name, tensor in held.items() if tensor.is_meta]
    apart = [name for name in tensors if name in held and not torch.equal(held[name], tensors[name])]
    for words, found in (("are not there", absent), ("are not the model's", fit.unexpected_keys), ("differ", apart)):
        if found:
            raise DataError(f"weights in shards {words}", f"{len(found)}, first {min(found)}", f"those of {source}")
    with no_progress_bars():
        model.save_pretrained(into)
    (into / "generation_config.json").unlink(missing_ok=True)
