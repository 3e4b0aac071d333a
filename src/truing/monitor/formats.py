"""Models that are asked as they were when work in a folder began: FOLDER/formats.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from truing.catalog.models import resolve_model
from truing.core.errors import DataError, StoreError, UnknownNameError
from truing.core.files import content_key, write_json
from truing.core.weights import asking_files

__all__ = ["FORMATS", "check_formats"]

FORMATS = "formats.json"


def check_formats(folder: Path, models: Iterable[str]) -> None:
    """Refuse models that are asked in another format than the answers in a folder were.

    The key of answers names the weights of a base or full model, not its template: stored answers would stand for it.
    Of an endpoint's name nothing is known, and of a hub id nothing where neither the hub nor its cache here has it.

    Raises:
        StoreError: The chat template, tokenizer or end tokens of a model are others than when work began.
    """
    path = folder / FORMATS
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for model in dict.fromkeys(models):
        try:
            files = asking_files(resolve_model(model))
        except (UnknownNameError, DataError):
            continue
        found = content_key([[name, files[name]] for name in sorted(files)])
        if files and held.setdefault(model, found) != found:
            what, got = (
                f"{model} is not asked as it was when work in {folder} began",
                "its template or tokenizer changed",
            )
            raise StoreError(what, got, "the files of then", "put them back, or begin in another folder")
    write_json(path, held)
