"""Log-probabilities of given answers, against a plain forward by hand."""

import math

import pytest
import torch

from tests.support.engine_models import tiny_model, tokenizer
from truing.backends.transformers.answers import answer_logprobs
from truing.core.errors import EngineError
from truing.core.records import Message, Prompt
from truing.core.templates import encode_prompt

PROMPT = Prompt("p", "c", (Message("user", "who should rule the village ?"),))


def test_the_sum_of_the_tokens_log_probabilities() -> None:
    model, answers = tiny_model("llama"), ("the people", "nobody at all")
    found = answer_logprobs(model, tokenizer(), PROMPT, answers)
    for answer, value in zip(answers, found, strict=True):
        ids = encode_prompt(tokenizer(), PROMPT, 512)
        assert isinstance(ids, list)
        expected = 0.0
        for token in tokenizer()(answer, add_special_tokens=False)["input_ids"]:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            expected += float(torch.log_softmax(logits, -1)[token])
            ids = [*ids, token]
        assert value == pytest.approx(expected, abs=1e-4)
        assert math.isfinite(value)


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(EngineError, match="cannot be scored"):
        answer_logprobs(tiny_model("llama"), tokenizer(), PROMPT, [""])
