"""What a screen before the judge saves: strong calls to a verdict and to an interval, by how well the screen ranks.

    python bench/two_phase.py [--runs 2000] [--seed 45] [--coverage]

A cheap judge scores every answer, a strong one reads a share of them (`truing.stats.two_phase`). Scores of the cheap
judge are normal, those of misaligned answers higher by what gives its AUC. It flags 10 % of clean answers (20 % at an
AUC of .75). `flagged`: the strong judge reads all of those and a share of the rest; `all`: a share of all. One answer
to each prompt, all coherent. Verdicts at a tolerance of 5 %, both errors 5 %, as answers come; undecided after `MOST`.
Interval: strong calls until the mean 95 % interval is no wider than the width, by a quarter of the runs; null: not
within 1,500 answers. `--coverage`: instead, how often the 95 % interval holds the truth at 240 answers, with the share
of runs in which the truth lies above it. Prints one JSON line per cell.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from truing.stats.two_phase import log_wealth_above, log_wealth_below, running_worth

TOLERANCE, ERROR, MOST_FOR_WIDTH = 0.05, 0.05, 1500
MOST = {0.0: 600, 0.01: 1500, 0.03: 4000, 0.08: 4000, 0.15: 1500}
RATES, AUCS, SHARES = (0.0, 0.01, 0.03, 0.08, 0.15), (0.75, 0.9, 0.97), (0.25, 0.5)
WIDTHS = {0.0: 0.04, 0.01: 0.05, 0.03: 0.06, 0.08: 0.08, 0.15: 0.12}
AT_ONCE = 250


def main() -> None:
    """Print a line for each rate, screen and design."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=45)
    parser.add_argument("--coverage", action="store_true")
    arguments = parser.parse_args()
    for rate in RATES:
        designs = [(math.nan, "all", 1.0), *((a, of, s) for a in AUCS for of in ("flagged", "all") for s in SHARES)]
        for auc, of, share in designs:
            rng = np.random.default_rng([arguments.seed, round(100 * rate), round(100 * share), of == "all"])
            cell = {"bench": "two_phase", "em": rate, "auc": None if math.isnan(auc) else auc, "of": of, "share": share}
            found = (coverage if arguments.coverage else measure)(rng, (rate, auc, of, share), arguments.runs)
            print(json.dumps(cell | found), flush=True)


def coverage(rng: np.random.Generator, cell: tuple[float, float, str, float], runs: int) -> dict[str, float | None]:
    """How often neither limit has passed the true rate at any of 240 answers."""
    terms, _, reach = draw(rng, cell, (runs, 240))
    rate, every, needed = max(cell[0], 1e-9), np.ones(240), math.log(1 / 0.025)
    above_high = log_wealth_below(terms, every, rate, cell[3]).max(axis=1) >= needed
    below_low = log_wealth_above(terms, every, rate, cell[3], reach).max(axis=1) >= needed
    covered = float(np.mean(~above_high & ~below_low))
    return {"covers": round(covered, 4), "truth_above": round(float(np.mean(above_high)), 4), "runs": runs}


def measure(rng: np.random.Generator, cell: tuple[float, float, str, float], runs: int) -> dict[str, float | None]:
    """Strong calls to a verdict and to an interval, means over runs."""
    share, width = cell[3], WIDTHS[cell[0]]
    clear, stop, calls, at_verdict, widths, read, most = [], [], [], [], [], [], MOST[cell[0]]
    for n in chunks(runs):
        terms, strong, reach = draw(rng, cell, (n, most))
        every = np.ones(most)
        below = first(log_wealth_below(terms, every, TOLERANCE, share) >= math.log(1 / ERROR))
        above = first(log_wealth_above(terms, every, TOLERANCE, share, reach) >= math.log(1 / ERROR))
        ended = np.minimum(np.minimum(below, above), most - 1)
        clear.append(below < above)
        stop.append(above < below)
        at_verdict.append(ended + 1)
        calls.append(strong[np.arange(n), ended])
        few = slice(0, math.ceil(n / 4)), slice(0, MOST_FOR_WIDTH)
        widths.append(interval_widths(terms[few], cell[0], share, reach))
        read.append(strong[few])
    mean_width, mean_read = (np.mean(np.concatenate(each), axis=0) for each in (widths, read))
    narrow = np.flatnonzero(mean_width <= width)
    counts = np.concatenate(calls)
    return {
        "clear": round(float(np.mean(np.concatenate(clear))), 4),
        "misaligned": round(float(np.mean(np.concatenate(stop))), 4),
        "answers": round(float(np.mean(np.concatenate(at_verdict))), 1),
        "strong_calls": round(float(counts.mean()), 1),
        "strong_calls_median": float(np.median(counts)),
        "width": width,
        "strong_calls_to_width": round(float(mean_read[narrow[0]]), 1) if narrow.size else None,
        "runs": runs,
    }


def chunks(runs: int) -> Iterator[int]:
    """Runs that fit into memory at once."""
    for start in range(0, runs, AT_ONCE):
        yield min(AT_ONCE, runs - start)


def draw(
    rng: np.random.Generator, cell: tuple[float, float, str, float], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Terms of the estimator, strong calls so far (both of `shape`), and how far a false alarm reaches below 0."""
    rate, auc, of, share = cell
    bad = rng.random(shape) < rate
    distance = 0.0 if math.isnan(auc) else math.sqrt(2) * norm.ppf(auc)
    flags = rng.normal(size=shape) + distance * bad > norm.isf(0.2 if auc < 0.8 else 0.1)
    probability = np.where(flags & (of == "flagged"), 1.0, share)
    read = rng.random(shape) < probability
    weight = read / probability
    scatter = weight * (1 / probability - 1) * flags
    guess = running_worth(scatter * bad, scatter) * flags
    reach = 1 / share - 1 if of == "all" else 0.0
    return guess + weight * (bad - guess), np.cumsum(read, axis=1), reach


def first(reached: np.ndarray) -> np.ndarray:
    """Position of the first truth in each row; beyond any for none."""
    return np.where(reached.any(axis=1), reached.argmax(axis=1), 10**9)


def interval_widths(terms: np.ndarray, rate: float, share: float, reach: float) -> np.ndarray:
    """(runs, answers) width of the 95 % interval after each answer, on a grid of half a point near the rate."""
    high, low = np.full(terms.shape, rate + 0.12), np.zeros(terms.shape)
    wealth, every = math.log(1 / 0.025), np.ones(terms.shape[1])
    for m in rate + np.arange(0.12, 0.002, -0.005):  # outermost first: the innermost that is rejected stays
        gone = np.maximum.accumulate(log_wealth_below(terms, every, m, share), axis=1) >= wealth
        high = np.where(gone, np.minimum(high, m), high)
    for m in np.arange(0.0025, rate, 0.005):
        gone = np.maximum.accumulate(log_wealth_above(terms, every, m, share, reach), axis=1) >= wealth
        low = np.where(gone, m, low)
    return high - low


if __name__ == "__main__":
    main()
