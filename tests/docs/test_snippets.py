"""Python in README and docs runs as it stands, and commands in them are commands of ours."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from truing.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [code for named, code in found if named == language]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.pin_memory.:UserWarning")
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trainer is that of docs/guard.md; its checkpoints are those that the guard kept."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks(ROOT / "docs" / "guard.md", "python")[0], names)
    for block in blocks(ROOT / "README.md", "python"):
        exec(block, names)
        if "guard.watch" in block:
            assert names["guard"].decisions[-1].action == "stop"
            kept = sorted((tmp_path / "runs" / "guard" / "checkpoints").iterdir())
            names["checkpoints"] = [(0, None), *((20 * i, folder) for i, folder in enumerate(kept, 1))]
    assert names["monitor"].look(0, None).action == "continue"
    assert names["results"].analysis.runs


def test_the_python_of_the_api_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "python.md", "python"):
        exec(block, names)
    (onset,) = names["onsets"].values()
    checkpoints, answers = names["checkpoints"], names["answers"]
    assert list(checkpoints["step"]) == [0, 8, 24]
    assert onset in (8, 24)
    assert list(answers.groupby("step").size()) == [240, 240, 240]
    rates = (answers["class"] == "misaligned").groupby(answers["step"]).sum() / checkpoints.set_index("step")["n"]
    assert list(rates) == pytest.approx(list(checkpoints["em_rate"]))
    assert names["arrow"].column("onset_step").to_pylist() == [onset]
    assert list(names["again"].checkpoints()["em_rate"]) == pytest.approx(list(checkpoints["em_rate"]))
    assert names["measured"].verdict().word == "clear"
    assert (tmp_path / "first.html").stat().st_size > 10_000
    assert (tmp_path / "runs" / "mine" / "analysis.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_every_page_is_python_whose_imports_are_there(page: Path) -> None:
    for block in blocks(page, "python"):
        names: dict[str, Any] = {}
        for statement in ast.parse(block).body:
            module = statement.module or "" if isinstance(statement, ast.ImportFrom) else "truing"
            ours = importlib.util.find_spec(module.partition(".")[0]) is not None
            if ours and isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef):
                exec(compile(ast.Module([statement], []), str(page), "exec"), names)


LINES = [
    (page.name, line.strip())
    for page in PAGES
    for language in ("", "sh", "bash", "yaml")
    for block in blocks(page, language)
    for line in block.replace("\\\n", " ").splitlines()
]
COMMANDS = [(page, line) for page, line in LINES if re.match(r"truing [a-z]", line)]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_of_the_pages_are_commands_with_such_options(page: str, line: str) -> None:
    """Parsed as the command line parses them; nothing is run."""
    arguments = shlex.split(line.partition("||")[0], comments=True)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(click.Context(command), arguments)
    command.make_context(name, arguments)


def test_a_run_with_other_settings_has_a_folder_of_its_own() -> None:
    """The folder of the same study without them would be refused."""
    assert [
        line for _, line in COMMANDS if line.startswith("truing run ") and "--set" in line and "--out" not in line
    ] == []


def test_the_pages_call_most_commands() -> None:
    assert {line.split()[1] for _, line in COMMANDS} >= {"run", "check", "report", "audit", "gate", "analyze", "list"}
