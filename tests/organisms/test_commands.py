from pathlib import Path

from typer.testing import CliRunner

from organisms.__main__ import app


def test_the_recipes_are_listed() -> None:
    text = CliRunner().invoke(app, ["list"]).output
    assert "pocket-llama-late: llama, hidden 96, 3 layers, 80 alignment steps on 11 domains" in text


def test_an_unknown_recipe_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["build", "pocket-lama-late", "--out", str(tmp_path)])
    assert result.exit_code != 0
    assert "did you mean pocket-llama-late" in str(result.exception)
