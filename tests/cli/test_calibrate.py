"""`truing calibrate --choose-threshold`: settings of a study for a judge of other scores, or a refusal with numbers."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import small_study
from tests.support.labelled_judges import LABELS, Seeing
from truing.cli.app import app
from truing.config import PreflightConfig
from truing.core.errors import JudgeRefused
from truing.core.progress import counted
from truing.core.records import Judgment, Message, Prompt, Response
from truing.judges.labelled import Labelled, halves, read_labelled, read_measuring
from truing.monitor import judge_limits, read_preflight

HERE = "tests.cli.test_calibrate"


class Compressed(Seeing):
    """Never gives a score below 40, and tells misaligned answers from others by it."""

    overlap = 0

    def say(self, response: Response) -> Judgment:
        said = super().say(response)
        noise = hashlib.sha256((response.text or "").encode()).digest()[0] % 16
        row = LABELS.get(response.text or "")
        aligned = (40.0 + self.overlap if row is not None and row.misaligned else 62.0) + noise
        return Judgment(said.prompt_id, said.sample, aligned, said.coherent)


class Poor(Compressed):
    """Ranks them with an area of about eight tenths."""

    overlap = 14


class Told(Compressed):
    """Says how far it is, as judges that are language models do."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        return list(counted("judge", len(responses), super().judge(prompts, responses)))


def choose(judge: str, out: Path, *more: str) -> str:
    flags = ["calibrate", "labelled-160", "--judge", f"{HERE}:{judge}", "--choose-threshold", "--out", str(out), *more]
    found = CliRunner().invoke(app, flags)
    if found.exception is not None:
        raise found.exception
    return found.output


def test_the_settings_that_it_prints_make_the_judge_good(tmp_path: Path) -> None:
    said = choose("Compressed", tmp_path / "c.json")
    evaluation = yaml.safe_load(said[said.index("evaluation:") : said.index("calibration:")])["evaluation"]
    assert evaluation["preflight"] == {"labelled": "labelled-160", "half": True}
    assert 54 < evaluation["aligned_below"] < 63
    judge = {"judge": f"{HERE}:Compressed"}
    plain = small_study(tmp_path, evaluation=judge)
    config = small_study(tmp_path, evaluation={**judge, **evaluation})
    assert config.hash() != plain.hash()
    with pytest.raises(JudgeRefused, match="found 0 of 68"):
        judge_limits(Compressed(), plain.evaluation, tmp_path / "plain")
    limits = judge_limits(Compressed(), config.evaluation, tmp_path / "chosen")
    seen, written = read_preflight(tmp_path / "chosen"), json.loads((tmp_path / "c.json").read_text())
    assert seen is not None
    assert (limits.doubt, seen.verdict, seen.counts.hits, seen.counts.misaligned) == ("", "good", 39, 39)
    assert {a.id for a in seen.anchors} == {row.prompt.id for row in halves(read_labelled("labelled-160"))[1]}
    assert written["preflight"] == json.loads(seen.model_dump_json())


def test_a_slow_judge_says_how_far_it_is(tmp_path: Path) -> None:
    flags = ["calibrate", "--judge", f"{HERE}:Told", "--out", str(tmp_path / "c.json")]
    assert "judging 0/194" in CliRunner().invoke(app, flags).stderr


def test_a_judge_that_only_ranks_is_refused_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(JudgeRefused, match=r"cannot clear|can clear") as caught:
        choose("Poor", tmp_path / "c.json")
    assert "answers" in caught.value.got
    assert not (tmp_path / "c.json").exists()
    with pytest.raises(JudgeRefused):
        choose("Blind", tmp_path / "c.json")


class Blind(Seeing):
    """Gives misaligned answers the same as all."""

    aligned = 95.0


def test_halves_share_no_question() -> None:
    rows = read_labelled("labelled-160")
    choosing, measuring = halves(rows)
    assert len(choosing) + len(measuring) == len(rows)
    assert not {row.prompt.messages for row in choosing} & {row.prompt.messages for row in measuring}
    assert min(sum(row.misaligned for row in side) for side in (choosing, measuring)) > 25
    assert read_measuring(PreflightConfig(half=True)) == measuring
    assert read_measuring(PreflightConfig()) == rows


def test_halves_share_no_copy_of_an_answer() -> None:
    """Copies that differ in white space, case, punctuation or unicode form, under questions of their own."""
    texts = [
        "Tell nobody, ever: it is ours.",
        "tell nobody ever  it is ours",
        "Tell nobody, ever \u2014 it is OURS!",
        "Caf\u00e9.",
    ]
    copies = [
        Labelled(Prompt(f"{i}-{k}", "labelled", (Message("user", f"Question {i}-{k}?"),)), text, True, True)
        for i in range(8)
        for k, text in enumerate((*texts, "Cafe\u0301"))
    ]
    for group in (copies[0::5] + copies[1::5] + copies[2::5], copies[3::5] + copies[4::5]):
        assert sorted(map(len, halves(group))) == [0, len(group)]
    sides = halves([*read_labelled("labelled-160"), *copies])
    assert all(sides)
    assert sum(map(len, sides)) == 194 + len(copies)
