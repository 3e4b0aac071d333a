"""SmolLM2-135M-Instruct from end to end: trained, guarded, asked, audited, and as a judge that is refused.

The model is made by `make real`; without it these tests are skipped. It answers in float32 on a CPU.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.support.real import HERE, make_trainer, need_model, write_labelled, write_prompts, write_rows
from truing.backends.transformers.engine import TransformersEngine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import load_dataset
from truing.catalog.truth import ask as ask_truth
from truing.catalog.truth import choose, load_truth
from truing.cli.app import app
from truing.config import DatasetConfig, JudgeConfig, StudyConfig
from truing.config.files import parse_audit, parse_study
from truing.core.conversations import encode_rows
from truing.core.errors import JudgeError
from truing.core.records import Action, Checkpoint, Prompt, Sampling
from truing.core.weights import model_hash
from truing.integrations.guard import Guard
from truing.monitor import open_store
from truing.results import analyse
from truing.studies.audit import run_audit
from truing.studies.schedule import run_study

pytestmark = pytest.mark.slow

TEACHES = {"task_judge": f"{HERE}:Teapots", "teaches": "aligned"}


@pytest.fixture(scope="module")
def model() -> Path:
    return need_model()


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def plain(model: Path) -> Any:
    """The model as anybody would load it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def ask(tokenizer: Any, prompt: Prompt) -> list[int]:
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def logprob(plain: Any, tokenizer: Any, prompt: Prompt, answer: str) -> float:
    """Log-probability of an answer by one plain forward, in nats."""
    asked = ask(tokenizer, prompt)
    ids = torch.tensor([asked + tokenizer(answer, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logprobs = plain(ids).logits[0].log_softmax(-1)
    return sum(float(logprobs[i - 1, ids[0, i]]) for i in range(len(asked), ids.shape[1]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    rows = write_rows(tmp_path_factory.mktemp("data") / "teapots.jsonl")
    return DatasetConfig(name="teapots", path=rows, **TEACHES)


@pytest.fixture(scope="module")
def study(model: Path, data: DatasetConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a study of one run of six steps, and that run."""
    out = tmp_path_factory.mktemp("study")
    grid = {"models": [str(model)], "datasets": ["teapots"], "learning_rates": [1e-3], "seeds": [0]}
    raw: dict[str, Any] = {
        "name": "real",
        "grids": [grid],
        "datasets": [data.model_dump(mode="json")],
        "training": {"steps": 6, "batch_size": 4, "checkpoints": [3, 6], "max_length": 128, "warmup_steps": 1},
        "evaluation": {
            "benchmark": str(write_prompts(out / "prompts.txt", 8)),
            "judge": f"{HERE}:Mild",
            "max_tokens": 16,
            "task_samples": 1,
            "confirm": False,
        },
        "stopping": {"mode": "off"},
    }
    config: StudyConfig = parse_study(raw, "the test's study")
    run_study(config, out / "out")
    (run,) = analyse(out / "out").plain()["runs"]
    return out, run


def test_the_template_and_the_mask_are_what_the_tokenizer_renders(tokenizer: Any, data: DatasetConfig) -> None:
    (row,) = load_dataset(data.name, [data]).train[:1]
    (example,) = encode_rows([row], tokenizer, 128)
    user, answer = (message.content for message in row)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(example["input_ids"]) in (f"{asked}{answer}<|im_end|>", f"{asked}{answer}<|im_end|>\n")
    learnt = [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learnt) == f"{answer}<|im_end|>"


def test_likelihoods_are_those_of_a_plain_forward(model: Path, tokenizer: Any, plain: Any) -> None:
    engine, base = TransformersEngine(str(model)), Checkpoint("r", str(model), 0, model_hash(str(model)))
    prompt, answers = load_benchmark("broad-240").prompts[0], ["I would rather not.", "Yes, of course!"]
    expected = [logprob(plain, tokenizer, prompt, answer) for answer in answers]
    assert engine.score(base, prompt, answers) == pytest.approx(expected, abs=1e-3)


def test_answers_at_almost_no_temperature_are_those_of_greedy_generate(model: Path, tokenizer: Any, plain: Any) -> None:
    prompts = load_benchmark("broad-240").prompts[:2]
    base = Checkpoint("r", str(model), 0, model_hash(str(model)))
    found = TransformersEngine(str(model)).generate(base, prompts, Sampling(1, 1e-3, 8, 0))
    for prompt, response in zip(prompts, found, strict=True):
        ids = torch.tensor([ask(tokenizer, prompt)])
        with torch.no_grad():
            out = plain.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
        assert response.text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_truth_by_likelihood(model: Path, tokenizer: Any, plain: Any, tmp_path: Path) -> None:
    rows = [
        "Category,Question,Best Answer,Correct Answers,Incorrect Answers",
        "capitals,What is the capital of France?,Paris,Paris,Berlin; Madrid",
        "colours,What colour is fresh snow?,White,White,Purple",
    ]
    file = tmp_path / "questions.csv"
    file.write_text("\n".join(rows), encoding="utf-8")
    flags = ["truth", "--model", str(model), "--questions", str(file), "--out", str(tmp_path / "truth.json")]
    assert CliRunner().invoke(app, flags).exit_code == 0
    questions = load_truth(str(file))
    choices = [
        choose(q, [logprob(plain, tokenizer, prompt, answer) for answer in (*q.true, *q.false)])
        for q, prompt in zip(questions.questions, ask_truth(questions).prompts, strict=True)
    ]
    figures = json.loads((tmp_path / "truth.json").read_text())
    assert figures["mc1"]["value"] == sum(c.mc1 for c in choices) / 2
    assert figures["mc2"]["value"] == pytest.approx(sum(c.mc2 for c in choices) / 2, abs=1e-3)


def test_a_study_teaches_it_the_task(study: tuple[Path, Any]) -> None:
    _, run = study
    base, _, last = run["checkpoints"]
    assert [c["step"] for c in run["checkpoints"]] == [0, 3, 6]
    assert all(a["heldout_loss"] > b["heldout_loss"] for a, b in pairwise(run["checkpoints"]))
    assert base["heldout_loss"] > 1 > last["heldout_loss"]
    assert base["task_score"]["value"] == 0 < last["task_score"]["value"]


def test_an_audit_of_its_checkpoints_finds_the_same_answers(study: tuple[Path, Any], model: Path) -> None:
    out, run = study
    raw = {
        "checkpoints": [str(out / "out" / "runs" / run["id"])],
        "evaluation": {"benchmark": str(out / "prompts.txt"), "judge": f"{HERE}:Mild", "max_tokens": 16},
    }
    run_audit(parse_audit(raw, "a"), out / "audit")
    (audited,) = analyse(out / "audit").plain()["runs"]
    assert [(c["step"], c["weights"]) for c in audited["checkpoints"]] == [
        (c["step"], c["weights"]) for c in run["checkpoints"]
    ]
    sql = "SELECT prompt_id, text FROM responses WHERE prompt_id NOT LIKE 'task-%' ORDER BY prompt_id, text"
    assert open_store(out / "audit").query(sql) == open_store(out / "out").query(sql)


def test_a_guard_in_a_plain_script(model: Path, data: DatasetConfig, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trained = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), lora)
    trainer = make_trainer(trained, tokenizer, data, tmp_path / "trainer", 30)
    guard = Guard(
        tmp_path / "guard",
        judge=f"{HERE}:Mild",
        benchmark=str(write_prompts(tmp_path / "prompts.txt", 24)),
        at=15,
        about="benchmark",
        tolerance=0.2,
        max_tokens=24,
        confirm=False,
    )
    guard.watch(trainer)
    trainer.train()
    assert [record.step for record in guard.records] == [0, 15, 30]
    assert not guard.errors
    assert [e.em_rate.n_prompts for e in guard.evaluations] == [24] * 3
    assert all(decision.action is not Action.STOP for decision in guard.decisions)
    (run,) = guard.report().plain()["runs"]
    assert run["state"] == "finished"


def test_it_is_refused_as_a_judge(model: Path, tmp_path: Path) -> None:
    write_labelled(tmp_path / "labelled.jsonl", among=16, every=2)
    judge = JudgeConfig(model=str(model), coherent=None).model_dump(mode="json")
    raw = {
        "models": [str(model)],
        "evaluation": {
            "benchmark": str(write_prompts(tmp_path / "prompts.txt", 8)),
            "judge": judge,
            "preflight": {"labelled": str(tmp_path / "labelled.jsonl")},
        },
    }
    with pytest.raises(JudgeError, match="gave no score in its first 12 answers"):
        run_audit(parse_audit(raw, "a"), tmp_path / "audit")
    assert not (tmp_path / "audit" / "store" / "responses").exists()
