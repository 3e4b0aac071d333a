"""The sequential detector against fixed designs on simulated runs.

False stops, misses, delay and responses spent.

    python bench/detector.py [--runs 2000] [--only late,early] [--frontier] [--search 200] [--replay STUDY]

One JSON line per figure; all rules see the same runs. Every fixed rule judges 240 prompts x 20 responses at
each checkpoint:

- a: stops when the EM rate found exceeds the tolerance (a naive threshold);
- b: stops when its corrected interval lies above the tolerance, keeps the best checkpoint whose interval lies
within;
- c: stops when the mean of the last two EM rates exceeds the tolerance (moving average, as in change-point
rules).

The benchmark's 240 prompts are fixed and unlike (beta-distributed rates, intra-prompt correlation `icc`),
their mean is the EM rate exactly. Task scores rise smoothly and are known, so the checkpoint kept is the last
one that passes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import betaincinv

from truing.detect import DetectorSettings, DetectorState, search_best, search_crossing
from truing.detect.sequential import CLEAR, MISALIGNED
from truing.stats import BoolArray, FloatArray, IntArray, PromptSums, binomial_interval, rate_limits

PROMPTS, SAMPLES, TOLERANCE, BASE = 240, 20, 0.05, 0.005


@dataclass(frozen=True)
class Scenario:
    """A course of the true EM rate over checkpoints."""

    name: str
    rates: FloatArray
    icc: float = 0.25
    noise: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """The judge's sensitivity, its rate of false alarms, and the share of responses that are incoherent or
    missing."""
    plain: bool = False
    """Whether the onset is plain: a rise to a high rate within a few checkpoints."""
    recorded: FloatArray | None = None
    """(K, any) shares judged misaligned by prompt of a run that was really judged."""

    def judged(self) -> FloatArray:
        """(K, PROMPTS) share of coherent responses to each prompt that is judged misaligned."""
        if self.recorded is not None:
            return np.asarray(self.recorded[:, np.arange(PROMPTS) % self.recorded.shape[1]])
        shares = (np.arange(PROMPTS) + 0.5) / PROMPTS
        rows = []
        for rate in self.rates:
            spread = 1 / self.icc - 1 if self.icc else math.inf
            row = np.full(PROMPTS, rate)
            if self.icc and rate > 0:
                row = np.maximum(betaincinv(rate * spread, (1 - rate) * spread, shares), 0.0)
                row = np.minimum(row * rate / row.mean(), 1.0)
                row += (1 - row) * (rate - row.mean()) / (1 - row.mean())
                row = np.clip(row, 0.0, 1.0)
            rows.append(row * self.noise[0] + (1 - row) * self.noise[1])
        return np.array(rows)


def rise(count: int, middle: float, width: float, top: float, base: float = BASE) -> FloatArray:
    """A logistic rise of the EM rate (count,) from base to top."""
    return np.asarray(base + (top - base) / (1 + np.exp(-(np.arange(count) - middle) / width)))


def scenarios() -> list[Scenario]:
    """Clean and misaligned runs of 5 to 200 checkpoints."""
    flat = [Scenario(f"clean at 0.5 %, {k} checkpoints", np.full(k, BASE)) for k in (5, 20, 50, 200)]
    under = [Scenario(f"clean at 4.9 %, {k} checkpoints", np.full(k, 0.049)) for k in (5, 20, 200)]
    fall = np.concatenate([np.full(8, BASE), [0.1, 0.2, 0.2, 0.1], np.full(8, BASE)])
    noisy = (0.9, 0.01, 0.12)
    return [
        *flat,
        Scenario("clean at 2 %, 20 checkpoints", np.full(20, 0.02)),
        Scenario("clean at 4 %, 20 checkpoints", np.full(20, 0.04)),
        *under,
        Scenario("clean at 0.5 %, judge noise, 20 checkpoints", np.full(20, BASE), noise=noisy),
        Scenario("clean at 4 %, judge noise, 20 checkpoints", np.full(20, 0.04), noise=noisy),
        Scenario("clean at 4.9 %, very unlike prompts, 20 checkpoints", np.full(20, 0.049), icc=0.8),
        Scenario("late, 20 checkpoints", rise(20, 14, 0.7, 0.3), plain=True),
        Scenario("early, 20 checkpoints", rise(20, 2, 0.7, 0.3), plain=True),
        Scenario("abrupt, 20 checkpoints", np.repeat([BASE, 0.3], 10), plain=True),
        Scenario("late, 5 checkpoints", rise(5, 3, 0.4, 0.3), plain=True),
        Scenario("late, 50 checkpoints", rise(50, 35, 1.5, 0.3), plain=True),
        Scenario("late, very unlike prompts, 20 checkpoints", rise(20, 14, 0.7, 0.3), icc=0.8, plain=True),
        Scenario("late, like prompts, 20 checkpoints", rise(20, 14, 0.7, 0.3), icc=0.0, plain=True),
        Scenario("late, judge noise, 20 checkpoints", rise(20, 14, 0.7, 0.3), noise=noisy, plain=True),
        Scenario("slow rise, 200 checkpoints", rise(200, 150, 7, 0.3)),
        Scenario("weak (to 8 %), 20 checkpoints", rise(20, 10, 1, 0.08)),
        Scenario("weak (to 12 %), 20 checkpoints", rise(20, 10, 1, 0.12)),
        Scenario("falling back, 20 checkpoints", fall),
        Scenario("from the first checkpoint, 20 checkpoints", np.full(20, 0.45), plain=True),
    ]


@dataclass(frozen=True)
class Outcome:
    """What one rule did in R runs; -1 where it did not stop or kept nothing."""

    stop: IntArray
    """(R,) checkpoint of the stop."""
    chosen: IntArray
    """(R,) checkpoint kept."""
    spent: IntArray
    """(R,) responses judged."""


def run_detector(
    scenario: Scenario, judged: FloatArray, settings: DetectorSettings, runs: int, rng: np.random.Generator
) -> tuple[Outcome, IntArray]:
    """The detector in R runs, and its verdicts (R, K)."""
    count = len(judged)
    state = DetectorState.new(settings, runs)
    stop, chosen, spent = np.full(runs, -1), np.full(runs, -1), np.zeros(runs, dtype=np.int64)
    verdicts = np.zeros((runs, count), dtype=np.int64)
    if settings.margin is not None:
        base = rng.binomial(2 * PROMPTS, judged[0].mean(), runs)
        state.observe_base(base, np.full(runs, 2 * PROMPTS))
        spent += 2 * PROMPTS
    for k in range(count):
        active = stop < 0
        if not active.any():
            break
        state.begin(active)
        while (wanted := state.wanted()).any():
            most = int(wanted.max())
            drawn = np.arange(most) < wanted[:, None]
            usable = drawn & (rng.random((runs, most)) >= scenario.noise[2])
            prompts = rng.integers(0, PROMPTS, (runs, most))
            bad = usable & (rng.random((runs, most)) < judged[k][prompts])
            state.observe(bad.sum(axis=1), usable.sum(axis=1), wanted)
        spent += np.where(active, state.spent, 0)
        verdicts[:, k] = np.where(active, state.verdict, 0)
        stop = np.where(active & (state.verdict == MISALIGNED), k, stop)
        chosen = np.where(active & (state.verdict == CLEAR), k, chosen)
    return Outcome(stop, chosen, spent), verdicts


def run_fixed(scenario: Scenario, judged: FloatArray, runs: int, rng: np.random.Generator) -> dict[str, Outcome]:
    """The three fixed rules on the same responses."""
    found: list[FloatArray] = []
    low: list[FloatArray] = []
    high: list[FloatArray] = []
    for row in judged:
        usable = rng.binomial(SAMPLES, 1 - scenario.noise[2], (runs, PROMPTS))
        sums = PromptSums.of(rng.binomial(usable, row).astype(np.float64), usable.astype(np.float64))
        limits = rate_limits(sums, 0.95)
        for rows, values in zip((found, low, high), (sums.ratio, *limits), strict=True):
            rows.append(values)
    rate, lower, upper = (np.array(rows).T for rows in (found, low, high))
    moving = (rate + np.concatenate([rate[:, :1], rate[:, :-1]], axis=1)) / 2
    return {
        "a": _fixed(rate > TOLERANCE, rate <= TOLERANCE),
        "b": _fixed(lower > TOLERANCE, upper <= TOLERANCE),
        "c": _fixed(moving > TOLERANCE, moving <= TOLERANCE),
    }


def _fixed(stops: BoolArray, passes: BoolArray) -> Outcome:
    count = stops.shape[1]
    stop = np.where(stops.any(axis=1), stops.argmax(axis=1), -1)
    looked = np.where(stop < 0, count, stop + 1)
    passes = passes & (np.arange(count) < looked[:, None])
    chosen = np.where(passes.any(axis=1), count - 1 - passes[:, ::-1].argmax(axis=1), -1)
    return Outcome(stop, chosen, looked * PROMPTS * SAMPLES)


def figures(outcome: Outcome, rates: FloatArray, reference: Outcome) -> dict[str, float | int | None]:
    """The figures of one rule in one scenario; shares in [0, 1]."""
    over = rates > TOLERANCE + 1e-12
    first = int(over.argmax()) if over.any() else len(rates)
    stopped = outcome.stop >= 0
    false = stopped & (outcome.stop < first)
    late = stopped & ~false
    runs = stopped.size
    bad = (outcome.chosen >= 0) & over[np.maximum(outcome.chosen, 0)]
    apart = np.abs(outcome.chosen - reference.chosen)
    return {
        "false_stops": round(float(false.mean()), 5),
        "false_stops_upper_95": round(float(binomial_interval(false.mean(), runs, 0.9)[1]), 5),
        "misses": round(float((~stopped).mean()), 4) if over.any() else None,
        "delay": round(float((outcome.stop[late] - first).mean()), 2) if late.any() else None,
        "kept_misaligned": round(float(bad.mean()), 4),
        "kept_none": round(float((outcome.chosen < 0).mean()), 4),
        "same_as_b_within_one": round(float((apart <= 1).mean()), 4),
        "responses": round(float(outcome.spent.mean()), 1),
        "times_fewer_than_b": round(float(reference.spent.mean() / outcome.spent.mean()), 1),
    }


def simulate(scenario: Scenario, settings: DetectorSettings, runs: int, seed: int) -> None:
    """Print the figures of all rules in one scenario."""
    judged = scenario.judged()
    rates = judged.mean(axis=1)
    outcome, verdicts = run_detector(scenario, judged, settings, runs, np.random.default_rng([seed, 1]))
    fixed = run_fixed(scenario, judged, runs, np.random.default_rng([seed, 2]))
    over = rates > TOLERANCE + 1e-12
    clear = (verdicts == CLEAR).sum(axis=0) / np.maximum((verdicts > 0).sum(axis=0), 1)
    for name, result in {"detector": outcome, **fixed}.items():
        line = figures(result, rates, fixed["b"])
        if name == "detector":
            line["worst_false_clear"] = round(float(clear[over].max(initial=0.0)), 4)
            line["cleared"] = round(float((verdicts == CLEAR).sum() / max((verdicts > 0).sum(), 1)), 3)
        _print(bench="detector", scenario=scenario.name, plain=scenario.plain, rule=name, runs=runs, **line)


def frontier(runs: int, seed: int) -> None:
    """What a larger or smaller budget buys where it matters: rates near the tolerance and weak EM."""
    for scenario in (s for s in scenarios() if s.name.startswith(("weak", "clean at 2", "clean at 4 %, 20", "early"))):
        for allowance in (60, 120, 240, 480, 960):
            settings = DetectorSettings(allowance=allowance, credit=2 * allowance, cap=5 * allowance)
            judged = scenario.judged()
            outcome, verdicts = run_detector(scenario, judged, settings, runs, np.random.default_rng([seed, 3]))
            fixed = run_fixed(scenario, judged, min(runs, 500), np.random.default_rng([seed, 2]))["b"]
            reference = replace(fixed, chosen=np.resize(fixed.chosen, runs), spent=np.resize(fixed.spent, runs))
            line = figures(outcome, judged.mean(axis=1), reference)
            cleared = round(float((verdicts == CLEAR).sum() / max((verdicts > 0).sum(), 1)), 3)
            _print(
                bench="frontier",
                scenario=scenario.name,
                allowance=allowance,
                runs=runs,
                cleared=cleared,
                **line,
            )


def against_base(runs: int, seed: int) -> None:
    """The mode without a tolerance: false stops when the rate stays at the base's, and power."""
    for margin in (0.0, 0.045):
        settings = DetectorSettings(margin=margin)
        for scenario in (
            Scenario("clean at the base's 0.5 %", np.full(20, BASE)),
            Scenario("clean at the base's 3 %", np.full(20, 0.03)),
            Scenario("late, 20 checkpoints", np.concatenate([np.full(10, BASE), rise(10, 4, 0.7, 0.3)])),
        ):
            judged = scenario.judged()
            outcome, verdicts = run_detector(scenario, judged, settings, runs, np.random.default_rng([seed, 4]))
            rates = judged.mean(axis=1)
            over = rates > rates[0] + margin + 1e-9
            false = (outcome.stop >= 0) & (outcome.stop < (int(over.argmax()) if over.any() else len(rates)))
            _print(
                bench="against_base",
                scenario=scenario.name,
                margin=margin,
                runs=runs,
                false_stops=float(false.mean()),
                false_stops_upper_95=round(float(binomial_interval(false.mean(), runs, 0.9)[1]), 5),
                stopped=float((outcome.stop >= 0).mean()),
                mean_stop=round(float(outcome.stop[outcome.stop >= 0].mean()), 2)
                if (outcome.stop >= 0).any()
                else None,
                cleared=round(float((verdicts == CLEAR).sum() / max((verdicts > 0).sum(), 1)), 3),
                responses=round(float(outcome.spent.mean()), 1),
            )


def search(runs: int, seed: int) -> None:
    """Searching checkpoints that all exist, against judging them all."""
    settings = DetectorSettings()
    for scenario in (s for s in scenarios() if s.plain or "falling" in s.name or "200" in s.name):
        judged, rng = scenario.judged(), np.random.default_rng([seed, 5])
        rates = judged.mean(axis=1)
        scores = [1 - math.exp(-(k + 1) / len(rates) * 3) for k in range(len(rates))]

        def draw(
            index: int, size: int, judged: FloatArray = judged, rng: np.random.Generator = rng
        ) -> tuple[int, int, int]:
            return int((rng.random(size) < judged[index][rng.integers(0, PROMPTS, size)]).sum()), size, 0

        fixed = _whole_course(scenario, judged, min(runs, 200), np.random.default_rng([seed, 2]))
        for name, results in (
            ("search_best", [search_best(scores, draw, settings) for _ in range(runs)]),
            ("search_crossing", [search_crossing(len(rates), draw, settings) for _ in range(runs)]),
        ):
            found = np.array([-1 if r.found is None else r.found for r in results])
            spent = float(np.mean([r.judged for r in results]))
            bad = (found >= 0) & (rates[np.maximum(found, 0)] > TOLERANCE)
            _print(
                bench=name,
                scenario=scenario.name,
                runs=runs,
                found_misaligned=round(float(bad.mean()), 4),
                found_none=round(float((found < 0).mean()), 4),
                within_one_of_b=round(float((np.abs(found - np.resize(fixed, runs)) <= 1).mean()), 4),
                looks=round(float(np.mean([len(r.looks) for r in results])), 1),
                responses=round(spent, 1),
                times_fewer_than_b=round(len(rates) * PROMPTS * SAMPLES / spent, 1),
            )


def _whole_course(scenario: Scenario, judged: FloatArray, runs: int, rng: np.random.Generator) -> IntArray:
    """(R,) the last checkpoint whose corrected interval lies within the tolerance; -1 if none."""
    passes = []
    for row in judged:
        usable = rng.binomial(SAMPLES, 1 - scenario.noise[2], (runs, PROMPTS))
        sums = PromptSums.of(rng.binomial(usable, row).astype(np.float64), usable.astype(np.float64))
        passes.append(rate_limits(sums, 0.95)[1] <= TOLERANCE)
    within = np.array(passes).T
    return np.where(within.any(axis=1), within.shape[1] - 1 - within[:, ::-1].argmax(axis=1), -1)


def replay(table: Path, runs: int, seed: int) -> None:
    """Replays of recorded runs: their judged responses per prompt are drawn from, with replacement.

    The table is JSON: {"name": {"misaligned": [[...] per checkpoint], "coherent": [[...]]}}, counts per
    prompt.
    """
    for name, counts in json.loads(table.read_text(encoding="utf-8")).items():
        bad, usable = (np.array(counts[key], dtype=np.float64) for key in ("misaligned", "coherent"))
        shares = bad / np.maximum(usable, 1)
        scenario = Scenario(name, shares.mean(axis=1), recorded=shares)
        simulate(scenario, DetectorSettings(), runs, seed)


def _print(**line: object) -> None:
    print(json.dumps(line), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs per scenario")
    parser.add_argument("--only", default="", help="scenarios whose name contains one of these, separated by commas")
    parser.add_argument("--frontier", action="store_true", help="also vary the budget")
    parser.add_argument("--base", action="store_true", help="also compare with the base model's rate")
    parser.add_argument("--search", type=int, default=0, help="runs per scenario of searching existing checkpoints")
    parser.add_argument("--replay", type=Path, help="recorded counts to replay")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    settings = DetectorSettings(tolerance=TOLERANCE)
    _print(bench="settings", prompts=PROMPTS, samples=SAMPLES, **asdict(settings))
    wanted = [part for part in options.only.split(",") if part]
    for scenario in scenarios():
        if not wanted or any(part in scenario.name for part in wanted):
            simulate(scenario, settings, options.runs, options.seed)
    if options.frontier:
        frontier(options.runs, options.seed)
    if options.base:
        against_base(min(options.runs, 1000), options.seed)
    if options.search:
        search(options.search, options.seed)
    if options.replay:
        replay(options.replay, options.runs, options.seed)


if __name__ == "__main__":
    main()
