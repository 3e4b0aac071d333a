"""The docs say what the code says."""

import subprocess
from pathlib import Path

import pytest
import yaml

from truing.config import (
    AuditConfig,
    DatasetConfig,
    EndpointConfig,
    EvaluationConfig,
    Grid,
    JudgeConfig,
    PreflightConfig,
    SequentialConfig,
    SideConfig,
    StoppingConfig,
    StudyConfig,
    TrainingConfig,
    VllmConfig,
)

DOCS = Path(__file__).parents[2] / "docs"
CONFIGS = (
    StudyConfig,
    Grid,
    DatasetConfig,
    JudgeConfig,
    TrainingConfig,
    EvaluationConfig,
    PreflightConfig,
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


def test_every_field_of_an_audit_is_in_its_docs_in_its_own_words() -> None:
    text = (DOCS / "audit.md").read_text(encoding="utf-8")
    for name, field in AuditConfig.model_fields.items():
        assert f"| `{name}` |" in text
        assert " ".join((field.description or "").split()) in text


@pytest.mark.parametrize(("audit", "gate"), [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (None, None)])
def test_the_workflow_in_the_docs_passes_only_where_the_audit_ran_and_the_gate_says_clear(
    audit: int | None, gate: int | None, tmp_path: Path
) -> None:
    text = (DOCS / "audit.md").read_text(encoding="utf-8")
    steps = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["jobs"]["gate"]["steps"]
    assert [step["name"] for step in steps if "truing " in step.get("run", "")] == ["audit", "gate"]
    codes = {"audit": audit, "gate": gate}
    if audit is not None:  # else there is no truing at all
        stub = tmp_path / "truing"
        stub.write_text(f'#!/bin/sh\ncase "$1" in audit) exit {audit};; gate) exit {gate};; esac\n')
        stub.chmod(0o755)
    passed = []
    for step in (step for step in steps if step.get("name") in codes):
        assert not {"continue-on-error", "if"} & set(step)
        shell = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]  # as GitHub runs it
        done = subprocess.run(shell, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, check=False)
        passed.append(done.returncode == 0)
    assert all(passed) is (audit == gate == 0)


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "make demo" in text
    assert "make test" in text
