"""Checkpoints in shards of FSDP and DCP, as accelerate writes them, in a watch and an audit."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from transformers import AutoModelForCausalLM

import truing
from tests.studies.test_watch import poll, watching
from truing.config import AuditConfig
from truing.core.errors import DataError
from truing.core.shards import Merged, check_shards
from truing.core.weights import model_hash
from truing.monitor import open_store
from truing.studies.audit import run_audit

EVALUATION: dict[str, Any] = {
    "benchmark": "pocket-facts",
    "judge": "pocket",
    "max_tokens": 4,
    "samples": 1,
    "confirm": False,
    "preflight": {"labelled": None},
}
ROWS = "SELECT key, prompt_id, sample, text FROM responses ORDER BY ALL"


def save(model: Path, run: Path, step: int) -> tuple[Path, Path]:
    """A checkpoint that was changed a little, in shards, and the same whole in a run beside it."""
    changed = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        changed.model.layers[0].mlp.up_proj.weight += step / 1000
    at, whole = run / f"checkpoint-{step}", run.with_name("whole") / f"checkpoint-{step}"
    for name, state in (("pytorch_model_fsdp_0", {"model": changed.state_dict()}), ("optimizer_0", {"optimizer": {}})):
        dcp.save(state, storage_writer=dcp.FileSystemWriter(at / name), no_dist=True)
    changed.save_pretrained(whole)
    return at, whole


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_are_asked_as_the_whole_weights(tiny_model: Path, tmp_path: Path) -> None:
    at, whole = save(tiny_model, tmp_path / "shards", 10)
    base = {"base": str(tiny_model), "evaluation": EVALUATION}
    index = at / "pytorch_model_fsdp_0/.metadata"
    index.rename(tmp_path / "index")
    with watching(tmp_path / "shards", tmp_path / "watch", **base) as (watch, told):
        poll(watch)
        assert "which is saved last" in told[0]
        shutil.copy(tmp_path / "index", index)
        poll(watch)
        record = watch.state.seen["checkpoint-10"].record
        assert record is not None
        assert (record.weights, record.path) == (model_hash(str(whole)), str(at))
    assert not list((tmp_path / "watch").glob(".merged-*"))
    for name in ("shards", "whole"):
        raw = {"name": name, "checkpoints": [str(tmp_path / name)], **base}
        run_audit(AuditConfig.model_validate(raw), tmp_path / f"audit-{name}")
    folders = ("watch", "audit-shards", "audit-whole")
    assert "checkpoint-10 holds these weights" in str(truing.load(tmp_path / "audit-shards").verdict().runs[0])
    rows = [open_store(tmp_path / folder).query(ROWS) for folder in folders]
    assert rows[0] == rows[1] == rows[2] != []


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_that_are_not_a_whole_model_are_told(tiny_model: Path, tmp_path: Path) -> None:
    at, _ = save(tiny_model, tmp_path / "shards", 10)
    shards, merged = at / "pytorch_model_fsdp_0", Merged(tmp_path / "out", None)
    with pytest.raises(DataError, match=r"has no config\.json"):
        merged.whole(at)
    with pytest.raises(DataError, match="holds no model"):
        check_shards(at / "optimizer_0")
    (data,) = shards.glob("*.distcp")
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="is short or not there"):
        check_shards(shards)
    for index in (pickle.dumps(Hostile()), pickle.dumps({"a": 1}), (shards / ".metadata").read_bytes()[:-9], b""):
        (shards / ".metadata").write_bytes(index)
        with pytest.raises(DataError, match="cannot be read"):
            check_shards(shards)
