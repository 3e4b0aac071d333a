"""The docs say what the code says."""

from pathlib import Path

import pytest

from truing.config import (
    DatasetConfig,
    EndpointConfig,
    EvaluationConfig,
    Grid,
    JudgeConfig,
    SequentialConfig,
    SideConfig,
    StoppingConfig,
    StudyConfig,
    TrainingConfig,
    VllmConfig,
)

DOCS = Path(__file__).parents[1] / "docs"
CONFIGS = (
    StudyConfig,
    Grid,
    DatasetConfig,
    JudgeConfig,
    TrainingConfig,
    EvaluationConfig,
    StoppingConfig,
    SequentialConfig,
    SideConfig,
    EndpointConfig,
    VllmConfig,
)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_in_the_study_docs_in_its_own_words(config: type) -> None:
    text = (DOCS / "study.md").read_text(encoding="utf-8")
    for name, field in config.model_fields.items():  # type: ignore[attr-defined]
        words = " ".join((field.description or "").split()).replace("|", "/")
        assert f"| `{name}` |" in text
        assert words in text


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "make demo" in text
    assert "make test" in text
