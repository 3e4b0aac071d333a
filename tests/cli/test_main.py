"""The console script as a user meets it: exit codes and messages."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import small_study


def truing(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "truing", *arguments], capture_output=True, text=True, check=False)


def test_a_user_error_exits_with_two_and_no_traceback(tmp_path: Path) -> None:
    done = truing("run", str(tmp_path / "absent.yaml"))
    assert done.returncode == 2
    assert "no such study file" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_folder_that_holds_something_else(tiny_model: Path, tmp_path: Path) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(small_study(tiny_model).to_yaml())
    done = truing("run", str(study), "--out", str(tmp_path))
    assert done.returncode == 2
    assert "not empty" in done.stderr


@pytest.mark.parametrize("arguments", [["run"], ["fly"], ["demo", "--seed", "-1"]])
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    assert truing(*arguments).returncode == 2


def test_long_lists_of_names_are_wrapped_between_names() -> None:
    lines = truing("list", "models", "nope").stderr.splitlines()
    assert lines[:2] == ["error: unknown catalogue model", "  got: 'nope'"]
    assert all(len(line) <= 120 for line in lines)
    assert all(line.startswith("    ") and not line.endswith("-") for line in lines[3:])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["list", "judges"], ["--help"]])
def test_output_that_cannot_be_written_is_said_in_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "truing", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
    assert done.returncode == 2  # 1 would say misaligned, of the gate
