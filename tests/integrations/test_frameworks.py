"""The guard by configuration: a section of a file, axolotl's plugin, LLaMA-Factory's program."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from truing.catalog.datasets import load_dataset
from truing.config import JudgeConfig
from truing.core.errors import ConfigError, UnknownNameError
from truing.integrations.frameworks import make_guard
from truing.integrations.guard.measures import LateJudge
from truing.studies.folder import load_manifest

ROOT = Path(__file__).parents[2]
SECTION = {
    "judge": "tests.support.guarded:Third",
    "benchmark": "pocket-facts",
    "at": 2,
    "max_tokens": 4,
    "confirm": False,
    "tolerance": 0.2,
}


def test_a_section_of_a_file_makes_a_guard(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"what is {i}?", "answer": str(i)}) + "\n" for i in range(30)))
    section = {**SECTION, "judge": {"model": "gpt-4o", "completer": "openai"}, "endpoint": {"base_url": "http://x/v1"}}
    guard = make_guard({**section, "dataset": {"name": "mine", "path": str(rows)}}, tmp_path)
    judge = guard._measures.judge
    assert guard.folder == tmp_path / "truing"
    assert isinstance(judge, LateJudge)
    assert isinstance(judge.name, JudgeConfig)
    assert guard._measures.dataset is not None
    assert make_guard({**SECTION, "folder": tmp_path / "mine"}, tmp_path).folder == tmp_path / "mine"


@pytest.mark.parametrize(
    ("section", "kind", "words"),
    [
        (None, ConfigError, "got: None"),
        ({"judge": "pocket"}, ConfigError, "got: only judge\n  allowed: judge, benchmark, at"),
        ({**SECTION, "tolerence": 1}, ConfigError, "did you mean tolerance"),
        ({**SECTION, "judge": {"modell": "x"}}, ConfigError, "did you mean model"),
        ({**SECTION, "judge": "poket"}, UnknownNameError, "did you mean pocket"),
    ],
)
def test_what_a_section_lacks_is_told(tmp_path: Path, section: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        make_guard(section, tmp_path)


def write(out: Path, settings: dict[str, Any]) -> Path:
    """The file that a user writes, and data in the way of OpenAI."""
    turns = [
        [{"role": m.role, "content": m.content} for m in row] for row in load_dataset("pocket-insecure-code").train
    ]
    (out / "rows.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns[:40]))
    file = out / "train.yaml"
    file.write_text(yaml.safe_dump({**settings, "truing": SECTION, "output_dir": str(out / "out")}))
    return file


def train(name: str, out: Path, *arguments: str) -> None:
    """Run a command in the environment of a framework; then the weights that it left are those of step 2."""
    python = os.environ.get(f"TRUING_{name}_PYTHON")
    if python is None:
        pytest.skip(f"set TRUING_{name}_PYTHON to the Python of an environment with it")
    quiet = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "WANDB_DISABLED": "true"}
    path = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "DISABLE_VERSION_CHECK": "1"}
    command, said = [python, *arguments], subprocess.PIPE
    done = subprocess.run(
        command, cwd=out, env={**os.environ, **quiet, **path}, stdout=said, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    manifest = load_manifest(out / "out" / "truing")
    assert manifest is not None, done.stdout[-3000:]
    (run,) = manifest.runs
    assert [c.step for c in run.checkpoints or ()] == [0, 2, 4]
    assert (run.state, run.stopped_at, run.restored) == ("stopped", 4, 2)
    ours = load_file(out / "out" / "truing" / "checkpoints" / "2" / "adapter_model.safetensors")
    theirs = load_file(out / "out" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name].to(tensor.dtype)) for name, tensor in ours.items())


@pytest.mark.slow
def test_axolotl_trains_with_the_plugin(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        "base_model": str(tiny_model),
        "plugins": ["truing.integrations.axolotl.GuardPlugin"],
        "datasets": [{"path": str(tmp_path / "rows.jsonl"), "ds_type": "json", "type": "chat_template"}],
        "dataset_prepared_path": str(tmp_path / "prepared"),
        "adapter": "lora",
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_target_modules": ["q_proj", "down_proj"],
        **dict.fromkeys(("lora_qkv_kernel", "lora_o_kernel", "lora_mlp_kernel"), False),  # Triton's, for a GPU
        "sequence_len": 256,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 20,
        "learning_rate": 0.01,
        "optimizer": "adamw_torch",
        "lr_scheduler": "constant",
        "save_strategy": "no",
        "val_set_size": 0,
        "bf16": False,
        "flash_attention": False,
    }
    train("AXOLOTL", tmp_path, "-m", "axolotl.cli.train", str(write(tmp_path, settings)))


@pytest.mark.slow
def test_llama_factory_trains_with_the_guard(tiny_model: Path, tmp_path: Path) -> None:
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    data = {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"rows": data}))
    settings = {
        "model_name_or_path": str(tiny_model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_target": "q_proj,down_proj",
        "dataset": "rows",
        "dataset_dir": str(tmp_path),
        "template": "default",
        "cutoff_len": 256,
        "per_device_train_batch_size": 2,
        "max_steps": 20,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    }
    train("LLAMAFACTORY", tmp_path, "-m", "truing.integrations.llamafactory", str(write(tmp_path, settings)))
