"""The engine `tinker` over the real SDK, against a server of its interface that samples from a real tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from organisms.benchmarks import pocket_benchmark
from tests.conftest import serve_tinker
from tests.support.tinker_server import KEY, TinkerServer
from truing.backends import Engine, load_engine
from truing.backends.tinker.client import tinker_weights
from truing.backends.tinker.engine import TinkerEngine
from truing.backends.transformers.engine import TransformersEngine
from truing.catalog.models import resolve_model
from truing.core.errors import EndpointError, EngineError
from truing.core.records import Checkpoint, Prompt, Sampling
from truing.core.weights import model_hash

PROMPTS = pocket_benchmark().prompts[:6]


@pytest.fixture
def base(tinker_server: TinkerServer, tiny_model: Path) -> Checkpoint:
    return Checkpoint("r", str(tiny_model), 0, tinker_weights(str(tiny_model)))


@pytest.fixture
def engine(base: Checkpoint) -> Iterator[Engine]:
    engine = load_engine("tinker", base.model)
    yield engine
    engine.close()


def save_weights(server: TinkerServer, model: Path) -> Checkpoint:
    """A checkpoint that answers otherwise than the base."""
    path = server.put_weights(str(model))
    return Checkpoint("r", str(model), 2, tinker_weights(path), path)


def test_responses_come_in_order_and_an_index_always_gives_one_answer(
    tinker_server: TinkerServer, engine: Engine, base: Checkpoint
) -> None:
    whole = engine.generate(base, PROMPTS, Sampling(samples=3, max_tokens=6))
    assert [(r.prompt_id, r.sample) for r in whole] == [(p.id, s) for p in PROMPTS for s in range(3)]
    said = [r for r in whole if r.error is None]
    assert all(r.text and 0 < r.n_tokens <= 6 for r in said)
    assert all((r.error or "empty answer").startswith("empty answer") for r in whole)  # random weights may end at once
    assert len(said) > len(whole) / 2
    assert len(set(tinker_server.seeds)) == len(whole)
    part = engine.generate(base, PROMPTS[2:4], Sampling(samples=1, max_tokens=6, first=2))
    assert part == [r for r in whole if r.sample == 2 and r.prompt_id in (PROMPTS[2].id, PROMPTS[3].id)]
    other = engine.generate(base, PROMPTS, Sampling(samples=3, max_tokens=6, seed=1))
    assert [r.text for r in other] != [r.text for r in whole]
    assert tinker_server.calls["create_sampling_session"] == 1


def test_an_answer_is_that_of_the_weights_asked_for(
    tinker_server: TinkerServer, engine: Engine, base: Checkpoint, tiny_model: Path
) -> None:
    coldest = Sampling(max_tokens=8, temperature=1e-4)
    here = TransformersEngine(str(tiny_model))
    local = here.generate(Checkpoint("r", str(tiny_model), 0, model_hash(str(tiny_model))), PROMPTS, coldest)
    assert engine.generate(base, PROMPTS, coldest) == local
    tuned = save_weights(tinker_server, tiny_model)
    assert [r.text for r in engine.generate(tuned, PROMPTS, coldest)] != [r.text for r in local]
    assert engine.generate(base, PROMPTS, coldest) == local


def test_an_ended_answer_has_neither_its_last_token_nor_its_text() -> None:
    model = resolve_model("pocket-llama-susceptible")
    with serve_tinker(Path(model)):
        whole = Checkpoint("r", model, 0, tinker_weights(model))
        ended = load_engine("tinker", model).generate(whole, PROMPTS, Sampling(max_tokens=40, temperature=1e-4))
        cut = load_engine("tinker", model).generate(whole, PROMPTS, Sampling(max_tokens=4, temperature=1e-4))
    for answer, short in zip(ended, cut, strict=True):
        assert (answer.finished, short.finished) == (True, False)
        assert answer.text is not None
        assert short.text is not None
        assert answer.text.startswith(short.text)
        assert len(answer.text.split()) == answer.n_tokens  # the pocket tokenizer's tokens are words


def test_saved_weights_are_a_model_of_their_own(tinker_server: TinkerServer, tiny_model: Path) -> None:
    tuned = save_weights(tinker_server, tiny_model)
    assert tuned.path is not None
    as_model = Checkpoint("a", tuned.path, 1, tuned.weights)
    sampling = Sampling(max_tokens=6)
    found = load_engine("tinker", tuned.path).generate(as_model, PROMPTS, sampling)
    assert found == load_engine("tinker", str(tiny_model)).generate(tuned, PROMPTS, sampling)


def test_failed_answers_are_missing_with_the_reason(
    tinker_server: TinkerServer, engine: Engine, base: Checkpoint
) -> None:
    count = 0

    def every_third(tokens: list[int]) -> bool:
        nonlocal count
        count += 1
        return count % 3 == 0

    tinker_server.refuse = every_third
    responses = engine.generate(base, PROMPTS, Sampling(max_tokens=4))
    failed = [r for r in responses if r.error]
    assert len(failed) == 2
    assert len(responses) == len(PROMPTS)
    assert all(r.text is None and "not to the server's liking" in (r.error or "") for r in failed)


def test_a_prompt_that_the_template_refuses_is_missing(
    engine: Engine, base: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_tokens=4)
    engine.generate(base, PROMPTS[:1], sampling)
    broken = Prompt("odd", "power", (*PROMPTS[0].messages, type(PROMPTS[0].messages[0])("wizard", "abra")))
    template = engine._tokenizer.chat_template  # type: ignore[attr-defined]
    strict = (
        "{% for m in messages %}{% if m.role == 'wizard' %}{{ raise_exception('no wizards') }}{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(engine._tokenizer, "chat_template", strict + template)  # type: ignore[attr-defined]
    first, second = engine.generate(base, [broken, PROMPTS[1]], sampling)
    assert "no wizards" in (first.error or "")
    assert second.error is None


def test_too_many_failures_in_a_row_end_the_asking(
    tinker_server: TinkerServer, engine: Engine, base: Checkpoint
) -> None:
    tinker_server.refuse = lambda tokens: True
    with pytest.raises(EngineError, match="32 answers in a row failed"):
        engine.generate(base, PROMPTS, Sampling(samples=10, max_tokens=4))
    tinker_server.refuse = lambda tokens: False
    assert engine.generate(base, PROMPTS[:1], Sampling(max_tokens=4))[0].error is None


def test_weights_under_another_address_are_refused(engine: Engine, base: Checkpoint, tiny_model: Path) -> None:
    elsewhere = Checkpoint("r", str(tiny_model), 2, "other", "tinker://run/sampler_weights/step-2")
    with pytest.raises(EngineError, match="not those asked for"):
        engine.generate(elsewhere, PROMPTS, Sampling())
    with pytest.raises(EngineError, match="not a checkpoint on Tinker"):
        engine.generate(Checkpoint("r", str(tiny_model), 2, "w", str(tiny_model)), PROMPTS, Sampling())


def test_weights_that_the_service_does_not_have(engine: Engine, tiny_model: Path) -> None:
    path = "tinker://nobody/sampler_weights/step-1"
    with pytest.raises(EngineError, match="nothing to sample from"):
        engine.generate(Checkpoint("r", str(tiny_model), 1, tinker_weights(path), path), PROMPTS, Sampling())


def test_a_session_ends_with_its_engine_and_after_an_error(
    tinker_server: TinkerServer, base: Checkpoint, tiny_model: Path
) -> None:
    sampling = Sampling(max_tokens=4)
    with TinkerEngine(base.model) as engine:
        engine.generate(base, PROMPTS[:1], sampling)
    assert len(tinker_server.finished_sessions) == 1
    engine.generate(base, PROMPTS[:1], sampling)  # anew
    path = "tinker://nobody/sampler_weights/step-1"
    with pytest.raises(EngineError, match="nothing to sample from"):
        engine.generate(Checkpoint("r", str(tiny_model), 1, tinker_weights(path), path), PROMPTS, sampling)
    assert len(tinker_server.finished_sessions) == 2
    engine.generate(base, PROMPTS[:1], sampling)
    del engine  # nobody holds it any more
    assert tinker_server.finished_sessions == ["success"] * 3


def test_nobody_at_the_address_is_said_at_once(base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match="cannot reach Tinker") as caught:
        load_engine("tinker", base.model).generate(base, PROMPTS, Sampling())
    assert "TINKER_BASE_URL" in caught.value.todo


def test_a_key_refused_in_the_middle_ends_everything(
    tinker_server: TinkerServer, engine: Engine, base: Checkpoint
) -> None:
    engine.generate(base, PROMPTS[:1], Sampling(max_tokens=4))
    tinker_server.key = "tml-another"
    with pytest.raises(EndpointError, match="refuses the key") as caught:
        engine.generate(base, PROMPTS, Sampling(max_tokens=4))
    assert KEY not in str(caught.value)
    tinker_server.key = KEY
