"""What every engine must do, and that it can do what the table says. A further engine is one more entry of `SERVED`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.backends.conftest import Server
from tests.conftest import serve_tinker
from tests.support.engine_models import Organism, make_prompts, texts
from tests.support.vllm_environment import PYTHON, needs_vllm
from truing.backends import ENGINES, Backend, Engine, find_backend
from truing.backends.openai import OpenAICompleter, OpenAIEngine
from truing.backends.scripted.engine import ScriptedEngine
from truing.backends.transformers.engine import TransformersEngine
from truing.backends.vllm import VllmEngine
from truing.config import EndpointConfig, Services, VllmConfig
from truing.core.errors import EngineError
from truing.core.records import Checkpoint, Message, Sampling

PROMPTS = make_prompts(6)
SAMPLING = Sampling(samples=3, max_tokens=12)


@dataclass(frozen=True)
class Served:
    """An engine and two checkpoints that it can sample."""

    engine: Engine
    base: Checkpoint
    tuned: Checkpoint


@contextmanager
def transformers(organism: Organism) -> Iterator[Served]:
    yield Served(TransformersEngine(organism.base), organism.base_checkpoint, organism.adapter_checkpoint)


@contextmanager
def openai(organism: Organism) -> Iterator[Served]:
    server = Server()
    with OpenAICompleter(EndpointConfig(base_url=server.url)) as completer:
        tuned = Checkpoint("run", "base", 5, "tuned", "ft:base")
        yield Served(OpenAIEngine("base", completer), Checkpoint("run", "base", 0, "base"), tuned)
    server.close()


@contextmanager
def vllm(organism: Organism) -> Iterator[Served]:
    with VllmEngine(organism.base, VllmConfig(python=PYTHON, dtype="float32")) as engine:
        yield Served(engine, organism.base_checkpoint, organism.adapter_checkpoint)


@contextmanager
def tinker(organism: Organism) -> Iterator[Served]:
    pytest.importorskip("tinker", reason='needs tinker: pip install "truing[tinker]"')
    from truing.backends.tinker.client import tinker_weights
    from truing.backends.tinker.engine import TinkerEngine

    with serve_tinker(Path(organism.base)) as server:
        name = server.put_weights(organism.base)
        base = Checkpoint("run", organism.base, 0, tinker_weights(organism.base))
        tuned = Checkpoint("run", organism.base, 5, tinker_weights(name), name)
        with TinkerEngine(organism.base) as engine:
            yield Served(engine, base, tuned)


@contextmanager
def scripted(organism: Organism) -> Iterator[Served]:
    yield Served(ScriptedEngine(organism.base), organism.base_checkpoint, organism.adapter_checkpoint)


SERVED: dict[str, Callable[[Organism], AbstractContextManager[Served]]] = {
    "transformers": transformers,
    "openai": openai,
    "vllm": vllm,
    "tinker": tinker,
    "scripted": scripted,
}
MARKS = {"vllm": needs_vllm}


@pytest.fixture(autouse=True)
def _nothing_left_by_a_test() -> None:
    """Nothing of an engine is looked for before the module's end: it stays open from test to test."""


@dataclass(frozen=True)
class Case:
    """What an engine serves, and what the table says of it."""

    name: str
    served: Served

    @property
    def row(self) -> Backend:
        return find_backend("engine", self.name)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in SERVED])
def case(request: pytest.FixtureRequest, llama: Organism) -> Iterator[Case]:
    with SERVED[request.param](llama) as each:
        yield Case(request.param, each)


@pytest.fixture
def served(case: Case) -> Served:
    return case.served


def test_every_engine_is_here() -> None:
    assert set(SERVED) == set(ENGINES)


def test_one_response_per_prompt_and_sample_in_order(served: Served) -> None:
    for checkpoint in (served.base, served.tuned):
        responses = served.engine.generate(checkpoint, PROMPTS, replace(SAMPLING, first=2))
        assert [(r.prompt_id, r.sample) for r in responses] == [(p.id, s) for p in PROMPTS for s in (2, 3, 4)]
        for response in responses:
            assert response.error is None
            assert response.text
            assert 0 < response.n_tokens <= 12


def test_an_answer_is_named_by_seed_weights_prompt_and_index(served: Served) -> None:
    answers = served.engine.generate(served.tuned, PROMPTS, SAMPLING)
    by_name = {(r.prompt_id, r.sample): r for r in answers}
    again = served.engine.generate(served.tuned, PROMPTS[::-1], replace(SAMPLING, samples=2, first=1))
    assert again == [by_name[p.id, i] for p in PROMPTS[::-1] for i in (1, 2)]
    for other in (
        served.engine.generate(served.base, PROMPTS, SAMPLING),
        served.engine.generate(served.tuned, PROMPTS, replace(SAMPLING, seed=1)),
    ):
        assert sum(a == b for a, b in zip(texts(answers), texts(other), strict=True)) < len(answers) / 2


def test_nothing_asked_is_nothing_answered(served: Served) -> None:
    assert served.engine.generate(served.tuned, [], SAMPLING) == []
    assert served.engine.generate(served.tuned, PROMPTS, replace(SAMPLING, samples=0)) == []


def test_a_temperature_of_zero_is_refused(served: Served) -> None:
    with pytest.raises(EngineError, match="temperature"):
        served.engine.generate(served.base, PROMPTS, replace(SAMPLING, temperature=0.0))


def test_a_prefill_is_gone_on_from_or_missing_with_the_reason(case: Case) -> None:
    begun = replace(PROMPTS[0], messages=(*PROMPTS[0].messages, Message("assistant", "the sky is")))
    (response,) = case.served.engine.generate(case.served.base, [begun], Sampling(max_tokens=4))
    assert (response.error is None) is (response.text is not None) is case.row.prefill


def test_given_answers_are_scored_or_refused(case: Case) -> None:
    served, answers = case.served, ["the sky is blue", "we do"]
    if not case.row.log_probabilities:
        with pytest.raises(EngineError, match="log-probabilities"):
            served.engine.score(served.base, PROMPTS[0], answers)
        return
    scores = served.engine.score(served.base, PROMPTS[0], answers)
    assert len(scores) == 2
    assert all(score < 0 for score in scores)


def test_adapters_in_folders_are_sampled_or_refused(case: Case, llama: Organism) -> None:
    checkpoint = llama.adapter_checkpoint
    if case.row.adapters:
        assert case.served.engine.generate(checkpoint, PROMPTS[:1], Sampling(max_tokens=4))[0].error is None
    elif not case.row.prefix:  # a server takes any text for a name
        with pytest.raises(EngineError, match="not a checkpoint"):
            case.served.engine.generate(checkpoint, PROMPTS[:1], Sampling(max_tokens=4))


def test_weights_have_a_name_that_checkpoints_of_the_model_bear(case: Case, llama: Organism) -> None:
    found = type(case.served.engine).weights_of(llama.base, Services())
    assert found == type(case.served.engine).weights_of(llama.base, Services())
    if not case.row.by_name:
        assert found == llama.base_checkpoint.weights


def test_answers_that_were_fetched_ahead_are_those_of_later_calls(served: Served) -> None:
    sampling = replace(SAMPLING, seed=7)
    served.engine.prefetch([served.base, served.tuned], PROMPTS, sampling)
    found = [served.engine.generate(c, PROMPTS, sampling) for c in (served.tuned, served.base)]
    served.engine.close()
    assert [served.engine.generate(c, PROMPTS, sampling) for c in (served.tuned, served.base)] == found
