import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from truing.catalog.models import parameters_of, resolve_model
from truing.core.errors import DataError, UnknownNameError
from truing.core.weights import adapter_hash, count_parameters, model_hash, tensors_hash

A, B = torch.arange(6.0).reshape(2, 3), torch.ones(2)


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": ["a", "b"], **settings}))
    return folder


def test_the_hash_is_of_contents_not_of_order_or_metadata() -> None:
    one = tensors_hash(save({"a": A, "b": B}, metadata={"x": "y"}))
    assert one == tensors_hash(save({"b": B, "a": A}))
    for other in ({"a": A + 1, "b": B}, {"a": A.reshape(3, 2), "b": B}, {"a": A, "c": B}, {"a": A.double(), "b": B}):
        assert tensors_hash(save(other)) != one


def test_an_adapter_s_hash_covers_base_tensors_and_scaling(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "x", {"a": A})
    plain = adapter_hash("base", folder)
    assert adapter_hash("other base", folder) != plain
    assert adapter_hash("base", adapter(tmp_path / "y", {"a": A}, target_modules=["b", "a"])) == plain
    assert adapter_hash("base", adapter(tmp_path / "y", {"a": A}, inference_mode=True)) == plain
    assert adapter_hash("base", adapter(tmp_path / "y", {"a": A}, lora_alpha=16)) != plain
    alphas = [adapter_hash("base", adapter(tmp_path / "y", {"a": A}, lora_alpha=a)) for a in (16, 16.0, 16.5)]
    assert alphas[0] == alphas[1] != alphas[2]
    assert adapter_hash("base", adapter(tmp_path / "y", {"a": A + 1})) != plain
    for same in ({"init_lora_weights": True}, {"init_lora_weights": "gaussian"}, {"layer_replication": None}):
        assert adapter_hash("base", adapter(tmp_path / "y", {"a": A}, **same)) == plain
    others = ({"init_lora_weights": "pissa_niter_4"}, {"layer_replication": [[0, 2], [1, 2]]}, {"use_dora": True})
    assert plain not in [adapter_hash("base", adapter(tmp_path / "y", {"a": A}, **other)) for other in others]


def test_only_safetensors_is_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="no safetensors"):
        model_hash(str(tmp_path))
    with pytest.raises(DataError, match="not an adapter"):
        adapter_hash("base", tmp_path)


def cached(hub: Path, owner_and_name: str, weights: str) -> None:
    """A model in the hub's cache, as it lies there: links to blobs that are named by their hashes."""
    folder = hub / f"models--{owner_and_name.replace('/', '--')}"
    snapshot = folder / "snapshots" / "c0ffee"
    for name, digest in (("config.json", "1" * 40), ("model.safetensors", weights), ("README.md", "3" * 40)):
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "blobs" / digest).write_text(name)
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(folder / "blobs" / digest)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c0ffee")


def test_a_hub_model_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="cannot tell which weights owner/absent has"):
        model_hash("owner/absent")
    cached(tmp_path, "owner/one", "a" * 64)
    cached(tmp_path, "owner/same", "a" * 64)
    cached(tmp_path, "owner/other", "b" * 64)
    assert model_hash("owner/one") == model_hash("owner/same") != model_hash("owner/other")


def test_model_names(tiny_model: Path) -> None:
    assert resolve_model(str(tiny_model)) == str(tiny_model)
    assert resolve_model("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"
    assert Path(resolve_model("pocket-llama-late"), "config.json").is_file()
    for wrong in ("pocket-lama-late", "./absent", "a/b/c", ""):
        with pytest.raises(UnknownNameError):
            resolve_model(wrong)


def test_parameters_are_counted_or_known(tiny_model: Path) -> None:
    assert parameters_of(str(tiny_model)) == count_parameters(str(tiny_model)) > 1000
    assert parameters_of("meta-llama/Llama-3.1-8B-Instruct") == pytest.approx(8.03e9, rel=0.01)
    assert math.isnan(parameters_of("some-endpoint-model"))
