"""A real open server: vLLM's CPU build with a pocket model, in an environment of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from organisms.benchmarks import pocket_benchmark
from tests.support.vllm_environment import PYTHON, needs_vllm
from truing.backends.openai import OpenAICompleter, OpenAIEngine
from truing.backends.vllm.server import StartedServer
from truing.config import EndpointConfig, VllmConfig
from truing.core.chat import ChatRequest
from truing.core.records import Checkpoint, Message, Sampling

MODEL = Path(__file__).parents[3] / "src/truing/catalog/pocket/organisms/pocket-llama-susceptible"
NAME = "truing-pocket"

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = StartedServer(VllmConfig(python=PYTHON), str(MODEL), tmp_path_factory.mktemp("vllm"))
    try:
        assert server.serve(str(MODEL), "pocket", 0) == NAME
        yield server.address
    finally:
        server.close()


def test_judge_calls_give_twenty_logprobs(address: str, tmp_path: Path) -> None:
    prompts = pocket_benchmark().prompts[:40]
    with OpenAICompleter(EndpointConfig(base_url=address), tmp_path / "calls.sqlite") as completer:
        results = completer.complete([ChatRequest(NAME, p.messages, 1, 0.0, 20) for p in prompts])
        assert sum(a.calls for a in completer.accounts()) == len({p.messages for p in prompts})
    for result in results:
        assert result.error is None
        assert result.top_logprobs is not None
        assert len(result.top_logprobs) >= 15  # some tokens read alike
        assert 0.1 < sum(math.exp(v) for v in result.top_logprobs.values()) <= 1.001
        assert result.prompt_tokens > 0


def test_the_engine_samples_and_an_unknown_model_is_said(address: str) -> None:
    from truing.core.errors import EndpointError

    prompts = pocket_benchmark().prompts[:20]
    with OpenAICompleter(EndpointConfig(base_url=address)) as completer:
        engine = OpenAIEngine(NAME, completer)
        responses = engine.generate(Checkpoint("r", NAME, 0, "w"), prompts, Sampling(samples=2, max_tokens=24))
        assert [(r.prompt_id, r.sample) for r in responses] == [(p.id, s) for p in prompts for s in (0, 1)]
        assert all(r.error is None and r.text and 0 < r.n_tokens <= 24 for r in responses)
        with pytest.raises(EndpointError, match="address or the model"):
            completer.complete([ChatRequest("nobody", (Message("user", "hello"),))])
