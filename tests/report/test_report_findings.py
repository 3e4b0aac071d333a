"""What the page says of several runs, and that it says as plainly when nothing can be said."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from typing import Any

import pytest

from tests.support.report_studies import render
from truing.report import render as page
from truing.report.drawing import fit_line
from truing.report.pairs import pairs_of
from truing.report.render import shown_steps
from truing.report.summary import summarise
from truing.report.words import (
    among,
    bounds,
    bounds_words,
    correlation,
    correlation_words,
    difference,
    gap,
    influence_words,
    parameters,
    percent,
    probability,
    relation_words,
    signed,
    steps,
)
from truing.results.schema import Analysis, CorrelationEntry, SizeModel, parse_analysis
from truing.results.schema_runs import Limits, StepBounds
from truing.stats.choice import share_of_runs

NAN = math.nan


def read(analysis: dict[str, Any]) -> Analysis:
    return parse_analysis(json.dumps(analysis))


TABLES = ("seeds", "learning_rates", "sizes", "domains")


def section(html: str, name: str) -> str:
    """The text of a section, without its markup."""
    found = re.search(rf'<section id="{name}".*?</section>', html, re.DOTALL)
    assert found is not None, name
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", found[0])).split())


@pytest.mark.parametrize(
    ("name", "table"), [("seeds", "seeds"), ("rates", "learning_rates"), ("sizes", "sizes"), ("domains", "domains")]
)
def test_an_empty_table_gives_no_section(analysis: dict[str, Any], name: str, table: str) -> None:
    assert f'<section id="{name}"' in render(analysis)
    html = render(analysis | {table: []})
    assert f'<section id="{name}"' not in html
    assert f'href="#{name}"' not in html


def test_seeds_show_verdict_reason_and_every_seed(analysis: dict[str, Any]) -> None:
    text = section(render(analysis), "seeds")
    for entry in analysis["seeds"]:
        assert entry["reason"] in text
        for estimate in entry["versus_base"]:
            assert f"{signed(estimate['value'])} [" in text
    assert "consistent" in text
    assert "undecided" in text
    assert "no seed has this figure" in text


def test_a_seed_without_a_difference_says_why(analysis: dict[str, Any]) -> None:
    none = {"value": None, "low": None, "high": None, "reason": "the model before fine-tuning was not judged"}
    for entry in analysis["seeds"]:
        entry["versus_base"] = [estimate | none for estimate in entry["versus_base"]]
    analysis["seeds"][0]["versus_base"] = []
    text = section(render(analysis), "seeds")
    assert "the model before fine-tuning was not judged" in text
    assert "no differences to base were made" in text


def test_learning_rates_show_marks_and_the_recommendation(analysis: dict[str, Any]) -> None:
    analysis["learning_rates"][0]["options"][1]["rival"] = True
    text = section(render(analysis), "rates")
    assert "Recommended: 0.0005." in text
    assert analysis["learning_rates"][0]["reason"] in text
    options = analysis["learning_rates"][0]["options"]
    for word in ("recommended", "Pareto", "rival", *(percent(option["probability_best"]) for option in options)):
        assert word in text
    options[0] |= {"probability_best": None, "em_rate": None}
    analysis["learning_rates"][0]["recommended"] = None
    text = section(render(analysis), "rates")
    assert "None is recommended." in text
    assert "one seed of each learning rate tells nothing of its certainty" in text
    assert "no run of this learning rate has a known EM rate at the end" in text


def test_sizes_show_both_correlations_and_their_influence(analysis: dict[str, Any]) -> None:
    html = render(analysis)
    text = section(html, "sizes")
    assert "n = 4 models" in text
    assert f"p = {analysis['sizes'][0]['pearson']['p']:.2g}" in text
    assert "Carried by one model: without llama-susceptible it is" in text
    assert html.count('class="dot em own" cx=') > 4
    assert "Size against EM on insecure-code" in section(html, "summary")


def correlated(value: float = 0.8, **changes: Any) -> CorrelationEntry:
    fields = {"low": 0.1, "high": 0.95, "p": 0.02, "n": 5, "without": [0.7, 0.75, 0.8, 0.8, 0.9], "carried_by": [],
              "method": "Pearson", "reason": ""}  # fmt: skip
    return CorrelationEntry(value=value, **(fields | changes))


MODELS = [SizeModel(model=f"folder/m{i}", parameters=10.0**i, em_rate=0.1) for i in range(6, 11)]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (correlated(), "No one or two models carry it; without any single model it is +0.70 to +0.90."),
        (correlated(n=4), "No one model carries it; without any single model it is +0.70 to +0.90."),
        (correlated(carried_by=["folder/m6"]), "Carried by one model: without m6 it is +0.70."),
        (
            correlated(carried_by=["folder/m6", "folder/m7"]),
            "Carried by 2 models: without m6 and m7 it is less than half as strong or turns round.",
        ),
        (correlated(without=[NAN] * 5), "Too few models to leave any out: one of them may carry it."),
        (correlated(NAN, without=[], reason="fewer than three models"), "Undefined: fewer than three models."),
    ],
)
def test_influence_in_words(found: CorrelationEntry, words: str) -> None:
    assert influence_words(found, MODELS) == words


def test_correlations_in_words() -> None:
    assert correlation_words(correlated()) == "+0.80 [+0.10,\u00a0+0.95], p\u00a0=\u00a00.02"
    assert correlation_words(correlated(low=NAN)) == "+0.80 [no interval], p\u00a0=\u00a00.02"
    assert correlation_words(correlated(NAN, reason="one model")) == "undefined (one model)"
    assert relation_words(correlated(), 0.95).startswith("Larger models have more EM here.")
    assert relation_words(correlated(-0.8), 0.95).startswith("Larger models have less EM here.")
    assert "none is ruled out" in relation_words(correlated(p=0.3), 0.95)
    assert relation_words(correlated(NAN), 0.95) == "Nothing can be said of size."


def test_domains_show_shares_answers_and_both_rates(analysis: dict[str, Any]) -> None:
    analysis["runs"][0]["inside"] = None
    analysis["runs"][0]["separable"] |= {"answer": "cannot tell", "step": None}
    analysis["domains"][0]["separable"] = share_of_runs(["cannot tell"]).plain()
    text = section(render(analysis), "domains")
    assert "no run can tell" in text
    assert "cannot tell" in text
    assert "no category of the benchmark belongs to the domain of the dataset" in text


def test_a_run_says_its_order_with_the_intervals(one_run: dict[str, Any]) -> None:
    run = one_run["runs"][0]
    run["course"] |= {"crossing": {"low": 27, "high": None}, "convergence": {"low": 4, "high": 14}, "order": "after"}
    run["course"] |= {"gap": {"value": 38, "low": 13, "high": None}, "reason": "EM is shown to come after."}
    html = render(one_run)
    text = section(html, "courses")
    assert "after EM is shown to come after." in text
    assert "Above the tolerance at step 27 or later, if at all; task learnt at steps 4\u201314." in text
    assert "The first above the base less the first that has learnt it" in text
    assert 'class="arrow crossing"' in html
    assert "[27, open)" in text
    assert "above the tolerance: after the task" in section(html, "runs")


def test_a_task_that_was_not_measured_is_called_so(one_run: dict[str, Any]) -> None:
    run = one_run["runs"][0]
    none = {"value": None, "low": None, "high": None, "reason": "the dataset names no judge of its task"}
    for checkpoint in run["checkpoints"]:
        checkpoint["task_score"] |= none
    run["convergence_step"] = None
    run["course"] |= {"convergence": {"low": None, "high": None}, "order": "cannot tell"}
    html = render(one_run)
    text = section(html, "courses")
    assert "task score unknown: the dataset names no judge of its task" in text
    assert "task learnt unknown: it was not measured" in text
    assert "task not seen to converge" not in text
    assert "The task was not measured." in section(html, "summary")
    assert "by intervals: " not in section(html, "summary")
    run |= {"chosen_step": None, "restored": 4}
    run["retention"] |= none | {"reason": "the task was not measured"}
    text = section(render(one_run), "summary")
    assert "the model was given back its weights of step 4." in text
    assert "no checkpoint was chosen" not in text
    assert "4 put back" in section(render(one_run), "runs")
    assert "The model was given back its weights of step 4." in section(render(one_run), "courses")
    run |= {"restored": None}
    assert "put back" not in section(render(one_run), "runs")
    assert "the task was not measured, so no checkpoint was chosen." in section(render(one_run), "summary")


def test_a_tolerance_not_seen_to_be_passed_has_a_whisker_and_no_mark(one_run: dict[str, Any]) -> None:
    run = one_run["runs"][0]
    run |= {"onset_step": None}
    run["course"]["crossing"] = {"low": 52, "high": None}
    html = render(one_run)
    assert "not shown above the tolerance [52,\u00a0open)" in html
    assert '<path class="mark onset"' not in re.sub(
        r'<p class="legend.*?</p>', "", section_markup(html), flags=re.DOTALL
    )
    run["course"]["crossing"] = {"low": None, "high": None}
    assert "not shown above the tolerance" not in render(one_run)


def section_markup(html: str) -> str:
    found = re.search(r'<section id="courses".*?</section>', html, re.DOTALL)
    assert found is not None
    return found[0]


def test_confirmed_figures_stand_beside_the_choosing_ones(one_run: dict[str, Any]) -> None:
    run = one_run["runs"][0]
    step = run["chosen_step"]
    text = section(render(one_run), "courses")
    assert f"when choosing step {step}" in text
    assert f"confirmed step {step}, fresh responses" in text
    run["confirmed"] |= {"step": None, "em_rate": None, "task_score": None, "retention": None,
                         "source": "other half of the prompts"}  # fmt: skip
    assert "half of the prompts would choose no checkpoint" in section(render(one_run), "courses")
    run["confirmed"] = None
    html = render(one_run)
    assert "not measured: no responses that had no part in choosing" in section(html, "courses")
    assert "was not confirmed by other responses" in section(html, "summary")


def test_tiles_quote_confirmed_figures_where_known(analysis: dict[str, Any]) -> None:
    for run in analysis["runs"]:
        if run["confirmed"]:
            run["confirmed"]["em_rate"] |= {"value": 0.0321, "low": 0.01, "high": 0.08}
            run["confirmed"]["retention"] |= {"value": 0.5, "low": 0.4, "high": 0.6}
    document = read(analysis)
    summary = summarise(document, pairs_of(document))
    assert summary.tiles[2].value == "50%"
    assert summary.tiles[3].value.endswith("→ 3.2%")
    assert "at most 3.2%" in summary.headline
    for run in analysis["runs"]:
        run["confirmed"] = None
    document = read(analysis)
    summary = summarise(document, pairs_of(document))
    assert "Measured by the responses that chose it, so a little too kind." in summary.tiles[3].detail


def test_bounds_stand_only_where_scores_are_missing(one_run: dict[str, Any]) -> None:
    html = section(render(one_run), "courses")
    lacking = sum(c["em_rate"]["n_missing"] > 0 for c in one_run["runs"][0]["checkpoints"])
    assert html.count("if all ") == lacking
    for checkpoint in one_run["runs"][0]["checkpoints"]:
        checkpoint["em_rate"]["n_missing"] = 0
    assert "if all " not in section(render(one_run), "courses")


def test_runs_without_a_judged_base_are_not_called_clean(one_run: dict[str, Any]) -> None:
    run = one_run["runs"][0]
    run["base_em_rate"] |= {"value": None, "low": None, "high": None, "reason": "step 0 was not judged"}
    run |= {"checkpoints": run["checkpoints"][1:], "onset_step": None}
    for checkpoint in run["checkpoints"]:
        checkpoint["versus_base"] = None
    html = render(one_run | {table: [] for table in TABLES})
    assert "In 1 run it was not (without a judged base" in section(html, "summary")
    assert "above the tolerance, step" in section(html, "courses")
    assert "the base was not judged" in section(html, "courses")


def test_the_summary_counts_runs_grammatically(analysis: dict[str, Any]) -> None:
    for run in analysis["runs"]:
        run |= {"stopped_at": None, "state": "finished"}
        if run["confirmed"]:
            run["confirmed"]["source"] = "other half of the prompts"
    text = section(render(analysis), "summary")
    assert "in 3 runs with misalignment;" in text
    assert "Confirmed by the other half of the prompts." in text


def test_notes_lead_the_cautions(analysis: dict[str, Any]) -> None:
    analysis["notes"] = ["a column lacks", "another too"]
    document = read(analysis)
    assert summarise(document, pairs_of(document)).cautions[:2] == ["a column lacks", "another too"]


def test_published_files_without_learning_rate_and_seed(analysis: dict[str, Any]) -> None:
    for run in analysis["runs"]:
        run |= {"learning_rate": None, "seed": None, "parameters": None}
        for checkpoint in run["checkpoints"]:
            checkpoint["weights"] = ""
    for entry in analysis["seeds"]:
        entry["learning_rate"] = None
    html = render(analysis | {"learning_rates": [], "sizes": []})
    text = section(html, "seeds")
    assert "lr unknown" in text
    assert "run 1" in text
    assert f"on insecure-code {analysis['runs'][0]['id']}" in section(html, "courses")
    assert "learning rates unknown" in section(html, "summary")
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.DOTALL).lower()
    assert "of 1 answer" not in section(html, "summary")


def test_large_studies_say_what_is_left_out(large: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_ROWS", 100)
    html = render(large | {"runs": large["runs"][:6], **{table: [] for table in TABLES}})
    assert html.count("16 of 46: the others are in analysis.json") == 6
    assert len(re.findall(r'<tr><th scope="row" title="weights', html)) == 6 * 16
    assert "further answers of this category left out of this page: they are in analysis.json" in html


def test_nothing_is_left_out_of_108_runs(large: dict[str, Any]) -> None:
    assert page.rows_per_run(read(large)) == 46


def test_what_happened_is_never_left_out(large: dict[str, Any]) -> None:
    for run in read(large).runs[:40]:
        shown = shown_steps(run, 12)
        assert {0, 90, run.chosen_step, run.onset_step, run.convergence_step} - {None} <= shown
        assert len(shown) <= 12
        assert shown_steps(run, 46) == {c.step for c in run.checkpoints}


def test_numbers_in_words(analysis: dict[str, Any]) -> None:
    assert [signed(v) for v in (0.421, -0.031, 0.0, -0.0001, 0.0001, NAN)] == [
        "+42",
        "\u22123.1",
        "0",
        "0.0",
        "0.0",
        "\u2013",
    ]
    assert [steps(v) for v in (22, -1234.5, 0.0, -0.01, NAN)] == ["+22", "\u22121,234.5", "0", "0", "\u2013"]
    assert [bounds(StepBounds(low=b[0], high=b[1])) for b in ((4, 9), (4, None), (None, None))] == [
        "[4,\u00a09]", "[4,\u00a0open)", "[not by the end]"]  # fmt: skip
    assert [bounds_words(StepBounds(low=b[0], high=b[1])) for b in ((4, 4), (4, 9), (4, None), (None, None))] == [
        "at step 4", "at steps 4\u20139", "at step 4 or later, if at all", "not by the last checkpoint"]  # fmt: skip
    assert [parameters(v) for v in (7.24e9, 5e8, 120_000, 12, NAN)] == ["7.24B", "500M", "120k", "12", "\u2013"]
    assert [probability(v) for v in (0.0002, 0.034, NAN)] == [
        "p\u00a0<\u00a00.001", "p\u00a0=\u00a00.034", "p\u00a0unknown"]  # fmt: skip
    assert correlation(-0.5) == "\u22120.50"
    assert gap(Limits(value=NAN, low=NAN, high=NAN)) == "unknown"
    document = read(analysis)
    assert among(document.seeds[0].onset, "run") == "2 runs"
    assert difference(document.seeds[0].versus_base[0]).startswith("+53 [")


def test_a_scale_holds_zero_and_all_values() -> None:
    for values in ([], [0.3], [-0.02, 0.04], [-1.0, 1.0], [0.05, NAN]):
        ticks = fit_line(values).ticks
        assert 0.0 in ticks
        assert len(ticks) <= 7
        assert all(ticks[0] <= v <= ticks[-1] for v in values if not math.isnan(v))
