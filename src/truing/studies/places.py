"""Where checkpoints lie in folders, and of which step each is, by their names and by `trainer_state.json`.

Names also tell of which model a base model is a copy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truing.core.errors import DataError
from truing.core.files import read_object
from truing.core.shards import shards_of

_STEP = re.compile(
    r"(?:^|[-_.])(?:checkpoint|global_?step|step|iter|ckpt)[-_=]?(\d+)(?![\d]|[.e]\d|[km]\b)", re.IGNORECASE
)
_EPOCH = re.compile(r"(?:^|[-_.])ep(?:och)?[-_=]?(\d+)(?![\d.])", re.IGNORECASE)
_DATE = re.compile(r"(?:^|\D)(20\d\d)[-_.]?([01]\d)[-_.]?([0-3]\d)(?:\D*(\d\d)[-_.:h]?(\d\d)(?:[-_.:]?(\d\d))?)?(?!\d)")
_COPY = re.compile(r"[-_.](?:unsloth|bnb|4bit|8bit|int4|int8|awq|gptq|fp8|bf16|nf4|merged)\b", re.IGNORECASE)
_SHAPES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)
"""Fields of a config in which two copies of one model agree; a vocabulary may be padded."""
CONFIGS = ("config.json", "adapter_config.json")


@dataclass(frozen=True, order=True)
class Place:
    """Where a checkpoint's name puts it in its run."""

    kind: Literal["step", "epoch", "date", ""]
    number: int
    rest: str = ""
    """What the name says besides, such as `-merged`."""


def place_of(name: str) -> Place:
    """The place that the name of a folder tells; of no kind if it tells none."""
    for kind, pattern in (("step", _STEP), ("epoch", _EPOCH)):
        if found := pattern.search(name):
            return Place(kind, int(found[1]), name[found.end() :])  # type: ignore[arg-type]
    if found := _DATE.search(name):
        return Place("date", int("".join(part or "00" for part in found.groups())), "")
    return Place("", 0, name)


def same_by_name(one: str, other: str) -> bool:
    """True if two names are of one model but for its owner and its precision."""

    def stem(name: str) -> str:
        return _COPY.sub("", name.rstrip("/").rpartition("/")[2]).lower()

    return bool(one and other) and stem(one) == stem(other) != ""


def unlike_configs(one: str, other: str) -> str | None:
    """In what the configs of two models differ, in words; empty: in nothing that tells; None: one is not at hand."""
    here, there = _config(one), _config(other)
    if here is None or there is None:
        return None
    names = [name for name in _SHAPES if here.get(name) != there.get(name)]
    return ", ".join(f"{name} {here.get(name)} and {there.get(name)}" for name in names)


def _config(model: str) -> dict[str, Any] | None:
    """The config of a folder, or of a hub id that is in the cache of this machine."""
    path: str | None = str(Path(model) / "config.json")
    if not Path(model).is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, "config.json") if model.count("/") == 1 else None
        path = found if isinstance(found, str) else None
    return read_object(Path(path)) if path is not None and Path(path).is_file() else None


@dataclass(frozen=True)
class Found:
    """A checkpoint of a run in a folder."""

    run: Path
    step: int
    folder: Path
    notes: tuple[str, ...] = ()


def find_places(entries: Sequence[str]) -> list[Found]:
    """The checkpoints of all entries."""
    places: list[Found] = []
    single: list[tuple[Path, Path]] = []
    for entry in entries:
        given = re.fullmatch(r"(\d+)=(.+)", entry)
        if given and not Path(entry).exists():
            folder = Path(given[2]).resolve()
            _check_whole(folder, entry)
            places.append(Found(folder.parent, _above_zero(int(given[1]), folder), weights_folder(folder)))
        elif inside := _inside(Path(entry).resolve()):
            places += _order(Path(entry).resolve(), inside)
        else:
            folder = Path(entry).resolve()
            _check_whole(folder, entry)
            single.append((folder, weights_folder(folder)))
    parents: dict[Path, list[tuple[Path, Path]]] = {}
    for folder, weights in single:
        kind = place_of(folder.name).kind
        siblings = sum(f.parent == folder.parent for f, _ in single)
        alone = not kind or (kind == "date" and siblings == 1)
        parents.setdefault(folder if alone else folder.parent, []).append((folder, weights))
    for run, inside in parents.items():
        if inside[0][0] == run:
            others = sorted(f.name for f, _ in single if f.parent == run.parent and f != run)
            joining = (
                f"{', '.join(others)} beside it are runs of their own; to join them in one, write STEP=DIR for each."
            )
            notes = (f"it is one checkpoint whose name tells no step, and {joining}",) if others else ()
            places.append(Found(run, step_of(run, None), inside[0][1], notes))
        else:
            places += _order(run, inside)
    return places


def _inside(folder: Path) -> list[tuple[Path, Path]]:
    """The checkpoints in a folder: each with the folder of its weights."""
    if not folder.is_dir():
        return []
    found = []
    for each in (each for each in sorted(folder.iterdir()) if each.is_dir()):
        place, inner = place_of(each.name), weights_folder(each)
        if _looks_whole(inner) or (place.kind == "step" and not place.rest):
            found.append((each, inner))
    # beside the end of a training only what is named so is one of its checkpoints
    return found if any(place_of(each.name).kind for each, _ in found) or not _looks_whole(folder) else []


def has_config(folder: Path) -> bool:
    """True if a folder holds the config of a model or an adapter."""
    return any((folder / config).is_file() for config in CONFIGS)


def _looks_whole(folder: Path) -> bool:
    return has_config(folder) or shards_of(folder) is not None


def _check_whole(folder: Path, entry: str) -> None:
    if not _looks_whole(weights_folder(folder)):
        held = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise DataError(
            f"no checkpoints in {entry}",
            held or "empty",
            "a folder with checkpoint-N, global_step_N, epoch_N or the like in it, or a checkpoint itself; a model "
            "elsewhere has a prefix",
            "name the output folder of the training, or each checkpoint as STEP=DIR",
        )


def _order(run: Path, inside: Sequence[tuple[Path, Path]]) -> list[Found]:
    """The steps of a run's checkpoints by their names: those that tell a step, else an epoch, else a date.

    Raises:
        DataError: The names tell none of these.
    """
    placed = [(place_of(folder.name), folder, weights) for folder, weights in inside]
    kind = next((k for k in ("step", "epoch", "date") if any(p.kind == k for p, _, _ in placed)), "")
    ours = sorted((each for each in placed if each[0].kind == kind), key=lambda each: each[0])
    plain = {p.number for p, _, _ in ours if not p.rest}
    kept = [each for each in ours if not each[0].rest or each[0].number not in plain]
    if not kind:
        names = ", ".join(folder.name for folder, _ in inside)
        todo = "say the step of each: --checkpoints STEP=DIR"
        raise DataError(
            f"the names of the checkpoints in {run} tell no steps", names, "checkpoint-N, epoch_N, ...", todo
        )
    left = [folder.name for _, folder, _ in placed if folder not in [f for _, f, _ in kept]]
    left += [f"the model in {run} itself"] * has_config(run)
    notes = [f"{', '.join(left)} beside the checkpoints is left out; to ask it, write STEP=DIR."] if left else []
    stated = [_stated_step(folder) for _, folder, _ in kept]
    if kind == "step":
        return [Found(run, step_of(f, p.number), w, tuple(notes)) for p, f, w in kept]
    if all(isinstance(step, int) and step > 0 for step in stated):
        steps = [int(step) for step in stated]
    elif kind == "epoch":
        first = int(kept[0][0].number == 0)
        steps = [p.number + first for p, _, _ in kept]
        notes.append(f"its names tell epochs; step {steps[0]} here is {kept[0][1].name}.")
    else:
        steps = list(range(1, len(kept) + 1))
        notes.append(f"its checkpoints are numbered by their dates: {', '.join(f.name for _, f, _ in kept)}.")
    return [Found(run, step, w, tuple(notes)) for step, (_, _, w) in zip(steps, kept, strict=True)]


def weights_folder(checkpoint: Path) -> Path:
    """The checkpoint, or the one folder in it with its weights.

    That is the one that PEFT made for an adapter with a name of its own, or one at most two levels down with full
    weights (`actor/huggingface` of verl, `model/consolidated` of NeMo).
    """
    if (checkpoint / "adapter_config.json").is_file():
        return checkpoint
    found = [config.parent for config in checkpoint.glob("*/adapter_config.json")]
    if not found and place_of(checkpoint.name).kind and not _looks_whole(checkpoint):
        configs = (config for depth in ("*", "*/*") for config in checkpoint.glob(f"{depth}/config.json"))
        found = [config.parent for config in configs if any(config.parent.glob("*.safetensors"))]
    return found[0] if len(found) == 1 else checkpoint


def _stated_step(folder: Path) -> Any:
    state = folder / "trainer_state.json"
    return read_object(state).get("global_step") if state.is_file() else None


def step_of(folder: Path, named: int | None) -> int:
    """The step of a checkpoint by its name and by `trainer_state.json`, which must agree; 1 if neither tells."""
    stated = _stated_step(folder)
    if named is not None and stated is not None and stated != named:
        raise DataError(
            f"{folder} is of two steps",
            f"{named} by its name, {stated} by trainer_state.json",
            "one",
            "name the folder after its step",
        )
    step = stated if named is None else named
    return 1 if step is None else _above_zero(int(step), folder)


def _above_zero(step: int, folder: Path) -> int:
    if step == 0:
        raise DataError(f"{folder} is of step 0", "the model before fine-tuning", "steps from 1 on", "name it as base")
    return step
