"""Answers are asked for once, whatever asks for them."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.monitor.test_monitor import BROAD, CountingJudge, Speaker, checkpoint
from truing.config import EvaluationConfig
from truing.core.errors import EngineError
from truing.core.records import Sampling
from truing.monitor.sampler import DRAWN, FIXED, FRESH, Probe, Prober
from truing.monitor.store import Store


def prober(root: Path, engine: Speaker | None = None) -> tuple[Prober, Probe]:
    judge = CountingJudge()
    return Prober(Store(root), engine or Speaker(0), EvaluationConfig()), Probe(BROAD, judge, 2)


def test_pairs_that_are_held_are_not_asked_for_again(tmp_path: Path) -> None:
    engine = Speaker(0)
    asking, probe = prober(tmp_path, engine)
    one, two = (BROAD[0].id, DRAWN), (BROAD[1].id, DRAWN)
    asking.judged(checkpoint(1), probe, [one], DRAWN)
    _, judgments = asking.judged(checkpoint(1), probe, [two, one, two], DRAWN)
    assert [(j.prompt_id, j.sample) for j in judgments] == [two, one, two]
    assert probe.judge.judged == 2  # type: ignore[attr-defined]
    again, same = prober(tmp_path, engine)
    again.judged(checkpoint(1), same, [one, two], DRAWN)
    assert same.judge.judged == 0  # type: ignore[attr-defined]


def test_kinds_of_answers_share_nothing(tmp_path: Path) -> None:
    asking, probe = prober(tmp_path)
    keys = {asking.measure(checkpoint(1), probe, first)[0] for first in (FIXED, FRESH, DRAWN)}
    assert len(keys) == 3
    samples = {row["sample"] for row in Store(tmp_path).query("SELECT DISTINCT sample FROM responses")}
    assert samples == {FIXED, FIXED + 1, FRESH, FRESH + 1, DRAWN, DRAWN + 1}


def test_mending_asks_only_for_what_failed(tmp_path: Path) -> None:
    engine = Speaker(0, fail=frozenset({BROAD[0].id}))
    asking, probe = prober(tmp_path, engine)
    pairs = [(BROAD[0].id, DRAWN), (BROAD[0].id, DRAWN + 2), (BROAD[5].id, DRAWN)]
    asking.judged(checkpoint(1), probe, pairs, DRAWN)
    assert asking.mend(checkpoint(1), probe, DRAWN).missing.sum() == 2
    engine.fail = frozenset()
    before = probe.judge.judged  # type: ignore[attr-defined]
    counts = asking.mend(checkpoint(1), probe, DRAWN)
    assert (counts.missing.sum(), counts.judged.sum()) == (0, 3)
    assert probe.judge.judged - before == 2  # type: ignore[attr-defined]


class Forgetful(Speaker):
    """An engine that numbers its answers from 0 whatever it is asked."""

    def generate(self, checkpoint, prompts, sampling):
        return super().generate(checkpoint, prompts, Sampling(sampling.samples))


def test_an_engine_that_leaves_out_answers_is_refused(tmp_path: Path) -> None:
    asking, probe = prober(tmp_path, Forgetful(0))
    with pytest.raises(EngineError, match="left out answers"):
        asking.measure(checkpoint(1), probe, FRESH)


class Listener(Speaker):
    """An engine that remembers how it was asked to sample."""

    asked: list[tuple[float, list[str]]]

    def generate(self, checkpoint, prompts, sampling):
        self.asked.append((sampling.temperature, [p.id for p in prompts]))
        return super().generate(checkpoint, prompts, sampling)


def test_a_prompts_own_temperature_goes_before_the_evaluations(tmp_path: Path) -> None:
    engine = Listener(0)
    engine.asked = []
    asking, probe = prober(tmp_path, engine)
    cool = replace(probe.prompts[1], temperature=0.5)
    own = replace(probe, prompts=[probe.prompts[0], cool, *probe.prompts[2:]])
    assert asking.keys(checkpoint(1), own, FIXED) != asking.keys(checkpoint(1), probe, FIXED)
    asking.measure(checkpoint(1), own)
    others = [p.id for p in own.prompts if p is not cool]
    assert sorted(engine.asked) == [(0.5, [cool.id]), (1.0, others)]
