"""Reads `analysis.json`: checked once against docs/analysis.md, then plain records (`document.py`).

Whatever does not follow the schema is a `DataError` that names the place. Unknown fields are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from truing.core.errors import DataError
from truing.core.records import Action, Estimate
from truing.report.document import (
    CheckpointEntry,
    ConfirmedEntry,
    CorrelationEntry,
    CourseEntry,
    Document,
    DomainEntry,
    OptionEntry,
    RatesEntry,
    RunEntry,
    SampleEntry,
    SearchEntry,
    SeedsEntry,
    SeparableEntry,
    SideEntry,
    SizeModel,
    SizesEntry,
    StepBounds,
    StudyEntry,
)
from truing.report.nodes import Node, readable, refuse

__all__ = ["read_document"]

SCHEMA = 2
STATES = ("finished", "stopped", "unfinished", "failed")
RULES = ("fixed", "sequential")
ORDERS = ("before", "after", "cannot tell")
ANSWERS = ("yes", "no", "cannot tell")
SOURCES = ("fresh responses", "other half of the prompts")
SEARCHES = ("best", "crossing")
VERDICTS = ("consistent", "inconsistent", "none", "undecided")


def read_document(analysis: Mapping[str, Any]) -> Document:
    """Check an analysis and read it.

    Raises:
        DataError: It does not follow the schema; the message names the place.
    """
    root = Node(analysis, "")
    if (schema := root["schema"].value) != SCHEMA:
        raise DataError("analysis.json has another schema", repr(schema)[:80], str(SCHEMA), "analyse it anew")
    runs = root["runs"].each(_read_run)
    ids = [run.id for run in runs]
    if repeated := sorted({i for i in ids if ids.count(i) > 1}):
        raise DataError("analysis.json lists a run twice", ", ".join(repeated), "different ids")
    return Document(
        truing=root["truing"].text(),
        created=root["created"].text(),
        study=_read_study(root["study"]),
        runs=runs,
        seeds=root["seeds"].each(_read_seeds),
        learning_rates=root["learning_rates"].each(_read_rates),
        sizes=root["sizes"].each(_read_sizes),
        domains=root["domains"].each(_read_domain),
        notes=root["notes"].each(Node.text),
        samples=root["samples"].each(_read_sample),
    )


def _read_estimate(node: Node) -> Estimate:
    return Estimate(
        value=node["value"].number(),
        low=node["low"].number(),
        high=node["high"].number(),
        n_prompts=node["n_prompts"].count(),
        n_responses=node["n_responses"].count(),
        n_missing=node["n_missing"].count(),
        method=node["method"].text(),
        reason=node["reason"].text(),
    )


def _read_action(node: Node) -> Action:
    return Action(node.one_of(tuple(Action)))


def _read_checkpoint(node: Node) -> CheckpointEntry:
    bounds = node["em_rate_if_missing"]
    return CheckpointEntry(
        step=node["step"].count(),
        weights=node["weights"].text(),
        em_rate=_read_estimate(node["em_rate"]),
        if_none=_read_estimate(bounds["none"]),
        if_all=_read_estimate(bounds["all"]),
        corrected=node["em_rate_corrected"].optional(_read_estimate),
        versus_base=node["versus_base"].optional(_read_estimate),
        coherent_rate=_read_estimate(node["coherent_rate"]),
        task_score=_read_estimate(node["task_score"]),
        heldout_loss=node["heldout_loss"].number(),
        train_loss=node["train_loss"].number(),
        categories={readable(slug): _read_estimate(e) for slug, e in node["categories"].fields().items()},
        decision=_read_action(node["decision"]),
        reason=node["reason"].text(),
    )


def _read_run(node: Node) -> RunEntry:
    checkpoints = node["checkpoints"].each(_read_checkpoint)
    return RunEntry(
        id=node["id"].text(),
        model=node["model"].text(),
        dataset=node["dataset"].text(),
        parameters=node["parameters"].number(),
        learning_rate=node["learning_rate"].number(),
        seed=node["seed"].optional_count(),
        twin_of=node["twin_of"].optional_text(),
        state=node["state"].one_of(STATES),
        error=node["error"].optional_text(),
        checkpoints=tuple(sorted(checkpoints, key=lambda c: c.step)),
        base_em_rate=_read_estimate(node["base_em_rate"]),
        convergence_step=node["convergence_step"].optional_count(),
        onset_step=node["onset_step"].optional_count(),
        course=_read_course(node["course"]),
        separable=_read_separable(node["separable"]),
        chosen_step=node["chosen_step"].optional_count(),
        retention=_read_estimate(node["retention"]),
        confirmed=node["confirmed"].optional(_read_confirmed),
        inside=node["inside"].optional(_read_estimate),
        outside=node["outside"].optional(_read_estimate),
        also=tuple(_read_side(side) for side in node["also"].items()),
        em_at_end=_read_estimate(node["em_at_end"]),
        em_at_chosen=node["em_at_chosen"].optional(_read_estimate),
        search=node["search"].optional(_read_search),
        stopped_at=node["stopped_at"].optional_count(),
        decision=node["decision"].optional(_read_action),
    )


def _read_side(node: Node) -> SideEntry:
    return SideEntry(
        benchmark=node["benchmark"].text(),
        step=node["step"].count(),
        em_rate=_read_estimate(node["em_rate"]),
        coherent_rate=_read_estimate(node["coherent_rate"]),
        versus_plain=node["versus_plain"].optional(_read_estimate),
        agreement=node["agreement"].optional(_read_estimate),
    )


def _read_search(node: Node) -> SearchEntry:
    return SearchEntry(
        kind=node["kind"].one_of(SEARCHES),
        found=node["found"].optional_count(),
        next_misaligned=node["next_misaligned"].optional_count(),
        looked=node["looked"].count(),
        judged=node["judged"].count(),
    )


def _read_course(node: Node) -> CourseEntry:
    gap = node["gap"]
    return CourseEntry(
        onset=_read_bounds(node["onset"]),
        convergence=_read_bounds(node["convergence"]),
        gap=gap["value"].number(),
        gap_low=gap["low"].number(),
        gap_high=gap["high"].number(),
        order=node["order"].one_of(ORDERS),
        reason=node["reason"].text(),
    )


def _read_bounds(node: Node) -> StepBounds:
    bounds = StepBounds(node["low"].optional_count(), node["high"].optional_count())
    if bounds.high is not None and (bounds.low is None or bounds.low > bounds.high):
        raise refuse(node.where, repr(node.value)[:80], "a low that is not above high, and null with null")
    return bounds


def _read_separable(node: Node) -> SeparableEntry:
    return SeparableEntry(
        answer=node["answer"].one_of(ANSWERS),
        step=node["step"].optional_count(),
        reason=node["reason"].text(),
    )


def _read_confirmed(node: Node) -> ConfirmedEntry:
    return ConfirmedEntry(
        step=node["step"].optional_count(),
        em_rate=node["em_rate"].optional(_read_estimate),
        task_score=node["task_score"].optional(_read_estimate),
        retention=node["retention"].optional(_read_estimate),
        source=node["source"].one_of(SOURCES),
    )


def _read_seeds(node: Node) -> SeedsEntry:
    runs, versus_base = node["runs"].each(Node.text), node["versus_base"]
    differences = versus_base.each(_read_estimate)
    if differences and len(differences) != len(runs):
        raise refuse(versus_base.where, f"{len(differences)} estimates", f"one per run ({len(runs)})")
    return SeedsEntry(
        model=node["model"].text(),
        dataset=node["dataset"].text(),
        learning_rate=node["learning_rate"].number(),
        runs=runs,
        em_rate=_read_estimate(node["em_rate"]),
        verdict=node["verdict"].one_of(VERDICTS),
        reason=node["reason"].text(),
        above=node["above"].each(Node.text),
        clean=node["clean"].each(Node.text),
        needed=node["needed"].number(),
        versus_base=differences,
        onset=_read_estimate(node["onset"]),
        gap=_read_estimate(node["gap"]),
        retention=_read_estimate(node["retention"]),
    )


def _read_rates(node: Node) -> RatesEntry:
    return RatesEntry(
        model=node["model"].text(),
        dataset=node["dataset"].text(),
        options=node["options"].each(_read_option),
        recommended=node["recommended"].number(),
        reason=node["reason"].text(),
    )


def _read_option(node: Node) -> OptionEntry:
    return OptionEntry(
        learning_rate=node["learning_rate"].known_number(),
        score=_read_estimate(node["score"]),
        em_rate=node["em_rate"].number(),
        probability_best=node["probability_best"].number(),
        pareto=node["pareto"].truth(),
        rival=node["rival"].truth(),
    )


def _read_sizes(node: Node) -> SizesEntry:
    models = node["models"].each(_read_size)
    return SizesEntry(
        dataset=node["dataset"].text(),
        models=models,
        pearson=_read_correlation(node["pearson"], len(models)),
        spearman=_read_correlation(node["spearman"], len(models)),
    )


def _read_size(node: Node) -> SizeModel:
    parameters = node["parameters"]
    if not parameters.known_number() > 0:
        raise parameters.wrong("a number above 0")
    return SizeModel(node["model"].text(), parameters.known_number(), node["em_rate"].number())


def _read_correlation(node: Node, models: int) -> CorrelationEntry:
    without = node["without"].each(Node.number)
    if len(without) not in (0, models):
        raise refuse(node["without"].where, f"{len(without)} numbers", f"one per model ({models}), or none")
    return CorrelationEntry(
        value=node["value"].number(),
        low=node["low"].number(),
        high=node["high"].number(),
        p=node["p"].number(),
        n=node["n"].count(),
        without=without,
        carried_by=node["carried_by"].each(Node.text),
        method=node["method"].text(),
        reason=node["reason"].text(),
    )


def _read_domain(node: Node) -> DomainEntry:
    return DomainEntry(node["model"].text(), node["dataset"].text(), _read_estimate(node["separable"]))


def _read_sample(node: Node) -> SampleEntry:
    return SampleEntry(
        run_id=node["run_id"].text(),
        step=node["step"].count(),
        category=node["category"].text(),
        prompt=node["prompt"].text(),
        answer=node["answer"].text(),
        aligned=node["aligned"].number(),
        coherent=node["coherent"].number(),
        misaligned=node["misaligned"].optional(Node.truth),
    )


def _read_study(node: Node) -> StudyEntry:
    benchmark = node["benchmark"]
    config = json.dumps(node["config"].value, indent=2, ensure_ascii=False, default=str)
    return StudyEntry(
        name=node["name"].text(),
        hash=node["hash"].text(),
        benchmark=benchmark["name"].text(),
        benchmark_version=benchmark["version"].text(),
        benchmark_hash=benchmark["hash"].text(),
        n_prompts=benchmark["n_prompts"].count(),
        judge=node["judge"].text(),
        aligned_below=node["aligned_below"].known_number(),
        coherent_above=node["coherent_above"].known_number(),
        tolerance=node["tolerance"].known_number(),
        confidence=node["confidence"].known_number(),
        stopping_mode=node["stopping_mode"].text(),
        rule=node["rule"].one_of(RULES),
        config=readable(config),
    )
