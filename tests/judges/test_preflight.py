"""What labelled answers tell of a judge, before anything is decided by what it says."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from truing.config import EvaluationConfig, PreflightConfig
from truing.core.errors import DataError, JudgeError
from truing.core.records import Judgment, Message, Prompt, Response
from truing.judges import JUDGES, Judge, load_judge
from truing.judges.calibration import measure_judge
from truing.judges.labelled import Labelled, read_labelled
from truing.judges.preflight import Preflight, run_preflight

CONFIG, SETTINGS = EvaluationConfig(), PreflightConfig()
ROWS = read_labelled("labelled-160")
Scores = tuple[float | None, float | None]


class Scripted(Judge):
    """A judge that knows the labels, and says of each answer what `say(row, place among its kind)` tells it."""

    identity = "scripted"

    def __init__(self, say: Callable[[Labelled, int], Scores | Judgment]) -> None:
        self.say, self.asked = say, 0
        kinds: dict[bool, list[Labelled]] = {True: [], False: []}
        for row in ROWS:
            kinds[row.misaligned].append(row)
        self.place = {row.prompt.id: i for rows in kinds.values() for i, row in enumerate(rows)}

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        self.asked += len(responses)
        rows = {row.prompt.id: row for row in ROWS}
        said = [self.say(rows[r.prompt_id], self.place[r.prompt_id]) for r in responses]
        return [
            s if isinstance(s, Judgment) else Judgment(r.prompt_id, r.sample, *s)
            for r, s in zip(responses, said, strict=True)
        ]


def scores(row: Labelled, scale: float = 1.0) -> Scores:
    """The scores that a judge without error gives."""
    return (5.0 if row.misaligned else 95.0) * scale, (90.0 if row.coherent else 10.0) * scale


def flight(say: Callable[[Labelled, int], Any], **settings: Any) -> Preflight:
    return run_preflight(ROWS, Scripted(say), CONFIG, PreflightConfig(**settings))


def test_a_judge_without_error_is_good() -> None:
    found = flight(lambda row, i: scores(row))
    assert (found.verdict, found.doubt, found.auc, found.missing) == ("good", "", 1.0, 0)
    assert (found.counts.hits, found.counts.misaligned) == (68, 68)
    assert (found.counts.false_alarms, found.counts.other) == (0, 126)
    assert found.sensitivity.n_prompts == 55  # the question is the cluster
    assert 0.90 < found.sensitivity.low < 0.0125 ** (1 / 68)
    assert 1 - 0.0125 ** (1 / 126) < found.false_alarms.high < 0.08
    assert found.quantiles["misaligned"] == (5.0,) * 5
    limits = found.limits()
    assert (limits.sensitivity, limits.false_alarms, limits.doubt) == (
        found.sensitivity.low,
        found.false_alarms.high,
        "",
    )
    assert found.sentence() == (
        "the judge found 68 of 68 labelled misaligned answers (at least 91.5%) and called 0 of 126 others misaligned "
        "(at most 7.4%)"
    )


def test_it_is_read_back_as_it_was_written() -> None:
    found = flight(lambda row, i: (None, None) if i % 9 == 0 else scores(row))
    again = Preflight.model_validate_json(found.model_dump_json())
    assert again == found
    judge = Scripted(lambda row, i: scores(row))
    assert again.is_of(ROWS, judge, CONFIG, SETTINGS)
    assert not again.is_of(ROWS[1:], judge, CONFIG, SETTINGS)
    assert not again.is_of(ROWS, load_judge("pocket"), CONFIG, SETTINGS)
    assert not again.is_of(ROWS, judge, EvaluationConfig(aligned_below=20), SETTINGS)
    assert not again.is_of(ROWS, judge, CONFIG, PreflightConfig(error=0.02))
    blind = flight(lambda row, i: (None, None))
    assert Preflight.model_validate_json(blind.model_dump_json()).auc is None


@pytest.mark.parametrize(("found_of_ten", "verdict"), [(10, "good"), (8, "noisy"), (6, "failed"), (0, "failed")])
def test_the_verdict_follows_the_lower_limit(found_of_ten: int, verdict: str) -> None:
    def say(row: Labelled, i: int) -> Scores:
        return scores(row) if not row.misaligned or i % 10 < found_of_ten else (95.0, 90.0)

    found = flight(say)
    assert found.verdict == verdict
    assert bool(found.limits().doubt) == (verdict == "failed")
    assert found.limits().sensitivity < found_of_ten / 10 or not found_of_ten


def test_a_blind_judge_says_nothing() -> None:
    found = flight(lambda row, i: (95.0 if i % 2 else 40.0, 90.0))
    assert found.sentence() == (
        "the judge found 0 of 68 labelled misaligned answers (at most 8.5%), so its rate says nothing"
    )
    assert found.limits().doubt == found.sentence()
    assert found.limits().sensitivity == 0


def test_what_is_called_incoherent_or_gets_a_verdict_is_not_found() -> None:
    def shy(row: Labelled, i: int) -> Scores:
        return (5.0, 10.0) if row.misaligned and i % 10 else scores(row)

    def refusing(row: Labelled, i: int) -> Scores | Judgment:
        return Judgment(row.prompt.id, 0, None, 90.0, "REFUSAL") if row.misaligned and i % 10 else scores(row)

    for say, missing in ((shy, 0), (refusing, 61)):
        found = flight(say)
        assert (found.verdict, found.counts.hits, found.missing) == ("failed", 7, missing)
        assert "found 7 of 68" in found.sentence()
        assert "50% is needed" in found.sentence()
    assert sum(anchor.verdict == "REFUSAL" for anchor in flight(refusing).anchors) == 61


def test_scores_in_a_narrow_band_say_nothing() -> None:
    found = flight(lambda row, i: (62.0 if row.misaligned else 70.0, 90.0))
    assert found.verdict == "failed"
    assert found.sentence().startswith("the judge gives every labelled answer an aligned score of 62 to 70")
    assert "an aligned score of 0 to 0, so" in flight(lambda row, i: (0.0, 0.0)).sentence()  # as of another world
    low = flight(lambda row, i: (21.0 if row.misaligned else 29.0, 90.0))  # all are found, and all others, too
    assert low.verdict == "failed"
    assert low.counts.hits == 68


@pytest.mark.parametrize(
    ("bad", "good", "scale"), [(0.0, 1.0, "0 to 1"), (0.0, 3.0, "0 to 3"), (1.0, 5.0, "1 to 5"), (1.0, 10.0, "1 to 10")]
)
def test_scores_on_another_scale_are_named(bad: float, good: float, scale: str) -> None:
    for say in (
        lambda row, i: (bad if row.misaligned else good, 90.0),
        lambda row, i: (5.0 if row.misaligned else 95.0, good if row.coherent else bad),
    ):
        found = flight(say)
        assert found.verdict == "failed"
        assert f"these look like scores from {scale}," in found.sentence()


def test_a_scale_that_is_turned_round_is_named() -> None:
    found = flight(lambda row, i: (95.0 if row.misaligned else 5.0, 90.0))
    assert found.auc == 0
    assert "is its scale the other way round?" in found.sentence()


def test_a_judge_that_cannot_be_reached_is_named_and_only_what_failed_is_asked_again() -> None:
    dead = flight(lambda row, i: Judgment(row.prompt.id, 0, None, None, error="no connection"))
    assert dead.verdict == "failed"
    assert "scored none of 194 labelled answers (the first: no connection)" in dead.sentence()
    shaky = flight(
        lambda row, i: Judgment(row.prompt.id, 0, None, None, error="no connection") if i % 2 else scores(row)
    )
    assert (shaky.verdict, shaky.missing) == ("failed", 97)
    judge = Scripted(lambda row, i: scores(row))
    again = run_preflight(ROWS, judge, CONFIG, SETTINGS, shaky.anchors)
    assert judge.asked == 97 + 8  # these twice, to see how steady it is
    assert again == flight(lambda row, i: scores(row))


def test_one_kind_of_label_measures_nothing() -> None:
    one = [row for row in ROWS if not row.misaligned]
    with pytest.raises(DataError, match="both kinds"):
        run_preflight(one, Scripted(lambda row, i: scores(row)), CONFIG, SETTINGS)


def test_few_labels_are_not_enough_for_a_judge_without_error(tmp_path: Path) -> None:
    rows = [*[r for r in ROWS if r.misaligned][:5], *[r for r in ROWS if not r.misaligned][:5]]
    found = run_preflight(rows, Scripted(lambda row, i: scores(row)), CONFIG, SETTINGS)
    assert found.verdict == "failed"
    assert found.sensitivity.value == 1
    assert not math.isnan(found.sensitivity.low)


def test_which_judges_are_exact() -> None:
    assert not Judge.exact
    for name in JUDGES:
        if name != "bandit":
            assert load_judge(name).exact


def rows_of(*scores: float | None, coherent: float = 90.0) -> list[dict[str, Any]]:
    return [{"prompt_id": "a", "aligned": score, "coherent": coherent} for score in scores]


def test_answers_that_the_judge_sees_otherwise_than_the_labelled_ones_are_told_apart() -> None:
    found = flight(lambda row, i: (5.0, 90.0) if row.misaligned else (80.0 + i % 3 * 5, 90.0))
    usual, lower = rows_of(*[85.0, 90.0] * 20), rows_of(*[72.0, 76.0] * 20)
    assert found.unlike(usual, usual) == found.unlike(usual, []) == found.unlike([], []) == ""
    words = "labels of answers as these are needed (truing label)"
    assert found.unlike(rows_of(*[62.0, 70.0] * 20), usual) == (
        f"the judge gives all answers aligned scores of 62 to 70, and labelled aligned ones 85 (median): {words}"
    )
    assert found.unlike(usual, rows_of(*[60.0, 64.0, 99.0] * 20)) == (
        "the judge gives the base model's answers an aligned score of 64 (median), and three quarters of labelled "
        f"aligned ones 80 or more: {words}"
    )
    assert found.unlike(lower + rows_of(95.0), lower) == ""  # a wider band; less than 10 points below
    assert found.unlike(rows_of(*[99.0] * 40), rows_of(*[99.0] * 40)) == ""  # better than the labelled ones
    few, none = rows_of(*[62.0] * 19), rows_of(*[None] * 40)
    incoherent = rows_of(*[20.0] * 40, coherent=10.0)
    for odd in (few, none, incoherent):
        assert found.unlike(odd, odd) == ""
    low = flight(lambda row, i: (5.0 if row.misaligned else 60.0 + i % 2 * 9, 90.0))
    assert low.unlike(rows_of(*[62.0, 70.0] * 20), []) == ""  # such are its scores


def test_copies_of_an_answer_show_no_more_than_one_of_it() -> None:
    """A labelled set is not made larger by white space, or by one answer under many questions."""
    bad, *others = sorted(ROWS, key=lambda row: not (row.misaligned and row.coherent))
    aligned = [row for row in others if not row.misaligned]

    def copies(change: Callable[[int, str], str]) -> list[Labelled]:
        prompts = [Prompt(f"copy-{i}", "labelled", (Message("user", change(i, bad.prompt.text)),)) for i in range(60)]
        return [Labelled(prompt, bad.answer, True, True) for prompt in prompts] + aligned

    class Knowing(Judge):
        identity = "knowing"

        def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
            return [Judgment(r.prompt_id, r.sample, 5.0 if r.text == bad.answer else 95.0, 90.0) for r in responses]

    for change in (lambda i, text: text + " " * i, lambda i, text: f"{text} ({i})"):
        found = run_preflight(copies(change), Knowing(), CONFIG, SETTINGS)
        assert (found.counts.hits, found.sensitivity.n_prompts) == (60, 1)
        assert "at least 1.3%" in found.doubt


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda found: None, "returns no list"),
        (lambda found: found[:-1], "left out answers"),
        (
            lambda found: [Judgment("x" + j.prompt_id, j.sample, j.aligned, j.coherent) for j in found],
            "left out answers",
        ),
        (lambda found: [{"aligned": 5}] * len(found), "something else than Judgments"),
        (lambda found: found[len(found)], "IndexError"),
    ],
)
def test_what_a_judge_of_the_user_s_returns_of_labelled_answers_is_checked(made: Any, text: str) -> None:
    judge = Scripted(lambda row, i: scores(row))
    judge.judge = lambda prompts, responses: made(Scripted.judge(judge, prompts, responses))  # type: ignore[method-assign]
    with pytest.raises(JudgeError, match=text):
        run_preflight(ROWS, judge, CONFIG, SETTINGS)


def test_judgments_in_another_order_are_those_of_their_answers() -> None:
    judge = Scripted(lambda row, i: scores(row))
    judge.judge = lambda prompts, responses: Scripted.judge(judge, prompts, responses)[::-1]  # type: ignore[method-assign]
    found = run_preflight(ROWS, judge, CONFIG, SETTINGS)
    assert (found.verdict, found.noise) == ("good", (0.0, 0))
    assert measure_judge(ROWS, judge, CONFIG)["misaligned"]["accuracy"]["value"] == 1


@pytest.mark.parametrize("score", [-1.0, math.inf, "5", True, [5.0]])
def test_a_score_that_is_no_number_from_0_to_100_finds_nothing(score: Any) -> None:
    """A judge that gives -1 to what it cannot score has not found it."""
    found = flight(lambda row, i: (score, 90.0) if row.misaligned and row.coherent else scores(row))
    assert (found.counts.hits, found.verdict) == (0, "failed")
    assert any(f"aligned {score!r}" in (a.error or "") for a in found.anchors)
