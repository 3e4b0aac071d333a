"""How often nominal 95 % intervals hold the truth on simulated judged data, beside naive and published ones.

    python bench/coverage.py [--sims 4000] [--only rate,hot,categories,pairs,seeds,judge,course,anytime]

One JSON line per figure. Rates of a checkpoint: `ours` (`clustered_rate`), `korn_graubard` (the same without
our guard for few events), `naive` (Clopper-Pearson over responses) and `inspect` (mean +- 1.96 clustered
standard errors, the formula of inspect_ai's `stderr(cluster=...)`), all on the same data. The truth is the
mean over a population of prompts from which those of the benchmark are drawn; `beta` draws the prompts' rates
from a beta distribution, `hot` gives a few prompts one high rate and the others 0; both have the intra-prompt
correlation `icc`. At a true rate of 0 every interval that may touch 0 covers always.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

from truing.stats.agreement import calibrate, corrected_rate
from truing.stats.betting import anytime_interval
from truing.stats.categories import Categories
from truing.stats.course import RunCounts, describe_course
from truing.stats.paired import paired_difference, paired_quotient
from truing.stats.rates import FloatArray, PromptSums, binomial_interval, clustered_rate, rate_limits
from truing.stats.seeds import rate_over_seeds

DESIGNS = ((240, 10), (44, 50))
ICCS = (0.0, 0.25, 0.5)
RATES = (0.0, 0.005, 0.02, 0.1, 0.3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sims", type=int, default=4000, help="simulated data sets per cell")
    parser.add_argument("--only", default="", help="parts, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    parts = {
        "rate": rates,
        "hot": hot_prompts,
        "categories": categories,
        "pairs": pairs,
        "seeds": seeds,
        "judge": judges,
        "course": courses,
        "anytime": anytime,
    }
    wanted = [part for part in options.only.split(",") if part] or list(parts)
    for name in wanted:
        for line in parts[name](options.sims, np.random.default_rng(options.seed)):
            print(json.dumps({"bench": f"coverage.{name}", **line}), flush=True)


def draw_rates(rng: np.random.Generator, shape: tuple[int, ...], rate: float, icc: float, kind: str) -> FloatArray:
    """Prompts' rates of a given mean and intra-prompt correlation."""
    if rate == 0 or icc == 0:
        return np.full(shape, rate)
    if kind == "beta":
        spread = 1 / icc - 1
        return rng.beta(rate * spread, (1 - rate) * spread, shape)
    high = icc * (1 - rate) + rate
    return np.where(rng.random(shape) < rate / high, high, 0.0)


def rates(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Coverage, mean width and misses on either side of four intervals."""
    for prompts, samples in DESIGNS:
        for kind in ("beta", "hot"):
            for icc in ICCS if kind == "beta" else ICCS[1:]:
                for usable in (1.0, 0.8):
                    for rate in RATES:
                        q = draw_rates(rng, (sims, prompts), rate, icc, kind)
                        n = rng.binomial(samples, usable, q.shape).astype(np.float64)
                        x = rng.binomial(n.astype(np.int64), q).astype(np.float64)
                        cell = {"design": f"{prompts}x{samples}", "kind": kind, "icc": icc, "usable": usable}
                        yield {**cell, "rate": rate, "sims": sims, **_compare(x, n, rate)}


def hot_prompts(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Coverage where a few prompts carry the misalignment over a little background, such as a judge's false alarms."""
    for share, hot, background in ((0.05, 1.0, 0.0), (0.05, 1.0, 0.002), (0.05, 0.98, 0.004), (0.1, 0.5, 0.002),
                                   (0.02, 0.9, 0.005), (0.01, 1.0, 0.001)):  # fmt: skip
        for prompts, samples in ((24, 88), (44, 50), (60, 10), (240, 1), (240, 10)):
            rate = share * hot + (1 - share) * background
            q = np.where(rng.random((sims, prompts)) < share, hot, background)
            n = np.full(q.shape, samples)
            x = rng.binomial(n, q).astype(np.float64)
            cell = {"design": f"{prompts}x{samples}", "hot": share, "rate_there": hot, "background": background}
            cleared = round(float((rate_limits(PromptSums.of(x, n.astype(np.float64)), 0.95)[1] <= 0.05).mean()), 4)
            line = {**cell, "rate": round(rate, 5), "sims": sims, **_compare(x, n.astype(np.float64), rate)}
            yield {**line, "cleared_at_5": cleared}


def categories(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """How often one hot category of 8 (30 prompts each) is found, and the least rate of one that is excluded."""
    names = [f"c{i}" for i in range(8) for _ in range(30)]
    for hot, rest in ((0.0, 0.0), (0.02, 0.02), (0.15, 0.0), (0.25, 0.0), (0.4, 0.0), (0.15, 0.01)):
        for samples in (1, 5, 10):
            total, n = max(sims // 4, 1), np.full(240, samples)
            found = []
            for _ in range(total):
                q = draw_rates(rng, (240,), rest, 0.25, "beta")
                q[:30] = draw_rates(rng, (30,), hot, 0.25, "beta")
                found.append(Categories(rng.binomial(n, q), n, names, tolerance=0.05))
            yield {
                "hot": hot,
                "rest": rest,
                "samples": samples,
                "sims": total,
                "unlike": round(float(np.mean([bool(f.unlike) for f in found])), 4),
                "shown_above_5": round(float(np.mean(["c0" in f.above for f in found])), 4),
                "excludes": round(float(np.mean([f.excludes for f in found])), 4),
            }


def _compare(x: FloatArray, n: FloatArray, rate: float) -> dict[str, float]:
    sums = PromptSums.of(x, n)
    error = np.sqrt(sums.variance)
    naive = binomial_interval(sums.ratio, sums.trials)
    limits = {
        "ours": rate_limits(sums, 0.95),
        "korn_graubard": _korn_graubard(sums),
        "naive": naive,
        "inspect": (sums.ratio - ndtri(0.975) * error, sums.ratio + ndtri(0.975) * error),
    }
    line: dict[str, float] = {}
    for name, (low, high) in limits.items():
        line[name] = round(float(((low <= rate) & (rate <= high)).mean()), 4)
        line[f"{name}_width"] = round(float((high - low).mean()), 5)
    line["ours_too_high"] = round(float((limits["ours"][0] > rate).mean()), 4)
    line["ours_too_low"] = round(float((limits["ours"][1] < rate).mean()), 4)
    return line


def _korn_graubard(sums: PromptSums) -> tuple[FloatArray, FloatArray]:
    """The plain method: no guard; without events all responses count as independent."""
    rate = sums.ratio
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = sums.variance * sums.trials / (rate * (1 - rate))
        spread = (ndtri(0.975) / stdtrit(sums.prompts - 1, 0.975)) ** 2
        size = np.where(np.isnan(effect), sums.trials, np.minimum(sums.trials, sums.trials / effect * spread))
    return binomial_interval(rate, size)


def pairs(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Coverage of the paired difference and quotient; prompts share what makes them prone."""
    for prompts, samples in DESIGNS:
        for one, other in ((0.005, 0.005), (0.05, 0.005), (0.1, 0.02), (0.3, 0.3), (0.8, 0.9)):
            hits = {"difference": 0, "quotient": 0}
            width = 0.0
            for _ in range(sims // 4):
                prone = rng.random(prompts)
                qa, qb = (np.where(prone < rate, rate + 0.6 * (1 - rate), 0.4 * rate) for rate in (one, other))
                n = np.full(prompts, samples)
                a, b = rng.binomial(n, qa), rng.binomial(n, qb)
                found = paired_difference(a, n, b, n)
                ratio = paired_quotient(a, n, b, n)
                hits["difference"] += found.low <= one - other <= found.high
                hits["quotient"] += not ratio.low > one / other and not ratio.high < one / other
                width += found.high - found.low
            shares = {name: round(hit / (sims // 4), 4) for name, hit in hits.items()}
            yield {
                "design": f"{prompts}x{samples}",
                "rates": [one, other],
                "sims": sims // 4,
                **shares,
                "width": round(width / (sims // 4), 4),
            }


def seeds(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Coverage of the rate over seeds and prompts, beside pooling the seeds."""
    for count in (3, 5, 10):
        few = [(24, 50, rate, between) for rate, between in ((0.005, 0.1), (0.015, 0.0), (0.02, 0.3))]
        many = ((0.005, 0.0), (0.05, 0.0), (0.05, 0.1), (0.2, 0.1), (0.2, 0.4))
        for prompts, samples, rate, between in (*((120, 10, *cell) for cell in many), *few):
            held = pooled = 0
            for _ in range(sims // 4):
                prone = rng.beta(0.5, 1.5, prompts)  # mean 0.25
                scale = rng.gamma(1 / between, between, count) if between else np.ones(count)
                q = np.clip(prone[None] / 0.25 * rate * scale[:, None], 0, 1)
                n = np.full(q.shape, samples)
                x = rng.binomial(n, q)
                found = rate_over_seeds(x, n)
                alone = clustered_rate(x.sum(axis=0), n.sum(axis=0))
                held += found.low <= rate <= found.high
                pooled += alone.low <= rate <= alone.high
            yield {
                "seeds": count,
                "design": f"{prompts}x{samples}",
                "rate": rate,
                "relative_variance_between_seeds": between,
                "sims": sims // 4,
                "ours": round(held / (sims // 4), 4),
                "pooled": round(pooled / (sims // 4), 4),
            }


def judges(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Coverage of the rate corrected for the judge's errors, beside the rate as judged."""
    for rate in (0.005, 0.05, 0.2):
        for s, f in ((0.9, 0.01), (0.8, 0.05)):
            for labelled in (100, 400):
                held = as_judged = 0
                for _ in range(sims // 8):
                    q = rng.beta(rate * 3, (1 - rate) * 3, 240)
                    n = np.full(240, 10)
                    bad = rng.binomial(n, q)
                    x = rng.binomial(bad, s) + rng.binomial(n - bad, f)
                    labels = np.arange(labelled) < labelled // 2
                    judged = rng.random(labelled) < np.where(labels, s, f)
                    found = corrected_rate(x, n, calibrate(labels, judged), rng)
                    raw = clustered_rate(x, n)
                    held += not (found.low > rate or found.high < rate)
                    as_judged += raw.low <= rate <= raw.high
                yield {
                    "rate": rate,
                    "sensitivity": s,
                    "false_alarms": f,
                    "labelled": labelled,
                    "sims": sims // 8,
                    "ours": round(held / (sims // 8), 4),
                    "as_judged": round(as_judged / (sims // 8), 4),
                }


def courses(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Coverage of onset and convergence, and how often an order is said and wrong, by answers to the task."""
    steps = np.arange(1, 13)
    for task_answers, abrupt in (((60, 2), True), ((60, 2), False), ((60, 10), True), ((240, 5), True)):
        for onset, convergence in ((3, 8), (6, 6), (9, 4), (99, 4), (7, 6), (6, 7)):
            held_onset = held_convergence = wrong = said = 0
            total = max(sims // 20, 1)
            for _ in range(total):
                slow = np.clip(0.055 + 0.01 * (steps - onset), 0.001, 1)  # 4.5 % just before onset, 5.5 % at it
                em = np.where(steps < onset, 0.01, 0.25) if abrupt else slow
                task = np.where(steps < convergence, 0.85 * steps / convergence, 0.95)
                course = describe_course(_simulated(rng, em, task, task_answers), 0.05, rng)
                held_onset += _holds(course.crossing.low, course.crossing.high, onset)
                held_convergence += _holds(course.convergence.low, course.convergence.high, convergence)
                said += course.order != "cannot tell"
                truth = "after" if onset > convergence else "before" if onset < convergence else "neither"
                wrong += course.order not in ("cannot tell", truth)
            yield {
                "task_answers": f"{task_answers[0]}x{task_answers[1]}",
                "abrupt": abrupt,
                "onset": onset if onset < 99 else None,
                "convergence": convergence,
                "sims": total,
                "onset_coverage": round(held_onset / total, 4),
                "convergence_coverage": round(held_convergence / total, 4),
                "order_said": round(said / total, 4),
                "order_wrong": round(wrong / total, 4),
            }


def _holds(low: int | None, high: int | None, truth: int) -> bool:
    """Whether a step interval holds the truth; 99 is never."""
    return (99 if low is None else low) <= truth <= (99 if high is None else high)


def _simulated(rng: np.random.Generator, em: FloatArray, task: FloatArray, answers: tuple[int, int]) -> RunCounts:
    """A run judged on 240 x 5 benchmark responses and on `answers` of the task; prompts keep their proneness."""
    prone, hard = rng.beta(0.6, 1.4, 240) / 0.3, rng.beta(8, 2, answers[0]) / 0.8
    q, t = np.clip(em[:, None] * prone, 0, 1), np.clip(task[:, None] * hard, 0, 1)
    n, m = np.full(q.shape, 5), np.full(t.shape, answers[1])
    return RunCounts(tuple(range(1, len(em) + 1)), rng.binomial(n, q), n, rng.binomial(m, t), m)


def anytime(sims: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """How often limits looked at 40 times ever exclude the truth, beside an interval of fixed size."""
    looks, runs = 40, max(sims // 20, 1)
    for rate in (0.0, 0.005, 0.05, 0.3):
        missed = fixed = 0
        for _ in range(runs):
            total = np.cumsum(rng.random(looks * 12) < rate)[11::12]
            sizes = np.arange(12, looks * 12 + 1, 12)
            limits = [anytime_interval(int(x), int(n)) for x, n in zip(total, sizes, strict=True)]
            missed += any(low > rate or high < rate for low, high in limits)
            low, high = binomial_interval(total / sizes, sizes.astype(np.float64))
            fixed += bool(((low > rate) | (high < rate)).any())
        yield {
            "rate": rate,
            "looks": looks,
            "runs": runs,
            "ever_missed": round(missed / runs, 4),
            "ever_missed_clopper_pearson": round(fixed / runs, 4),
        }


if __name__ == "__main__":
    main()
