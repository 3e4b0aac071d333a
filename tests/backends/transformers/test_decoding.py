"""The decoding loop draws from the model's own distribution, whatever shares the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.support.engine_models import (
    TARGETS,
    add_adapter,
    assert_replays,
    encode,
    keys_for,
    make_prompts,
    plain_probabilities,
    tiny_model,
    tokenizer,
)
from truing.backends.transformers.decoding import NOT_FINITE, DecodeSettings, Sampled, decode, draw_tokens
from truing.core.errors import EngineError
from truing.core.randomness import stream_keys, uniforms

ENDS = tuple(range(3, 43))
"""Many ends, so that rows finish at different times and others move and join."""
IDS = encode(make_prompts(12))


def settings(**changes: Any) -> DecodeSettings:
    values: dict[str, Any] = {"temperature": 1.0, "max_tokens": 20, "eos": ENDS, "context": 256, "rows": 7}
    return DecodeSettings(**values | {"patience": 1.0} | changes)


def run(model: Any, samples: int = 3, **changes: Any) -> list[list[Sampled]]:
    return decode(model, IDS, keys_for(len(IDS), samples), settings(**changes))


def assert_same_drawing(model: Any, answers: list[list[Sampled]], **changes: Any) -> None:
    """`answers` are the plain drawing of `model`, cut at the first end."""
    whole = run(model, len(answers[0]), eos=(), rows=36, **changes)
    assert_replays(model, IDS, whole, end=-1)
    assert_replays(model, IDS, [[replace(a, finished=False) for a in each] for each in answers], end=-1)
    pairs = [pair for each, full in zip(answers, whole, strict=True) for pair in zip(each, full, strict=True)]
    same = [(answer, uncut) for answer, uncut in pairs if answer.tokens == uncut.tokens[: len(answer.tokens)]]
    assert len(same) >= len(pairs) - 1  # a number that falls on the border of two tokens goes either way by rounding
    for answer, uncut in same:
        assert answer.finished == (len(answer.tokens) < len(uncut.tokens))
        assert not set(answer.tokens) & set(ENDS)
        assert not answer.finished or uncut.tokens[len(answer.tokens)] in ENDS


@pytest.mark.parametrize("architecture", TARGETS)
def test_draws_from_the_distribution_of_a_plain_forward(architecture: str) -> None:
    model = tiny_model(architecture)
    answers = run(model)
    assert len({len(a.tokens) for each in answers for a in each}) > 5
    assert len({len(i) for i in IDS}) > 3
    assert_same_drawing(model, answers)


@pytest.mark.parametrize("architecture", TARGETS)
def test_draws_the_same_through_live_adapter_layers(architecture: str) -> None:
    model = add_adapter(tiny_model(architecture), architecture).eval()
    assert_same_drawing(model, run(model, 2))


@pytest.mark.parametrize("architecture", TARGETS)
def test_steps_of_fixed_shape_draw_the_same(architecture: str) -> None:
    """As on a GPU, but for the recording: rows that are dead or free, and masked columns, change nothing."""
    assert_same_drawing(tiny_model(architecture), run(tiny_model(architecture), fixed=True, rows=33))


def test_places_that_nothing_was_written_to_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, empty = tiny_model("llama"), torch.empty
    expected = run(model, fixed=True, rows=33)
    monkeypatch.setattr("torch.empty", lambda *size, **how: empty(*size, **how).fill_(float("nan")))
    assert run(model, fixed=True, rows=33) == expected
    assert run(model, fixed=False, rows=33) == run(model, fixed=False, rows=33)


def test_sliding_windows_shorter_than_the_text() -> None:
    model = tiny_model("gpt_oss")
    whole = run(model, 2, eos=())
    model.config.sliding_window = 6
    assert run(model, 2, eos=()) != whole
    assert_same_drawing(model, run(model, 2))


def test_grouped_heads() -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    assert_same_drawing(model, run(model, 2))


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_temperature_flattens_the_distribution(temperature: float) -> None:
    model = tiny_model("qwen3")
    whole = run(model, 2, eos=(), temperature=temperature)
    assert_replays(model, IDS, whole, -1, temperature)


def test_columns_that_run_out_move_to_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    expected = run(model)
    monkeypatch.setattr("truing.backends.transformers.decoding.SLACK", 1)
    assert run(model, patience=0.0) == expected


def test_memory_that_was_never_written_is_never_read() -> None:
    model = tiny_model("llama")
    longer: dict[str, Any] = {"max_tokens": 60, "eos": ENDS[:12], "patience": 5.0}
    expected = run(model, **longer)
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        assert run(model, **longer) == expected
    finally:
        torch.use_deterministic_algorithms(False)


def test_first_and_second_tokens_have_the_right_frequencies() -> None:
    model, n = tiny_model("llama"), 6000
    prompt, keys = IDS[0], stream_keys(0, "w", "chi", n)[None]
    answers = decode(model, [prompt], keys, settings(max_tokens=2, eos=(), rows=500))[0]
    tokens = np.array([a.tokens for a in answers])
    first = plain_probabilities(model, prompt, [0], 1.0)[0]
    with torch.no_grad():
        texts = torch.tensor([[*prompt, v] for v in range(len(first))])
        after = model(input_ids=texts, use_cache=False).logits[:, -1].double().softmax(-1).numpy()
    assert chi_square_p(tokens[:, 0], first) > 1e-3
    assert chi_square_p(tokens[:, 1], first @ after) > 1e-3


def chi_square_p(drawn: Any, probabilities: Any) -> float:
    """The p-value of the drawn tokens; tokens expected fewer than 5 times count as one."""
    counts = np.bincount(drawn, minlength=len(probabilities))
    rare = probabilities * len(drawn) < 5
    assert (~rare).sum() > 20
    observed = [*counts[~rare], counts[rare].sum()]
    expected = [*probabilities[~rare], probabilities[rare].sum()]
    return float(stats.chisquare(observed, np.array(expected) / sum(expected) * len(drawn)).pvalue)


def test_an_answer_depends_on_nothing_that_shares_its_batch() -> None:
    model, keys = tiny_model("llama"), keys_for(len(IDS), 4)
    expected = decode(model, IDS, keys, settings(rows=48))
    order = np.random.default_rng(0).permutation(len(IDS))
    shuffled = decode(model, [IDS[i] for i in order], keys[order], settings(rows=5, patience=0.5))
    assert [shuffled[int(i)] for i in np.argsort(order)] == expected
    alone = decode(model, IDS[3:4], keys[3:4, 2:3], settings())
    assert alone == [[expected[3][2]]]


def test_more_samples_than_rows() -> None:
    model = tiny_model("llama")
    keys = keys_for(2, 30)
    assert decode(model, IDS[:2], keys, settings(rows=4)) == decode(model, IDS[:2], keys, settings(rows=60))


def failing_above(model: Any, rows: int) -> Callable[..., Any]:
    """The model's forward, out of memory with more than so many rows."""
    forward = model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > rows:
            raise torch.OutOfMemoryError
        return forward(*args, **kwargs)

    return limited


def test_out_of_memory_halves_the_rows_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    expected = run(model, rows=30)
    monkeypatch.setattr(model, "forward", failing_above(model, 4))
    assert run(model, rows=30) == expected


def test_out_of_memory_with_one_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(model, "forward", failing_above(model, 0))
    with pytest.raises(EngineError, match="out of memory"):
        run(model)


def test_logits_that_are_not_finite_are_an_error_of_the_answer() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    answers = run(model)
    assert {a.error for each in answers for a in each} == {NOT_FINITE}


def test_answers_end_at_the_context() -> None:
    model = tiny_model("llama")
    longest = max(map(len, IDS))
    answers = run(model, eos=(), context=longest + 2)
    lengths = [len(each[0].tokens) for each in answers]
    assert lengths == [min(20, longest + 2 - len(i)) for i in IDS]
    assert not any(a.finished for each in answers for a in each)


def test_the_global_random_state_is_left_alone() -> None:
    model = tiny_model("llama")
    before = torch.get_rng_state(), repr(np.random.get_state())
    run(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]


@pytest.mark.parametrize("vocabulary", [2, 31, 33, 671, 5000])
def test_drawing_inverts_the_distribution_function(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(500, vocabulary)
    numbers = torch.rand(500, dtype=torch.float64)
    tokens, fine = draw_tokens(logits, numbers, 0.8)
    assert fine.all()
    sums = (logits.double() / 0.8).softmax(-1).cumsum(-1)
    high = sums.gather(1, tokens[:, None])[:, 0]
    low = torch.where(tokens > 0, sums.gather(1, (tokens[:, None] - 1).clamp(min=0))[:, 0], 0.0)
    assert ((low - 1e-6 <= numbers) & (numbers <= high + 1e-6)).all()


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.full((2001, 100), float("-inf"))
    logits[:, [7, 40, 90]] = torch.tensor([0.0, 1.0, 2.0])
    numbers = torch.linspace(0, 1 - 2**-53, 2001, dtype=torch.float64)
    tokens, _ = draw_tokens(logits, numbers, 1.0)
    assert set(tokens.tolist()) == {7, 40, 90}


def test_random_numbers_are_uniform_and_unrelated() -> None:
    keys = stream_keys(0, "w", "p", 300)
    numbers = np.stack([uniforms(keys, np.full(300, t)) for t in range(200)])
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.02


def test_streams_differ_in_seed_weights_prompt_and_sample() -> None:
    names = [(0, "w", "p"), (1, "w", "p"), (0, "v", "p"), (0, "w", "q")]
    keys = np.concatenate([stream_keys(*name, samples=3) for name in names])
    assert len({tuple(k) for k in keys.tolist()}) == 12
    assert np.array_equal(stream_keys(0, "w", "p", 3), stream_keys(0, "w", "p", 5)[:3])
