from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.studies.test_plan import study
from truing.backends.endpoint.pricing import Price, Prices
from truing.config import JudgeConfig
from truing.config.files import load_study
from truing.studies.costs import Tokens, study_costs
from truing.studies.plan import Asked, Plan, Text, Trained, plan_study

STUDIES = Path(__file__).parents[2] / "studies"


TABLE = Prices(
    "2026-01-01",
    0.5,
    {
        name: Price(input=10 * factor, output=40 * factor, cached=0)
        for name, factor in (("gpt-4o", 1), ("ft:gpt-4o", 2), ("judge-model", 1))
    },
)
"""Ten dollars a million read, forty written, and twice that for the fine-tuned model."""


def asked(**changes: Any) -> Asked:
    judge = JudgeConfig(model="judge-model", completer="openai", coherent=None)
    plain = Asked("gpt-4o", "x:OpenAIEngine", True, judge, 1000, Text(400, 440), Text())
    return replace(plain, **changes)


def trained(**changes: Any) -> Trained:
    return replace(Trained("gpt-4o", "x:OpenAITrainer", 2, 500, 1.0, Text(800, 840)), **changes)


def test_tokens_are_expected_from_characters_and_bounded_by_bytes() -> None:
    costs = study_costs(study(), Plan((asked(),), (trained(),), ()), TABLE)
    assert costs.training == Tokens(1000 * (200 + 30), 1000 * (840 + 150))
    assert costs.prompts == Tokens(1000 * (100 + 30), 1000 * (440 + 150))
    assert costs.answers == Tokens(1000 * 150, 1000 * 600)
    assert costs.judge_prompts == Tokens(1000 * (100 + 150 + 400 + 30), 1000 * (440 + 600 + 2500 + 150))
    assert costs.judge_answers == Tokens(1000, 10000)


def test_what_is_expected_never_passes_the_bound() -> None:
    for characters in (None, 0.0, 10.0, 1e6):
        size = None if characters is None else characters * 2
        work = Plan((asked(prompt=Text(characters, size)),), (trained(row=Text(characters, size)),), ())
        costs = study_costs(study(), work, TABLE)
        for tokens in (costs.training, costs.prompts, costs.answers, costs.judge_prompts, costs.judge_answers):
            assert 0 <= tokens.expected <= tokens.most


def test_dollars_follow_the_place() -> None:
    work = Plan(
        (
            asked(),
            asked(tuned=False),
            asked(model="qwen3-8b", engine="tinker", judge="pocket"),
            asked(model="qwen3-8b", engine="transformers", judge="pocket"),
        ),
        (trained(), trained(model="qwen3-8b", trainer="peft"), trained(model="gpt-4.1")),
        (),
    )
    rows = {(d.what, d.model, d.where): d for d in study_costs(study(), work, TABLE).dollars}
    assert rows["sampling", "gpt-4o", "OpenAI"].expected == pytest.approx(2 * (1.3 + 6.0))
    assert rows["sampling before fine-tuning", "gpt-4o", "OpenAI"].expected == pytest.approx(1.3 + 6.0)
    assert rows["training", "gpt-4o", "OpenAI"].expected == pytest.approx(0.23 * 25)
    assert rows["training", "gpt-4.1", "OpenAI"].expected is None
    assert rows["sampling", "qwen3-8b", "Tinker"].expected == pytest.approx(0.13 * 0.195 + 0.15 * 0.6)
    own = rows["sampling", "qwen3-8b", "your own machine"]
    assert (own.expected, own.elsewhere) == (None, pytest.approx(0.13 * 0.195 + 0.15 * 0.6))
    assert rows["training", "qwen3-8b", "your own machine"].elsewhere == pytest.approx(0.23 * 0.44)
    assert rows["judging", "judge-model", "an endpoint"].most == pytest.approx(2 * (36.9 + 0.4))


def test_an_unknown_price_is_unknown() -> None:
    judge = JudgeConfig(model="unheard-of", completer="openai")
    costs = study_costs(study(), Plan((asked(judge=judge),), (), ()), TABLE)
    (judging,) = (d for d in costs.dollars if d.what == "judging")
    assert (judging.expected, judging.most) == (None, None)


def test_the_batch_interface_is_priced_as_such() -> None:
    work = Plan((asked(),), (), ())
    halved = study_costs(study(endpoint={"mode": "batch"}), work, TABLE).dollars
    whole = study_costs(study(), work, TABLE).dollars
    assert [2 * (d.expected or 0) for d in halved] == pytest.approx([d.expected for d in whole])


def test_prices_are_the_built_in_ones_and_the_user_s(tmp_path: Path) -> None:
    work = Plan((asked(),), (), ())
    (sampling,) = (d for d in study_costs(study(), work).dollars if d.what == "sampling")
    assert sampling.expected is not None
    own = tmp_path / "prices.yaml"
    own.write_text("{date: 2026-11-01, models: {judge-model: {input: 1, output: 1}}}")
    costs = study_costs(study(endpoint={"prices": str(own)}), work)
    assert "2026-11-01" in costs.prices_of
    assert all(d.expected is not None for d in costs.dollars)


def test_the_paper_s_design_is_counted_without_data_or_weights() -> None:
    config = load_study(STUDIES / "overtrained.yaml")
    models = {run.model for run in config.runs()}
    assert len(models) == 13
    work = plan_study(config, lenient=True)
    assert len(work.missing) in (0, 4)
    assert sum(a.responses for a in work.asked) > 1_000_000
    costs = study_costs(config, work)
    assert {d.model for d in costs.dollars} == models | {"gpt-4.1-mini"}
    assert all(d.expected is not None for d in costs.dollars if d.where != "your own machine")
    assert costs.training.expected > 1e8
