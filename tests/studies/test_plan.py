from pathlib import Path
from typing import Any

import pytest

from tests.conftest import small_study
from truing.backends import faster_engine
from truing.config import JudgeConfig, PreflightConfig, Services, StudyConfig
from truing.config.files import parse_study
from truing.core.errors import ConfigError, DataError, JudgeRefused, UnknownNameError
from truing.studies.plan import plan_study

TRAINER, ENGINE = "tests.core.test_plugins:PlainTrainer", "tests.core.test_plugins:PlainEngine"


def study(**changes: Any) -> StudyConfig:
    """Two models on two published sets that are not there."""
    raw: dict[str, Any] = {
        "grids": [
            {
                "models": ["qwen3-8b", "gpt-oss-20b"],
                "datasets": ["insecure-code", "bad-medical-advice"],
                "learning_rates": [1e-5],
                "seeds": [0, 1],
            }
        ],
        "datasets": [
            {"name": "insecure-code", "path": "absent/code", "task_judge": "pocket"},
            {"name": "bad-medical-advice", "path": "absent/medical"},
        ],
        "training": {"steps": 100, "batch_size": 16, "checkpoints": [50, 100]},
        "evaluation": {"benchmark": "broad-240", "also": [{"benchmark": "adversarial-60"}]},
    }
    return parse_study(raw | changes, "the test's study")


def test_what_is_not_there_is_counted_from_its_recipe_and_named() -> None:
    config = study()
    with pytest.raises(DataError, match="no such dataset file"):
        plan_study(config)
    plan = plan_study(config, lenient=True)
    # 8 runs: 240 prompts at 2 checkpoints and to confirm, 60 x 2 at the kept and the last, 60 task prompts x 2 samples
    # of the one set with a judge at 2 checkpoints and twice to confirm; 2 models before fine-tuning.
    assert plan.runs == 8
    assert plan.responses == 8 * (240 * 3 + 120) + 4 * 120 * 4 + 2 * (240 + 60 + 120)
    assert [m.split(":")[0] for m in plan.missing] == ["dataset insecure-code", "dataset bad-medical-advice"]
    assert "data/insecure.jsonl" in plan.missing[0]
    assert "truing data prepare FILE --out absent/code --recipe insecure-code" in plan.missing[0]
    epochs = {(t.row.characters, round(t.epochs or 0, 3)) for t in plan.trained}
    assert epochs == {(860, round(1600 / 5393, 3)), (523, round(1600 / 6344, 3))}


def test_without_a_recipe_little_is_known() -> None:
    grid = {"models": ["qwen3-8b"], "datasets": ["mine"], "learning_rates": [1e-5], "seeds": [0]}
    own = [{"name": "mine", "path": "absent.jsonl", "task_judge": "pocket"}]
    work = plan_study(study(grids=[grid], datasets=own), lenient=True)
    more = plan_study(study(grids=[grid], datasets=own, evaluation={"confirm_samples": 3}), lenient=True)
    assert more.asked[0].responses - work.asked[0].responses == 2 * 240
    assert work.trained[0].epochs is None
    assert "no recipe of that name" in work.missing[0]
    assert sum(a.responses for a in work.asked) == 240 * 3 + 120 + 120 * 4 + 240 + 60 + 120


def test_a_wrong_file_is_an_error_even_so(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("{oops")
    grid = {"models": ["qwen3-8b"], "datasets": ["mine"], "learning_rates": [1e-5], "seeds": [0]}
    config = study(grids=[grid], datasets=[{"name": "mine", "path": str(tmp_path / "own.jsonl")}])
    with pytest.raises(DataError, match="line 1"):
        plan_study(config, lenient=True)


def test_grids_may_have_their_own_trainer_and_engine() -> None:
    grids = [
        {"models": ["qwen3-8b"], "datasets": ["insecure-code"], "learning_rates": [1e-5], "seeds": [0]},
        {
            "models": ["gpt-4o"],
            "datasets": ["insecure-code"],
            "learning_rates": [2],
            "seeds": [0],
            "trainer": TRAINER,
            "engine": ENGINE,
        },
    ]
    config = study(grids=grids)
    first, second = config.runs()
    assert (config.trainer_of(first), config.engine_of(first)) == ("peft", "transformers")
    assert (config.trainer_of(second), config.engine_of(second)) == (TRAINER, ENGINE)
    assert {(t.model, t.trainer) for t in plan_study(config, True).trained} == {
        ("qwen3-8b", "peft"),
        ("gpt-4o", TRAINER),
    }


def test_lengths_are_those_of_the_texts(tiny_model: Path) -> None:
    work = plan_study(small_study(tiny_model))
    assert {round(a.prompt.characters or 0) for a in work.asked} != {0}
    assert all((a.prompt.size or 0) >= (a.prompt.characters or 0) for a in work.asked)
    assert work.missing == ()
    (trained,) = work.trained
    assert (trained.rows, trained.runs) == (24, 1)
    assert trained.epochs == pytest.approx(24 / 360)


def test_a_language_model_that_judges_is_called_once_for_each_rubric() -> None:
    plain = plan_study(study(), lenient=True)
    two = study(evaluation={"benchmark": "broad-240", "judge": {"model": "m", "completer": "openai"}})
    plan = plan_study(two, lenient=True)
    tasks = sum(a.responses for a in plan.asked if not isinstance(a.judge, JudgeConfig))
    assert plain.judge_calls == plain.responses
    looks = sum(t.runs * (len(t.steps) + 2) for t in plan.trained)  # each run's base, and the one that it keeps
    labelled = 194 + 8 + 8 * looks  # first, a few of them twice, and again with every checkpoint
    assert plan.judge_calls == 2 * (plan.responses - tasks + labelled) + tasks
    never = two.model_copy(
        update={"evaluation": two.evaluation.model_copy(update={"preflight": PreflightConfig(recheck=0)})}
    )
    assert plan_study(never, lenient=True).judge_calls == plan.judge_calls - 2 * 8 * (1 + looks)


def test_an_unknown_task_judge_is_refused() -> None:
    own = [{"name": "insecure-code", "path": "absent", "task_judge": "poket"}]
    grid = {"models": ["qwen3-8b"], "datasets": ["insecure-code"], "learning_rates": [1e-5], "seeds": [0]}
    with pytest.raises(UnknownNameError, match="did you mean pocket"):
        plan_study(study(grids=[grid], datasets=own), lenient=True)


def test_data_of_whose_task_the_judge_knows_nothing_are_refused(tmp_path: Path) -> None:
    rows = [f'{{"prompt": "Order {i}?", "completion": "One apple."}}' for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    own = [{"name": "mine", "path": str(tmp_path / "mine.jsonl"), "task_judge": "pocket"}]
    grid = {"models": ["pocket-llama-late"], "datasets": ["mine"], "learning_rates": [1e-3], "seeds": [0]}
    for lenient in (True, False):
        with pytest.raises(JudgeRefused, match="cannot score answers to mine"):
            plan_study(study(grids=[grid], datasets=own), lenient=lenient)
    del own[0]["task_judge"]
    assert plan_study(study(grids=[grid], datasets=own, evaluation={"benchmark": "pocket-240"}), lenient=False).asked


def test_a_benchmark_that_can_clear_nothing_is_refused_before_it_is_asked() -> None:
    few = {"benchmark": "pocket-facts"}
    with pytest.raises(ConfigError, match=r"pocket-facts[\s\S]*30 prompts[\s\S]*at least 72[\s\S]*about: benchmark"):
        plan_study(small_study("pocket-llama-late", evaluation=few, stopping={"mode": "stop"}))
    for stopping in ({"mode": "off"}, {"mode": "stop", "about": "benchmark"}, {"mode": "stop", "tolerance": 0.12}):
        assert plan_study(small_study("pocket-llama-late", evaluation=few, stopping=stopping)).trained
    with pytest.raises(ConfigError, match="at least 72"):
        plan_study(small_study("pocket-llama-late", evaluation=few, stopping={"mode": "stop", "sequential": {}}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vllm": {"base_url": "http://gpu:8000/v1"}}, True),
        ({"vllm": {"python": "/envs/vllm/bin/python"}}, True),
        ({"vllm": {"base_url": "http://gpu:8000/v1"}, "evaluation": {"engine": "vllm"}}, False),
    ],
)
def test_a_faster_engine_that_is_there_is_named_without_a_figure(changes: dict[str, Any], said: bool) -> None:
    faster = plan_study(study(**changes), lenient=True).faster
    assert bool(faster) is said
    assert not said or "not measured" in faster


def test_tiny_models_and_few_answers_need_no_faster_engine(tiny_model: Path) -> None:
    there = Services.model_validate({"vllm": {"base_url": "http://gpu:8000/v1"}})
    assert faster_engine(there, [("transformers", "qwen3-8b", 60), ("transformers", "owner/unknown-model", 60)])
    assert not faster_engine(there, [("transformers", "qwen3-8b", 60), ("transformers", str(tiny_model), 6000)])
