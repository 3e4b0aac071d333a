"""The program that runs the cases, on a folder of invented ones."""

from pathlib import Path

import pytest

from tests.cases import CHECKS, Case, Check, run_cases
from tests.cases.__main__ import main


def test_cases_are_right_wrong_or_without_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("90-right", "91-code", "92-words", "93-none", "_lib"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.txt").write_text(name)

    def says(at: Case, exit: int = 0, word: str = "90") -> None:
        at.python("open('out/x', 'w'); print(open('file.txt').read())", exit=exit, says=[word], lacks=["none"])

    for name, check in {
        "90-right": says,
        "91-code": lambda at: says(at, exit=2),
        "92-words": lambda at: says(at, word="no such word"),
    }.items():
        monkeypatch.setitem(CHECKS, name, Check("the words", check))
    found = {result.name: result for result in run_cases(tmp_path)}
    assert {name: result.verdict for name, result in found.items()} == {
        "90-right": "right", "91-code": "WRONG", "92-words": "WRONG", "93-none": "no check",
    }  # fmt: skip
    assert found["90-right"].got == "90-right"
    assert "exit code 0, not 2" in found["91-code"].why
    assert "no such word" in found["92-words"].why
    assert not (tmp_path / "90-right" / "out").exists()
    assert [result.name for result in run_cases(tmp_path, ["92"])] == ["92-words"]


def test_a_folder_that_is_not_there_is_skipped_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cases", str(tmp_path / "nowhere")])
    assert main() == 0
    assert "nothing was run" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["cases", str(tmp_path)])
    assert main() == 1
