import pytest
from typer.testing import CliRunner

from truing.catalog.models import list_models
from truing.cli.app import app
from truing.core.errors import UnknownNameError

run = CliRunner().invoke


def test_the_catalogue_stands_beside_the_pocket_models() -> None:
    output = run(app, ["list", "models"]).output
    assert output.index("pocket-llama-late") < output.index("catalogue") < output.index("llama-3.1-8b")
    for name in list_models():
        assert name in output
    assert "2026-06-12" in output


@pytest.mark.parametrize("name", list_models())
def test_each_model_is_shown_in_full(name: str) -> None:
    result = run(app, ["list", "models", name])
    assert result.exit_code == 0, result.exception
    for word in ("ids", "LoRA targets", "published settings", "chat template", "system prompt"):
        assert word in result.output


def test_an_id_does_as_well_and_targets_are_the_trainer_s() -> None:
    output = run(app, ["list", "models", "openai/gpt-oss-20b"]).output
    assert "experts.gate_up_proj" in output
    assert "20.9B, 3.6B for each token" in output


def test_what_cannot_be_shown() -> None:
    assert isinstance(run(app, ["list", "models", "qwen3-8"]).exception, UnknownNameError)
    assert isinstance(run(app, ["list", "judges", "poket"]).exception, UnknownNameError)
