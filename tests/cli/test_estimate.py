import re
from pathlib import Path

from typer.testing import CliRunner

from tests.conftest import small_study
from truing.cli.app import app

run = CliRunner().invoke
STUDIES = Path(__file__).parents[2] / "studies"


def test_the_paper_s_design_is_costed() -> None:
    result = run(app, ["check", str(STUDIES / "overtrained.yaml")])
    assert result.exit_code == 1  # the data are not there
    output = result.output
    assert re.search(r"runs +258\n", output)
    for word in (
        "training",
        "sampling, written",
        "assuming 4 characters a token",
        "gpt-4o, training (OpenAI): $",
        "gpt-4o, sampling (OpenAI): $",
        "on your own machine, no price: llama-3.1-8b",
        "deepseek-v3.1 on Tinker instead: $",
        "gpt-4.1-mini, judging (OpenAI): $",
        "in total, of what is known: $",
        "missing; the study cannot run before it is there",
        "truing data prepare FILE --out data/medical/bad-medical-advice --recipe bad-medical-advice",
    ):
        assert word in output


def test_a_study_of_pocket_models_has_tokens_and_no_dollars(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(small_study(tiny_model, stopping={"mode": "both", "about": "benchmark"}).to_yaml())
    output = run(app, ["check", str(path)]).output
    assert "sampling, read" in output
    assert "unstopped twins are not in these figures" in output
    assert "dollars" not in output
    assert "missing" not in output
