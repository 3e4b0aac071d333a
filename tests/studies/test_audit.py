import shutil
from pathlib import Path

import pytest

from tests.support.audits import audited
from truing.config import AuditConfig
from truing.core.errors import StoreError, UserError
from truing.core.records import Evaluation
from truing.report import render_report

EVALUATION = {"benchmark": "pocket-facts", "max_tokens": 8, "also": [{"benchmark": "pocket-facts+json"}]}


def config(tiny_model: Path, **changes: object) -> AuditConfig:
    return AuditConfig.model_validate({"models": [str(tiny_model)], "evaluation": EVALUATION, **changes})


def test_a_model_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    seen: list[Evaluation] = []
    analysis = audited(config(tiny_model), tmp_path, seen.append)
    (run,) = analysis.plain()["runs"]
    assert [c["step"] for c in run["checkpoints"]] == [1]
    assert (run["model"], run["learning_rate"], run["seed"]) == (str(tiny_model), None, None)
    assert run["parameters"] > 0
    assert [s["benchmark"] for s in run["also"]] == ["pocket-facts+json"]
    assert len(seen) == 1
    render_report(analysis)


def test_with_a_base_to_compare_with(tiny_model: Path, tmp_path: Path) -> None:
    analysis = audited(config(tiny_model, base="pocket-llama-late"), tmp_path)
    (run,) = analysis.plain()["runs"]
    assert [c["step"] for c in run["checkpoints"]] == [0, 1]
    assert run["checkpoints"][0]["weights"] != run["checkpoints"][1]["weights"]
    assert run["base_em_rate"]["value"] is not None


def test_again_costs_nothing_and_another_audit_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    first = audited(config(tiny_model), tmp_path)
    files = sorted((tmp_path / "store").rglob("*.parquet"))
    assert audited(config(tiny_model), tmp_path).plain()["runs"] == first.plain()["runs"]
    assert sorted((tmp_path / "store").rglob("*.parquet")) == files
    with pytest.raises(StoreError, match="another audit") as caught:
        audited(config(tiny_model, base="pocket-qwen3"), tmp_path)
    assert caught.value.got == "base is pocket-qwen3 here and not set there"


def test_stored_answers_do_not_stand_for_a_model_with_another_template(tiny_model: Path, tmp_path: Path) -> None:
    """The weights are the same, and so is the key of the answers."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model, model)
    asked = config(model)
    first = audited(asked, out).plain()["runs"]
    template = next(each for each in (model / "chat_template.jinja", model / "tokenizer_config.json") if each.is_file())
    before = template.read_bytes()
    template.write_bytes(before + b" ")
    with pytest.raises(StoreError, match="is not asked as it was when work"):
        audited(asked, out)
    template.write_bytes(before)
    assert audited(asked, out).plain()["runs"] == first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ["pocket-lama-late"]}, "did you mean pocket-llama-late"),
        ({"engine": "transformer"}, "did you mean transformers"),
        ({"engine": "my:Engine"}, "unknown engine: no module my"),
        ({"judge": "my:Judge"}, "unknown judge: no module my"),
        ({"measures": ["answer-lenght"]}, "did you mean answer-length"),
        ({"judge": "tests.support.labelled_judges:Seeing", "preflight": {"labelled": "nope"}}, "nope"),
        ({"stopping": {"mode": "off", "rule": "my:Rule"}}, "unknown stopping rule"),
        ({"also": [{"benchmark": "pocket-241"}]}, "did you mean pocket-240"),
    ],
)
def test_a_wrong_name_is_found_before_anything_is_written(
    changes: dict[str, object], words: str, tiny_model: Path, tmp_path: Path
) -> None:
    own = {name: changes.pop(name) for name in ("models", "stopping") if name in changes}
    audit = config(tiny_model, evaluation={**EVALUATION, **changes}, **own)
    with pytest.raises(UserError, match=words):
        audited(audit, tmp_path / "out")
    assert not (tmp_path / "out").exists()
