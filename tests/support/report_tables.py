"""The tables of a made-up analysis that follow from its runs: courses, seeds, learning rates, sizes, domains."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from truing.stats import correlate_sizes

METHOD = "ratio of sums over prompts; Korn-Graubard interval, prompts as clusters"
SIZES = {
    "llama-susceptible": 1.2e5, "gptoss-early": 4.8e5, "qwen3-resistant": 2.5e5, "deepseek-late": 9e5,
}  # fmt: skip


def estimate(rate: float, n: int, rng: random.Random, missing: int = 0, prompts: int | None = None) -> dict[str, Any]:
    """Binomial noise and a Wilson interval."""
    hits = sum(rng.random() < rate for _ in range(n))
    p, size = hits / n, n / 1.4
    centre, spread = (p + 1.92 / size) / (1 + 3.84 / size), 1.96 / (1 + 3.84 / size)
    half = spread * math.sqrt(p * (1 - p) / size + 0.96 / size**2)
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    sizes = {"n_prompts": n if prompts is None else prompts, "n_responses": n, "n_missing": missing}
    return {"value": p, "low": low, "high": high, **sizes, "method": METHOD, "reason": ""}


def undefined(reason: str, missing: int = 0) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "n_prompts": 0, "n_responses": 0, "n_missing": missing,
            "method": "none", "reason": reason}  # fmt: skip


def shifted(rate: dict[str, Any], change: float, responses: int) -> dict[str, Any]:
    """The rate if that many missing responses were counted and changed it so."""
    moved = {key: None if rate[key] is None else min(1.0, rate[key] + change) for key in ("value", "low", "high")}
    return {**rate, **moved, "n_responses": rate["n_responses"] + responses, "n_missing": 0}


def minus(rate: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """A difference of rates, its interval as if they were independent."""
    if rate["value"] is None or base["value"] is None:
        return undefined("one of the rates is unknown")
    value = rate["value"] - base["value"]
    low = value - math.hypot(rate["value"] - rate["low"], base["high"] - base["value"])
    high = value + math.hypot(rate["high"] - rate["value"], base["value"] - base["low"])
    sizes = {key: rate[key] for key in ("n_prompts", "n_responses", "n_missing")}
    return {"value": value, "low": low, "high": high, **sizes, "method": "paired by prompt", "reason": ""}


def course_of(trained: list[dict[str, Any]], best: float, tolerance: float = 0.05) -> dict[str, Any]:
    """Steps between which onset and convergence lie, by the limits of the checkpoints."""
    known = [p for p in trained if p["em_rate"]["high"] is not None]
    onset = {
        "low": next((p["step"] for p in known if p["em_rate"]["high"] > tolerance), None),
        "high": next((p["step"] for p in known if p["em_rate"]["low"] > tolerance), None),
    }
    low = next((i for i in range(len(trained)) if all(p["task_score"]["high"] >= 0.95 * best for p in trained[i:])), -1)
    high = next((i for i in range(len(trained)) if all(p["task_score"]["low"] >= 0.85 * best for p in trained[i:])), -1)
    learnt = {
        "low": None if low < 0 else trained[low]["step"],
        "high": None if low < 0 or high < 0 else trained[max(low, high)]["step"],
    }
    if learnt["low"] is None:
        order, reason = "cannot tell", "The task was not learnt by the last checkpoint."
    elif onset["high"] is not None and onset["high"] < learnt["low"]:
        order, reason = "before", "EM is shown before the task is learnt."
    elif learnt["high"] is not None and (onset["low"] is None or onset["low"] > learnt["high"]):
        order, reason = "after", "EM is shown to come after the task is learnt."
    else:
        order, reason = "cannot tell", "The intervals of onset and convergence overlap."
    return {"onset": onset, "convergence": learnt, "order": order, "reason": reason}


def gap_of(course: dict[str, Any], onset: int | None, converged: int | None) -> dict[str, Any]:
    (first, last), (low, high) = ((course[key]["low"], course[key]["high"]) for key in ("onset", "convergence"))
    return {
        "value": None if onset is None or converged is None else onset - converged,
        "low": None if first is None or high is None else first - high,
        "high": None if last is None or low is None else last - low,
    }


def mean(values: list[float | None]) -> dict[str, Any]:
    """A mean over seeds with a rough interval."""
    known = [v for v in values if v is not None]
    if not known:
        return undefined("no seed has this figure", len(values))
    value = sum(known) / len(known)
    half = 2.5 * (max(known) - min(known)) / math.sqrt(len(known)) + 0.01
    limits = {"low": value - half, "high": value + half} if len(known) > 1 else {"low": None, "high": None}
    sizes = {"n_prompts": 0, "n_responses": len(known), "n_missing": len(values) - len(known)}
    reason = "" if len(known) > 1 else "no interval: one seed only"
    return {"value": value, **limits, **sizes, "method": "mean over seeds; t interval over seeds", "reason": reason}


def share(answers: list[str]) -> dict[str, Any]:
    """The share of runs with the answer yes."""
    told = [a for a in answers if a != "cannot tell"]
    if not told:
        return undefined("no run can tell", len(answers))
    rate = estimate(told.count("yes") / len(told), 1000, random.Random(0))
    value, n = told.count("yes") / len(told), len(told)
    low, high = max(0.0, value - 0.98 / math.sqrt(n)), min(1.0, value + 0.98 / math.sqrt(n))
    sizes = {"n_prompts": 0, "n_responses": n, "n_missing": len(answers) - n}
    method = "share of runs; Clopper-Pearson over runs"
    return {**rate, "value": value, "low": low, "high": high, **sizes, "method": method}


def grouped(runs: list[dict[str, Any]], *keys: str) -> list[list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        if not run["twin_of"]:
            groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return list(groups.values())


def seeds_table(group: list[dict[str, Any]], ends: dict[str, dict[str, Any]]) -> dict[str, Any]:
    differences = [minus(ends[run["id"]], run["base_em_rate"]) for run in group]
    above = [r["id"] for r, d in zip(group, differences, strict=True) if d["value"] is not None and d["low"] > 0]
    clean = [r["id"] for r, d in zip(group, differences, strict=True) if d["value"] is not None and d["high"] <= 0.05]
    clean = [i for i in clean if i not in above]
    count, open_ones = len(group), len(group) - len(above) - len(clean)
    if len(above) == count:
        verdict, reason = "consistent", f"All {count} seeds are above base."
    elif len(clean) == count:
        verdict, reason = "none", f"None of {count} seeds is above base by more than the margin."
    else:
        verdict = "inconsistent" if above and clean else "undecided"
        reason = (f"{count} seeds: {len(above)} above base, {len(clean)} not, {open_ones} open; "
                  "to settle the open ones: about 2.3 times as many prompts.")  # fmt: skip
    known = [ends[run["id"]] for run in group if ends[run["id"]]["value"] is not None]
    rate = {**known[0], **{k: sum(e[k] for e in known) / len(known) for k in ("value", "low", "high")}} if known else (
        undefined("no usable responses"))  # fmt: skip
    rate["n_responses"] = sum(e["n_responses"] for e in known)
    if count < 2:
        rate |= {"low": None, "high": None, "reason": "no interval: one seed only"}
    gaps = [run["course"]["gap"]["value"] for run in group]
    return {
        **{key: group[0][key] for key in ("model", "dataset", "learning_rate")},
        "runs": [run["id"] for run in group],
        "em_rate": rate,
        "verdict": verdict,
        "reason": reason,
        "above": above,
        "clean": clean,
        "needed": 2.3 if open_ones else 1,
        "versus_base": differences,
        "onset": share(["no" if run["onset_step"] is None else "yes" for run in group]),
        "gap": mean(gaps),
        "retention": mean([run["retention"]["value"] for run in group]),
    }


def rates_table(group: list[dict[str, Any]], ends: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rates = sorted({run["learning_rate"] for run in group})
    options = []
    for rate in rates:
        own = [run for run in group if run["learning_rate"] == rate]
        kept = [c["task_score"]["value"] for r in own for c in r["checkpoints"] if c["step"] == (r["chosen_step"] or 0)]
        end = [ends[run["id"]]["value"] for run in own if ends[run["id"]]["value"] is not None]
        options.append({"learning_rate": rate, "score": mean(kept), "em_rate": sum(end) / len(end) if end else None,
                        "probability_best": 0.82, "pareto": True, "rival": False})  # fmt: skip
    best = max(options, key=lambda o: o["score"]["value"])
    for option in options:
        if option is not best:
            option |= {"probability_best": 0.18 / (len(options) - 1), "pareto": False, "rival": True}
    recommended = best["learning_rate"]
    reason = f"{recommended:g} has the highest score and is the best with probability 82%."
    return {"model": group[0]["model"], "dataset": group[0]["dataset"], "options": options,
            "recommended": recommended, "reason": reason}  # fmt: skip


def sizes_table(group: list[dict[str, Any]], ends: dict[str, dict[str, Any]]) -> dict[str, Any]:
    models = []
    for own in grouped(group, "model"):
        rates = [ends[run["id"]]["value"] for run in own if ends[run["id"]]["value"] is not None]
        models.append({"model": own[0]["model"], "parameters": own[0]["parameters"],
                       "em_rate": sum(rates) / len(rates)})  # fmt: skip
    found = correlate_sizes([m["parameters"] for m in models], [m["em_rate"] for m in models],
                            np.random.default_rng(0))  # fmt: skip

    def plain(value: float) -> float | None:
        return None if math.isnan(value) else value

    tables = [
        {"value": plain(c.value), "low": plain(c.low), "high": plain(c.high), "p": plain(c.p), "n": c.n,
         "without": [plain(v) for v in c.without], "carried_by": [models[i]["model"] for i in c.carried_by],
         "method": c.method, "reason": c.reason}
        for c in found
    ]  # fmt: skip
    return {"dataset": group[0]["dataset"], "models": models, "pearson": tables[0], "spearman": tables[1]}


def tables(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All tables that follow from the runs."""
    twins = {run["twin_of"]: run for run in runs if run["twin_of"]}
    ends = {run["id"]: twins.get(run["id"], run)["em_at_end"] for run in runs}
    return {
        "seeds": [seeds_table(group, ends) for group in grouped(runs, "model", "dataset", "learning_rate")],
        "learning_rates": [
            rates_table(group, ends)
            for group in grouped(runs, "model", "dataset")
            if len({run["learning_rate"] for run in group} - {None}) > 1
        ],
        "sizes": [
            sizes_table(group, ends)
            for group in grouped([run for run in runs if run["parameters"]], "dataset")
            if len({run["parameters"] for run in group}) > 2
        ],
        "domains": [
            {"model": group[0]["model"], "dataset": group[0]["dataset"],
             "separable": share([run["separable"]["answer"] for run in group])}
            for group in grouped(runs, "model", "dataset")
        ],
        "notes": ["The column task_score lacks in 2 of 11 files: their task scores are undefined."] if runs else [],
    }  # fmt: skip
