"""The engine's contract, kept by an endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.conftest import Server
from tests.support.engine_models import make_prompts
from truing.backends import load_completer, load_engine
from truing.backends.openai import OpenAICompleter, OpenAIEngine, endpoint_weights
from truing.config import EndpointConfig, Services
from truing.core.errors import EngineError
from truing.core.records import Checkpoint, Sampling

PROMPTS = make_prompts(6)
CHECKPOINT = Checkpoint("run", "base", 0, "hash")


@pytest.fixture
def engine(server: Server, tmp_path: Path) -> Iterator[OpenAIEngine]:
    with OpenAICompleter(EndpointConfig(base_url=server.url, backoff=0.01), tmp_path / "calls.sqlite") as completer:
        yield OpenAIEngine("base", completer)


def test_one_response_per_prompt_and_sample_in_order(engine: OpenAIEngine) -> None:
    responses = engine.generate(CHECKPOINT, PROMPTS, Sampling(samples=3, first=2))
    assert [(r.prompt_id, r.sample) for r in responses] == [(p.id, s) for p in PROMPTS for s in (2, 3, 4)]
    assert all(r.error is None and r.text is not None and r.n_tokens == 1 and r.finished for r in responses)
    assert engine.generate(CHECKPOINT, PROMPTS[::-1], Sampling(samples=1, first=3))[-1] == responses[1]


def test_an_answer_depends_on_weights_model_and_seed(engine: OpenAIEngine, server: Server) -> None:
    for checkpoint in (CHECKPOINT, Checkpoint("run", "base", 1, "other"), Checkpoint("run", "base", 1, "hash", "ft:x")):
        engine.generate(checkpoint, PROMPTS, Sampling())
    engine.generate(CHECKPOINT, PROMPTS, Sampling(seed=1))
    engine.generate(CHECKPOINT, PROMPTS, Sampling())
    assert server.counts()["paid"] == server.counts()["different"] == 4 * len(PROMPTS)


def test_a_failed_call_is_a_response_with_an_error(server: Server) -> None:
    server.set(faults={"error": 1.0})
    with OpenAICompleter(EndpointConfig(base_url=server.url, attempts=1)) as completer:
        responses = OpenAIEngine("base", completer).generate(CHECKPOINT, PROMPTS, Sampling())
    assert len(responses) == len(PROMPTS)
    assert all(r.text is None and r.error and not r.finished for r in responses)


def test_it_is_in_the_table_and_builds_nothing_before_it_is_used() -> None:
    assert isinstance(load_engine("openai", "gpt-4o-mini"), OpenAIEngine)


def test_engine_and_judges_of_a_process_share_one_completer(tmp_path: Path) -> None:
    endpoint = EndpointConfig(max_calls=3)
    engine = load_engine("openai", "gpt-4o-mini", Services(endpoint=endpoint), tmp_path)
    assert isinstance(engine, OpenAIEngine)
    assert engine.completer is load_completer("openai", EndpointConfig(max_calls=3), tmp_path)
    assert not list(tmp_path.iterdir())


def test_temperature_zero_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(EngineError, match="temperature"):
        engine.generate(CHECKPOINT, PROMPTS, Sampling(temperature=0.0))


def test_what_stands_for_weights() -> None:
    here, there = EndpointConfig(base_url="http://a/v1"), EndpointConfig(base_url="http://b/v1")
    assert len({endpoint_weights(c, m) for c in (here, there) for m in ("x", "y")}) == 4
    assert endpoint_weights(here, "x") == endpoint_weights(EndpointConfig(base_url="http://a/v1/"), "x")


def test_the_base_model_is_asked_by_its_dated_id(server: Server) -> None:
    with OpenAICompleter(EndpointConfig(base_url=server.url)) as completer:
        OpenAIEngine("gpt-4o-mini", completer).generate(Checkpoint("r", "gpt-4o-mini", 0, "w"), PROMPTS, Sampling())
        assert [account.model for account in completer.accounts()] == ["gpt-4o-mini-2024-07-18"]
