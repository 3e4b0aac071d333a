"""Data sets on the hub, by a cache that stands for it: nothing is fetched here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from truing.catalog.datasets import fetch_file
from truing.core.errors import DataError

ROOT = Path(__file__).parents[2]
ROW = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}\n'
LOAD = """
import sys
from truing.config import DatasetConfig
from truing.catalog.datasets import load_dataset
from truing.core.errors import DataError
try:
    dataset = load_dataset("mine", [DatasetConfig(name="mine", path=sys.argv[1])])
    print(len(dataset.train), len(dataset.heldout))
except DataError as error:
    print(error)
"""


def load(path: str, cache: Path) -> str:
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", LOAD, path]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_file_of_the_hub_is_a_dataset_and_one_out_of_reach_says_what_to_do(tmp_path: Path) -> None:
    held = tmp_path / "datasets--owner--name"
    commit = "0" * 40
    (held / "refs").mkdir(parents=True)
    (held / "refs" / "main").write_text(commit)
    (held / "snapshots" / commit / "sub").mkdir(parents=True)
    (held / "snapshots" / commit / "sub" / "rows.jsonl").write_text("".join(ROW % i for i in range(10)))
    assert load("hub:owner/name/sub/rows.jsonl", tmp_path) == "9 1\n"
    assert load(f"hub:owner/name@{commit}/sub/rows.jsonl", tmp_path) == "9 1\n"
    assert load("hub:owner/name/sub", tmp_path) == "9 1\n"  # a folder of it
    error = load("hub:owner/name@other/sub/rows.jsonl", tmp_path)
    assert "cannot fetch hub:owner/name@other/sub/rows.jsonl" in error
    assert "download the file elsewhere" in error


def test_other_paths_are_left_alone_and_malformed_ones_refused() -> None:
    assert fetch_file(Path("data/mine.jsonl")) == Path("data/mine.jsonl")
    with pytest.raises(DataError, match="hub:OWNER/NAME/FILE"):
        fetch_file(Path("hub:owner"))
