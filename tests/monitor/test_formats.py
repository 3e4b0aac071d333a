"""A folder's answers do not stand for a model that is asked otherwise."""

import shutil
from pathlib import Path

import pytest

from tests.core.test_weights import cached
from truing.core.errors import StoreError
from truing.monitor import Monitor
from truing.monitor.formats import check_formats


def test_a_monitor_made_from_names_refuses_another_template(tiny_model: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model, model)
    settings = {"judge": "pocket", "benchmark": "pocket-facts"}
    Monitor.from_names(out, str(model), **settings)
    Monitor.from_names(out, str(model), **settings)
    template = next(each for each in (model / "chat_template.jinja", model / "tokenizer_config.json") if each.is_file())
    template.write_bytes(template.read_bytes() + b" ")
    with pytest.raises(StoreError, match="is not asked as it was when work"):
        Monitor.from_names(out, str(model), **settings)


def test_of_a_hub_id_the_files_of_the_cache_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    check_formats(tmp_path, ["owner/unknown"])  # nothing is known of it
    cached(tmp_path, "owner/name", "weights")
    (snapshot,) = (tmp_path / "models--owner--name" / "snapshots").iterdir()
    blobs = tmp_path / "models--owner--name" / "blobs"
    for blob in ("one", "two"):
        (blobs / blob).write_text(blob, encoding="utf-8")
    link = snapshot / "tokenizer_config.json"
    link.symlink_to(blobs / "one")
    check_formats(tmp_path, ["owner/name"])
    check_formats(tmp_path, ["owner/name"])
    link.unlink()
    link.symlink_to(blobs / "two")
    with pytest.raises(StoreError, match="owner/name is not asked as it was"):
        check_formats(tmp_path, ["owner/name"])
