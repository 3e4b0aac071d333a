"""Checkpoints in folders: PEFT adapters and full weights, as Trainers save them.

What is read is `checkpoint-N` with `trainer_state.json`, `adapter_config.json` and `config.json`, and the tensors of
safetensors files for their hashes. Anything that does not fit together is an error before a model is asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from truing.catalog.models import list_organisms, resolve_model
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Checkpoint
from truing.core.weights import adapter_hash, model_hash

__all__ = ["FoundRun", "find_in_folders"]

_ADAPTER, _FULL = "adapters", "full weights"


@dataclass(frozen=True)
class FoundRun:
    """A run whose checkpoints exist already."""

    id: str
    model: str
    """The base model; where none is known, what the checkpoints are themselves."""
    checkpoints: tuple[Checkpoint, ...]
    """By ascending step, all above 0."""
    base: Checkpoint | None = None
    """Step 0, the model before fine-tuning; None if it is not known."""
    notes: tuple[str, ...] = ()
    """What is odd about it, in sentences."""

    @property
    def everything(self) -> tuple[Checkpoint, ...]:
        """The base, if it is known, and the checkpoints."""
        return self.checkpoints if self.base is None else (self.base, *self.checkpoints)


def find_in_folders(entries: Sequence[str], base: str | None) -> list[FoundRun]:
    """The runs in folders, in the order given.

    Args:
        entries: Folders with `checkpoint-N` in them, each a run; or such folders themselves, those of one parent a run.
        base: The model before fine-tuning; None: the one that adapters name.

    Raises:
        DataError: A folder holds no checkpoints, or they are not whole, not safe, or do not belong together.
        UnknownNameError: No model of the base's name.
    """
    grouped: dict[Path, dict[int, Path]] = {}
    for entry in entries:
        for run, step, folder in _checkpoints_in(Path(entry)):
            grouped.setdefault(run, {})[step] = folder
    names = [run.name for run in grouped]
    return [
        _found(run.name if names.count(run.name) == 1 else str(run), run, dict(sorted(steps.items())), base)
        for run, steps in grouped.items()
    ]


def _checkpoints_in(folder: Path) -> list[tuple[Path, int, Path]]:
    """The run's folder, the step and the folder of each checkpoint."""
    whole = folder.resolve()
    inside = [(number, each) for each in sorted(whole.glob("checkpoint-*")) if (number := _number(each)) is not None]
    if inside:
        return [(whole, _step(each, number), _weights_folder(each)) for number, each in inside]
    if not any((whole / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise DataError(
            f"no checkpoints in {folder}",
            "no such folder"
            if not whole.is_dir()
            else ", ".join(sorted(f.name for f in whole.iterdir())[:8]) or "empty",
            "a folder with checkpoint-N in it, or a checkpoint itself; models at an endpoint are openai:NAME",
            "name the output folder of the training",
        )
    step = _step(whole, _number(whole))
    return [(whole.parent if _number(whole) is not None else whole, step, whole)]


def _weights_folder(checkpoint: Path) -> Path:
    """The checkpoint, or the one folder in it that PEFT made for an adapter with a name of its own."""
    named = [config.parent for config in checkpoint.glob("*/adapter_config.json")]
    return named[0] if len(named) == 1 and not (checkpoint / "adapter_config.json").is_file() else checkpoint


def _number(folder: Path) -> int | None:
    found = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(found[1]) if found else None


def _step(folder: Path, named: int | None) -> int:
    """The step of a checkpoint by its name and by `trainer_state.json`, which must agree; 1 if neither tells."""
    state = folder / "trainer_state.json"
    stated = _read(state).get("global_step") if state.is_file() else None
    if named is not None and stated is not None and stated != named:
        raise DataError(
            f"{folder} is of two steps",
            f"{named} by its name, {stated} by trainer_state.json",
            "one",
            "name the folder after its step",
        )
    step = stated if named is None else named
    if step == 0:
        raise DataError(f"{folder} is of step 0", "the model before fine-tuning", "steps from 1 on", "name it as base")
    return 1 if step is None else int(step)


def _found(run_id: str, run: Path, folders: dict[int, Path], base: str | None) -> FoundRun:
    kinds = {step: _kind(folder) for step, folder in folders.items()}
    if len(set(kinds.values())) > 1:
        raise DataError(
            f"{run} holds adapters and full weights",
            ", ".join(f"checkpoint-{step}: {kind}" for step, kind in kinds.items()),
            "checkpoints of one kind in a run",
            "keep the two kinds in folders of their own",
        )
    if set(kinds.values()) == {_ADAPTER}:
        return _adapters(run_id, run, folders, base)
    source = None if base is None else resolve_model(base)
    found = tuple(
        _with_losses(_full(run_id, step, folder, base), folder / "checkpoint.json") for step, folder in folders.items()
    )
    before = None
    if base is not None and source is not None:
        before = _with_losses(Checkpoint(run_id, base, 0, model_hash(source)), run / "step-0.json")
    return FoundRun(run_id, base or str(run), found, before, _copies(run_id, found))


def _adapters(run_id: str, run: Path, folders: dict[int, Path], base: str | None) -> FoundRun:
    named = {str(_read(f / "adapter_config.json").get("base_model_name_or_path") or "") for f in folders.values()}
    if len(named) > 1:
        raise DataError(f"the adapters in {run} sit on different base models", ", ".join(sorted(named)), "one")
    model, notes = _agreed(base, named.pop(), run)
    weights = model_hash(resolve_model(model))
    found = tuple(
        _with_losses(
            Checkpoint(run_id, model, step, adapter_hash(weights, folder), str(folder)), folder / "checkpoint.json"
        )
        for step, folder in folders.items()
    )
    before = _with_losses(Checkpoint(run_id, model, 0, weights), run / "step-0.json")
    return FoundRun(run_id, model, found, before, (*notes, *_copies(run_id, found)))


def _full(run_id: str, step: int, folder: Path, base: str | None) -> Checkpoint:
    """With its own tokenizer and chat template where it has them, else with those of the base."""
    weights = model_hash(str(folder))
    if (folder / "tokenizer_config.json").is_file():
        return Checkpoint(run_id, str(folder), step, weights)
    if base is None:
        raise DataError(
            f"{folder} has no tokenizer",
            "full weights alone",
            "a tokenizer beside the weights, or that of the base model",
            "name the base: --base MODEL",
        )
    return Checkpoint(run_id, base, step, weights, str(folder))


def _kind(folder: Path) -> str:
    adapter = (folder / "adapter_config.json").is_file()
    wanted = ["adapter_model.safetensors"] if adapter else ["*.safetensors"]
    if any(True for name in wanted for _ in folder.glob(name)) and (adapter or (folder / "config.json").is_file()):
        return _ADAPTER if adapter else _FULL
    pickled = sorted(f.name for f in folder.glob("*.bin") if f.name != "training_args.bin")
    raise DataError(
        f"{folder} holds no weights that can be read safely",
        ", ".join(pickled) or "no weights: the saving was cut short, or they are sharded over processes",
        "adapter_config.json with adapter_model.safetensors, or config.json with *.safetensors",
        "save with safetensors (a .bin file can run code when it is loaded), or remove the folder",
    )


def _agreed(given: str | None, named: str, run: Path) -> tuple[str, tuple[str, ...]]:
    """The base model of adapters, and what is to be said if what was given and what they name cannot be compared.

    Raises:
        DataError: They are two models, or neither is known.
    """
    try:
        theirs = resolve_model(named)
    except UnknownNameError:
        theirs = None
    if given is None:
        if theirs is None:
            raise DataError(
                f"the base model of the adapters in {run} is not here",
                named or "adapter_config.json names none",
                "a folder on this machine, a hub id, a name from `truing list models`",
                "name it: --base MODEL",
            )
        return next((name for name, folder in list_organisms().items() if str(folder) == theirs), named), ()
    ours = resolve_model(given)
    if ours == theirs:
        return given, ()
    here = [Path(source).is_dir() for source in (ours, theirs or "")]
    if theirs is None or here[0] != here[1]:
        return given, (f"The adapters in {run} name {named} as their base, which could not be compared with {given}.",)
    if here[0] and model_hash(ours) == model_hash(theirs):
        return given, ()
    raise DataError(
        f"the adapters in {run} sit on another base model",
        f"--base {given}, but adapter_config.json names {named}",
        "the model that they were trained on",
        "leave --base out, or mend base_model_name_or_path",
    )


def _copies(run_id: str, found: Sequence[Checkpoint]) -> tuple[str, ...]:
    """What is to be said of checkpoints with the same weights."""
    steps: dict[str, list[int]] = {}
    for checkpoint in found:
        steps.setdefault(checkpoint.weights, []).append(checkpoint.step)
    return tuple(
        f"Run {run_id}: the checkpoints of steps {', '.join(map(str, same))} have the same weights: nothing was "
        f"trained between them, or a file was copied."
        for same in steps.values()
        if len(same) > 1
    )


def _with_losses(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """With the losses that a study wrote beside the checkpoint, if it did."""
    values = _read(path) if path.is_file() else {}
    train, heldout = (values.get(name) for name in ("train_loss", "heldout_loss"))
    return replace(
        checkpoint,
        train_loss=math.nan if train is None else float(train),
        heldout_loss=math.nan if heldout is None else float(heldout),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON", str(error), "an object", "save the checkpoint again") from error
    return values if isinstance(values, dict) else {}
