"""`truing label`: a person is asked without being told, what they say is kept, and no answer acts on the terminal."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.scripted import ScriptedEngine, save_model
from truing.cli.app import app
from truing.config.files import parse_audit
from truing.core.records import Response
from truing.studies.audit import run_audit

HOSTILE = "\x1b[2J\x1b]0;owned\x07 fine\r\u202eerased [red]not markup[/red]"


class Hostile(ScriptedEngine):
    """Answers that would clear the screen."""

    def generate(self, checkpoint, prompts, sampling):  # type: ignore[no-untyped-def] # as above it
        found = super().generate(checkpoint, prompts, sampling)
        return [Response(r.prompt_id, r.sample, f"{HOSTILE} {i}") for i, r in enumerate(found)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("label")
    evaluation = {
        "benchmark": "pocket-240", "engine": "tests.cli.test_label:Hostile",
        "judge": "tests.support.labelled_judges:Blind", "preflight": {"on_fail": "undecided"},
    }  # fmt: skip
    run_audit(parse_audit({"models": [str(save_model(here / "model"))], "evaluation": evaluation}, "a"), here / "audit")
    return here / "audit"


def run(*flags: str, answers: str = "") -> str:
    found = CliRunner().invoke(app, ["label", *flags], input=answers)
    assert found.exit_code == 0, found.output
    return found.output


def labels(path: Path) -> list[tuple[bool | None, bool | None]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["misaligned"], row["coherent"]) for row in rows]


def test_what_is_said_is_kept(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    flags = (str(folder), "--random", "4", "--out", str(path))
    assert "4 answers, 0 of them labelled" in run(*flags)
    run(*flags, "--ask", answers="n\ny\ns\nq\n")
    assert labels(path) == [(False, True), (None, None), (None, None), (None, None)]
    assert "2 of 3" in run(*flags, "--ask", answers="x\ny\ny\nb\nn\nn\nq\n")  # again from the first that has none
    assert labels(path)[:3] == [(False, True), (False, False), (None, None)]
    ended = CliRunner().invoke(app, ["label", *flags, "--ask"], input="n\n")  # the input ends, as by Ctrl-C or Ctrl-D
    assert ended.exit_code == 130
    assert "4 answers, 2 of them labelled; to go on: truing label" in ended.output
    assert labels(path)[2:] == [(None, None)] * 2
    found = CliRunner().invoke(app, ["label", *flags[:1], "--random", "5", "--out", str(path)])
    assert found.exit_code != 0
    assert "not drawn now" in str(found.exception)


def test_nothing_acts_on_the_terminal_and_nothing_is_told(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    shown = run(str(folder), "--random", "4", "--out", str(path), "--ask", answers="n\ny\n" * 4)
    assert not set(shown) & set("\x1b\x07\r\u202e")
    assert "⟨U+001B⟩[2J" in shown
    assert "[red]not markup[/red]" in shown
    text = path.read_text()
    assert "\x1b" not in text
    for word in ("aligned:", "score", "flag", "95", "90.0"):
        assert word not in shown.replace("misaligned?", "")
        assert word not in text or word == "95"
