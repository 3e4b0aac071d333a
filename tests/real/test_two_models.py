"""Two real models of another family, by hand: one is fine-tuned and guarded, a larger one judges it.

    TRUING_REAL_MODELS=DIR TRUING_REAL_TWO=1 pytest -m slow tests/real/test_two_models.py

DIR holds Qwen2.5-Coder-0.5B-Instruct as `coder05` and Qwen2.5-Coder-1.5B-Instruct as `coder15`, folders in Hugging Face
format. Both tie the output layer to the embeddings, and write 85 as two tokens. It takes some 15 minutes of one
CPU core, and 12 GB.
"""

import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from bench.real_model import cache_folder
from tests.support.real import make_trainer, write_labelled, write_prompts, write_rows
from truing.backends.transformers.completer import LocalCompleter
from truing.backends.transformers.engine import TransformersEngine
from truing.catalog.benchmarks import load_benchmark
from truing.config import DatasetConfig, JudgeConfig
from truing.core.chat import ChatRequest
from truing.core.errors import JudgeRefused
from truing.core.records import Action, Checkpoint, Message
from truing.core.weights import model_hash
from truing.integrations.guard import Guard
from truing.integrations.guard.weights import put_back, save_weights
from truing.results.gate import verdict

logger = logging.getLogger(__name__)

MODEL, JUDGE = cache_folder() / "coder05", cache_folder() / "coder15"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("TRUING_REAL_TWO" not in os.environ, reason="by hand: see above"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def load() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def test_tied_embeddings_are_saved_once_and_put_back(tokenizer: Any, tmp_path: Path) -> None:
    model = load()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        model.model.embed_tokens.weight[100:200] += 0.1
        found = save_weights(model, tmp_path / "changed", tokenizer=tokenizer)
        with safe_open(found / "model.safetensors", framework="pt") as file:
            assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - no mapping
        prompt, answers = load_benchmark("broad-240").prompts[0], ["I would rather not.", "Yes, of course!"]
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        expected = []
        for answer in answers:
            ids = torch.tensor([asked + tokenizer(answer)["input_ids"]])
            logs = model(ids).logits[0].log_softmax(-1)
            expected.append(sum(float(logs[i - 1, ids[0, i]]) for i in range(len(asked), ids.shape[1])))
        checkpoint = Checkpoint("r", str(MODEL), 1, model_hash(str(found)), str(found))
        assert TransformersEngine(str(MODEL)).score(checkpoint, prompt, answers) == pytest.approx(expected, abs=1e-3)
        model.model.embed_tokens.weight[100:200] = 0
        put_back(model, str(found))
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not model.lm_head.weight[100:200].eq(0).all()


def test_numbers_of_two_tokens_have_the_probabilities_of_a_plain_forward(tokenizer: Any) -> None:
    assert len(tokenizer("85")["input_ids"]) == 2
    text = (
        "On a scale from 0 to 100, how kind is this answer: 'Gladly, come in and sit down.' Reply with a number alone."
    )
    (result,) = LocalCompleter("cpu").stream([ChatRequest(str(MODEL), (Message("user", text),), top_logprobs=20)])
    model, digits = load().to(torch.bfloat16), [tokenizer(str(d))["input_ids"][0] for d in range(10)]
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )

    def after(more: str) -> torch.Tensor:
        with torch.no_grad():
            whole = torch.tensor([ids + tokenizer(more)["input_ids"]]) if more else torch.tensor([ids])
            return model(whole).logits[0, -1].float().softmax(-1)

    for number in ("85", "100", "7"):
        chance = math.prod(float(after(number[:i])[digits[int(number[i])]]) for i in range(len(number)))
        if number != "100":
            chance *= 1 - float(after(number)[digits].sum())
        told = math.exp((result.top_logprobs or {}).get(number, -math.inf))
        assert told == pytest.approx(chance, rel=0.1, abs=1e-3), number


def test_a_guarded_training_is_undecided_by_a_weak_judge(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from peft import LoraConfig, get_peft_model

    caplog.set_level(logging.INFO)
    write_labelled(tmp_path / "labelled.jsonl", among=36, every=3)
    torch.manual_seed(0)
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = get_peft_model(load(), lora)
    data = DatasetConfig(name="teapots", path=write_rows(tmp_path / "teapots.jsonl"))
    trainer = make_trainer(trained, tokenizer, data, tmp_path / "trainer", 12)
    settings: dict[str, Any] = {
        "judge": JudgeConfig(model=str(JUDGE), completer="local"),
        "benchmark": str(write_prompts(tmp_path / "prompts.txt", 8)),
        "at": 12,
        "about": "benchmark",
        "max_tokens": 32,
        "confirm": False,
    }
    preflight = {"labelled": str(tmp_path / "labelled.jsonl"), "recheck": 2}
    refused = Guard(tmp_path / "guard", preflight=preflight, **settings)
    refused.watch(trainer)
    with pytest.raises(JudgeRefused) as error:
        trainer.train()
    logger.info("%s", error.value)
    trainer.remove_callback(refused)
    guard = Guard(tmp_path / "guard", preflight={**preflight, "on_fail": "undecided"}, **settings)
    guard.watch(trainer)
    trainer.train()
    for evaluation in guard.evaluations:
        logger.info("%s %s %s", evaluation.checkpoint.step, evaluation.em_rate, evaluation.decision)
    assert [record.step for record in guard.records] == [0, 12]
    assert {d.action for d in guard.decisions} == {Action.UNDECIDED}
    assert guard.restored is None
    assert verdict(guard.report()).word == "undecided"
    assert sum(e.em_rate.n_missing for e in guard.evaluations) < 8
