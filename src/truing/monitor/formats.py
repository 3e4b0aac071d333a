"""Models that are asked as they were when work in a folder began, weights as they were saved: FOLDER/formats.json."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from truing.catalog.models import resolve_model
from truing.core.errors import DataError, StoreError, UnknownNameError
from truing.core.files import content_key, read_object, write_json
from truing.core.templates import is_asked_alike
from truing.core.weights import asking_files

__all__ = ["FORMATS", "check_formats", "ends_otherwise", "note_ends", "otherwise"]

FORMATS = "formats.json"


def check_formats(folder: Path, models: Iterable[str], must_write: bool = True) -> None:
    """Refuse models that are asked in another format than the answers in a folder were.

    The key of answers names the weights of a base or full model, not its template: stored answers would stand for it.
    Of an endpoint's name nothing is known, and of a hub id nothing where neither the hub nor its cache here has it.

    Args:
        folder: Where they are written down.
        models: Names, folders or hub ids.
        must_write: False where a folder that cannot be written is none of the caller's errors.

    Raises:
        StoreError: The chat template, tokenizer or end tokens of a model are others than when work began.
    """
    held = _read(folder)
    for model in dict.fromkeys(models):
        try:
            files = asking_files(resolve_model(model))
        except (UnknownNameError, DataError):
            continue
        found = _key(files)
        if files and held.setdefault(model, found) != found:
            what, got = (
                f"{model} is not asked as it was when work in {folder} began",
                "its template or tokenizer changed",
            )
            raise StoreError(what, got, "the files of then", "put them back, or begin in another folder")
    with nullcontext() if must_write else suppress(StoreError):
        write_json(folder / FORMATS, held)


def otherwise(folder: Path, model: str, place: Path | None) -> str:
    """Why a model in `place` is not asked as `model` was when work in a folder began; empty: it is, or nobody knows.

    `place` is a folder with a tokenizer, or None: the model's own.
    """
    then = _read(folder).get(model)
    if then is None or (place and _key(asking_files(str(place))) == then):
        return ""
    here, source = str(place or model), None
    with suppress(UnknownNameError):
        source = resolve_model(model)
        if not Path(source).is_dir() and place is None:  # on the hub
            return ""
    if source is None or not Path(source).is_dir():
        return "" if place is None else f"{here}: its tokenizer cannot be compared with that of {model}, which is away"
    if _key(asking_files(source)) != then:
        return f"{here} is not asked as it was judged: chat template, tokenizer or end tokens are others now"
    if place is None or (is_asked_alike(source, str(place)) and _ends(source) == _ends(str(place))):
        return ""
    return f"{here} is not asked as {model} was: chat template, tokenizer or end tokens are others"


def note_ends(folder: Path, checkpoint: Path) -> None:
    """Write down which tokens end the answers of full weights that were just saved in FOLDER/checkpoints/STEP."""
    write_json(folder / FORMATS, {**_read(folder), f"checkpoints/{checkpoint.name}": _ends(str(checkpoint))})


def ends_otherwise(folder: Path, step: int, place: Path) -> str:
    """Why answers of a step's weights end otherwise in `place` than when they were saved; empty: they do not."""
    held = _read(folder)
    same = (name := f"checkpoints/{step}") not in held or held[name] == _ends(str(place))
    return "" if same else f"{place} is not asked as it was judged: other tokens end an answer now"


def _ends(source: str) -> Any:
    """The tokens that end an answer, as the model's files say."""
    paths = (Path(source) / name for name in ("generation_config.json", "config.json"))
    return next((read_object(path).get("eos_token_id") for path in paths if path.is_file()), None)


def _read(folder: Path) -> dict[str, Any]:
    return read_object(folder / FORMATS) if (folder / FORMATS).is_file() else {}


def _key(files: dict[str, str]) -> str:
    return content_key([[name, files[name]] for name in sorted(files)])
