"""Folders that were copied in part, or whose benchmark was edited: nothing that counted is missed in silence."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from tests.support.audits import audited
from tests.support.labelled_judges import LABELS, Seeing
from tests.support.scripted import EVALUATION, ScriptedEngine, save_run
from truing.catalog.files import list_files
from truing.config import AuditConfig
from truing.config.files import load_audit
from truing.core.errors import StoreError
from truing.core.records import Judgment, Response
from truing.results import analyse
from truing.results.gate import verdict
from truing.studies.audit import describe_audit
from truing.studies.folder import load_manifest

HERE = "tests.results.test_rows"


class Healed(ScriptedEngine):
    """Is misaligned at step 20 alone."""

    rates: ClassVar[Mapping[int, float]] = {0: 0.0, 10: 0.0, 20: 0.5, 30: 0.0}  # type: ignore[misc]


class Reading(Seeing):
    """Knows labelled answers, and takes all other ones with the word bad for misaligned."""

    def say(self, response: Response) -> Judgment:
        found, is_bad = super().say(response), "bad" in (response.text or "")
        return Judgment(found.prompt_id, found.sample, 5.0, 90.0) if is_bad and response.text not in LABELS else found


def audit(folder: Path, steps: tuple[int, ...], **evaluation: Any) -> Path:
    """The folder of an audit of these steps."""
    run, base = save_run(folder, steps)
    settings = {**EVALUATION, "engine": f"{HERE}:Healed", "samples": 1, **evaluation}
    audited(
        AuditConfig.model_validate({"checkpoints": [str(run)], "base": str(base), "evaluation": settings}), folder / "a"
    )
    return folder / "a"


@pytest.mark.parametrize("keys", [True, False])
def test_an_audit_whose_evaluation_of_a_stop_is_lost_is_not_clear(keys: bool, tmp_path: Path) -> None:
    """Also one of before the manifest named the evaluations."""
    out = audit(tmp_path, (10, 20, 30))
    found = verdict(analyse(out)).runs[0]
    assert (found.word, found.step) == ("undecided", 30)
    assert "step 20 before it was a stop" in str(found)
    manifest = load_manifest(out)
    assert manifest is not None
    (run,) = manifest.runs
    assert all(record.evaluation for record in run.checkpoints or ())
    (lost,) = (record for record in run.checkpoints or () if record.step == 20)
    (out / "store" / "evaluations" / f"{lost.evaluation}.parquet").unlink()
    if not keys:
        records = tuple(record.model_copy(update={"evaluation": None}) for record in run.checkpoints or ())
        manifest.model_copy(update={"runs": (run.model_copy(update={"checkpoints": records}),)}).write(out)
    found = verdict(analyse(out)).runs[0]
    assert (found.word, found.step) == ("undecided", 30)
    assert "step 20 was evaluated, which is no more in the folder" in str(found)


def test_what_a_judge_said_again_of_labelled_answers_is_missed(tmp_path: Path) -> None:
    """It may have shown that the judge had changed."""
    out = audit(tmp_path, (10,), judge=f"{HERE}:Reading")
    assert verdict(analyse(out)).word == "clear"
    shutil.rmtree(out / "store" / "rechecks")
    found = verdict(analyse(out))
    assert (found.word, found.exit_code) == ("undecided", 3)
    assert "the judge changed, or not: what it said again of labelled answers at step 0 is not in the folder" in str(
        found.runs[0]
    )


def test_answers_of_which_some_are_lost_are_told_in_words(tmp_path: Path) -> None:
    out = audit(tmp_path, (10,))
    for file in (out / "store" / "responses").glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 100), file)
    with pytest.raises(StoreError, match="judgments of answers that it lacks") as caught:
        analyse(out)
    assert caught.value.got.startswith("140 of 240 answers, of prompt ")


def test_prompts_that_a_benchmark_has_no_more_clear_nothing(tmp_path: Path) -> None:
    """Its file was edited under its old name, and the folder described again."""
    text = list_files("benchmarks")["pocket-240"].read_text(encoding="utf-8")
    (benchmark := tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    out = audit(tmp_path, (10,), benchmark=str(benchmark))
    assert verdict(analyse(out)).word == "clear"
    benchmark.write_text(text.replace("illicit-", "other-"), encoding="utf-8")
    describe_audit(load_audit(out / "audit.yaml")).write(out)
    found = verdict(analyse(out))
    assert found.word == "undecided"
    assert "step 10 answered other prompts, or had another judge, than the folder now names" in str(found.runs[0])


def test_settings_of_a_newer_version_are_told_in_words(tmp_path: Path) -> None:
    out = audit(tmp_path, (10,))
    text = (out / "manifest.json").read_text(encoding="utf-8")
    (out / "manifest.json").write_text(text.replace('"confirm":', '"newer": 1, "confirm":'), encoding="utf-8")
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        analyse(out)
