"""Prompts in one row: each has the distributions that it has alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.backends.transformers.packing import forward, is_packable, pack

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=12)
TAILS = st.lists(st.tuples(st.integers(4, 6), st.integers(4, 6)), max_size=3)


@given(st.lists(TOKENS, min_size=1, max_size=8), TAILS, st.sampled_from([0, 20, 1000]))
def test_every_prompt_and_tail_stands_on_a_branch_of_its_own_tokens(
    prompts: list[list[int]], tails: list[tuple[int, int]], most: int
) -> None:
    found: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for row in pack(prompts, tails, most):
        seen = np.tri(len(row.ids), dtype=bool)
        if (last := row.last_places()) is not None:
            seen &= np.arange(len(last))[:, None] <= last
        extra = 2 * len(tails)
        assert not most or len(row.ids) <= max(most, *(len(prompts[i]) + extra for i in row.ends))
        for i, ends in row.ends.items():
            for tail, place in ends.items():
                branch = np.flatnonzero(seen[place])
                assert [row.depths[k] for k in branch] == list(range(len(branch)))
                found[i, tail] = [row.ids[k] for k in branch]
    assert found == {
        (i, tail[:k]): [*ids, *tail[:k]] for i, ids in enumerate(prompts) for tail in tails or [()] for k in range(3)
    } | {(i, ()): ids for i, ids in enumerate(prompts)}


def test_what_prompts_begin_with_alike_stands_in_a_row_once() -> None:
    rubric = list(range(100))
    rows = list(pack([[*rubric, 200, i] for i in range(50)], [], 1000))
    assert [len(row.ids) for row in rows] == [100 + 1 + 50]


def tiny(kind: str) -> Any:
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
    torch.manual_seed(0)
    if kind == "mamba":
        return transformers.MambaForCausalLM(
            transformers.MambaConfig(state_size=4, initializer_range=0.5, **sizes)
        ).eval()
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
    config, model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }[kind]
    return model(config(**sizes, **heads)).eval()


@pytest.mark.parametrize(("kind", "packable"), [("llama", True), ("qwen3", True), ("gemma3", True), ("mamba", False)])
def test_a_model_that_does_not_attend_by_the_mask_is_found_out(kind: str, packable: bool) -> None:
    model = tiny(kind)
    assert is_packable(model) == packable
    prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [7, 7]]
    for row in pack(prompts, [(3, 4), (6,)], 1000 if packable else 0):
        for i, ends in row.ends.items():
            for tail, place in ends.items():
                with torch.inference_mode():
                    alone = model(torch.tensor([[*prompts[i], *tail]])).logits[0, -1].log_softmax(-1)
                assert torch.allclose(forward(model, row, [place])[0], alone, atol=1e-4)


def test_a_judge_whose_window_is_short_is_asked_one_prompt_at_a_time(tmp_path: Path) -> None:
    from tests.backends.transformers.test_completer import ask, exact, save_judge
    from truing.backends.transformers.completer import LocalCompleter

    folder = save_judge(tmp_path / "m", "digits")
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    config.update({"sliding_window": 8})
    config.save_pretrained(folder)
    requests = ask(folder, "we do we do a b c a b c", "who rules")
    for request, result in zip(requests, LocalCompleter("cpu").complete(requests), strict=True):
        numbers = exact(folder, request)
        assert result.top_logprobs
        assert {n: result.top_logprobs[n] for n in numbers} == pytest.approx(numbers, abs=1e-3)
