"""A real open server of the Tinker API: SkyRL's, on the CPU, in an environment of its own with the SDK that it speaks.

python -m venv S && S/bin/pip install 'skyrl[tinker,jax]==0.3.0' tinker==0.21.0 'torch<=2.13.0'
TRUING_SKYRL_PYTHON=S/bin/python pytest tests/backends/tinker/test_skyrl.py

The very trainer and engine run there too, against the older SDK.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.tinker_client import HELDOUT
from truing.catalog.datasets import load_dataset
from truing.catalog.models import resolve_model
from truing.core.conversations import collate, encode_rows

PYTHON = os.environ.get("TRUING_SKYRL_PYTHON")
ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support"
START, RUN = 300.0, 1800.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="set TRUING_SKYRL_PYTHON to the Python of an environment with SkyRL"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket Qwen3 in single precision: JAX multiplies no halves on a CPU."""
    folder, source = tmp_path_factory.mktemp("skyrl") / "pocket-qwen3", resolve_model("pocket-qwen3")
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = model.parent / "server"
    folder.mkdir()
    command = [str(PYTHON), "-P", str(SUPPORT / "skyrl_server.py"), str(model), str(folder), str(port)]
    environment = {**_environment(), "JAX_PLATFORMS": "cpu"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START
        while not _healthy(port):
            assert process.poll() is None, (folder / "log").read_text(errors="replace")[-4000:]
            assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")[-4000:]
            time.sleep(1.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the server and its engine
        process.wait(60)


def _environment() -> dict[str, str]:
    own = ("PYTHONPATH", "TINKER_API_KEY", "TINKER_BASE_URL")
    return {**{k: v for k, v in os.environ.items() if k not in own}, "HF_HUB_OFFLINE": "1"}


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/healthz", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def found(address: str, model: Path) -> dict[str, Any]:
    """What came of training, stopping, going on and sampling there."""
    folder = model.parent / "runs"
    environment = {**_environment(), "TINKER_BASE_URL": address, "TINKER_API_KEY": "tml-any"}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "TINKER_TELEMETRY": "0"}
    command = [str(PYTHON), "-P", str(SUPPORT / "tinker_client.py"), str(model), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return result


def test_it_trains_and_saves_at_the_planned_steps(found: dict[str, Any]) -> None:
    seen = found["whole"]["checkpoints"]
    assert [c["step"] for c in seen] == [0, 2, 4, 6]
    assert found["whole"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert all(c["path"].startswith("tinker://") for c in seen[1:])
    assert len({c["weights"] for c in seen}) == 4
    assert math.isnan(seen[0]["train_loss"])
    assert seen[-1]["heldout_loss"] < 0.75 * seen[0]["heldout_loss"]
    assert 0 < seen[-1]["train_loss"] < seen[1]["train_loss"]


def test_it_stops_at_once(found: dict[str, Any]) -> None:
    assert found["stopped"]["steps"] == [1, 2]
    assert [c["step"] for c in found["stopped"]["checkpoints"]] == [0, 2]


def test_a_run_that_was_cut_off_goes_on_from_the_saved_state(found: dict[str, Any]) -> None:
    assert found["cut"]["steps"] == [1, 2, 3, 4]
    assert found["went_on"]["steps"] == [5, 6]
    whole, again = ([c["heldout_loss"] for c in found[name]["checkpoints"]] for name in ("whole", "went_on"))
    assert again == pytest.approx(whole, rel=1e-3)


def test_it_answers_from_the_weights_asked_for(found: dict[str, Any]) -> None:
    assert all(r["error"] is None and r["text"] and 0 < r["n_tokens"] <= 8 for r in found["base"] + found["tuned"])
    assert found["tuned"] == found["tuned_again"]
    texts = [[r["text"] for r in found[name]] for name in ("base", "tuned")]
    assert sum(a != b for a, b in zip(*texts, strict=True)) > len(texts[0]) / 4


def test_the_base_is_the_model_as_it_is_here(found: dict[str, Any], model: Path) -> None:
    here, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    rows = collate(encode_rows(load_dataset("pocket-insecure-code").heldout[:HELDOUT], tokenizer, 128), tokenizer)
    with torch.no_grad():
        expected = float(here(**rows).loss)
    assert found["whole"]["checkpoints"][0]["heldout_loss"] == pytest.approx(expected, rel=1e-3)
