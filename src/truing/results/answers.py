"""Judged answers out of a store, checkpoint by checkpoint, with the prompts that they answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truing.catalog.benchmarks import load_benchmark
from truing.config import SideConfig, StudyConfig
from truing.core.errors import StoreError
from truing.core.records import Benchmark, Judgment, Prompt, Response, Run
from truing.monitor import Store
from truing.studies.run import twin_of

__all__ = ["JudgedAnswer", "JudgedCheckpoint", "judged_checkpoints", "read_answers"]

_ROWS = """
SELECT run_id, step, weights, benchmark_judgments AS key, NULL AS benchmark FROM evaluations
UNION ALL
SELECT run_id, step, weights, judgments, benchmark FROM also JOIN evaluations USING (run_id, step)
ORDER BY run_id, step, benchmark NULLS FIRST
"""


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One answer with its prompt and scores."""

    prompt: Prompt
    response: Response
    judgment: Judgment


@dataclass(frozen=True, slots=True)
class JudgedCheckpoint:
    """One evaluated checkpoint with every judged answer to the study's benchmark."""

    run: Run
    step: int
    weights: str
    key: str
    """Key of its judgments; equal for runs that share a base model."""
    benchmark: Benchmark
    """What was asked."""
    label: str
    """What that is called in the results; several judges of one benchmark differ in it."""
    judge: str
    """Who judged, as the study names it."""
    judged_at: datetime
    """When the judgments were written."""
    answers: tuple[JudgedAnswer, ...]


def judged_checkpoints(config: StudyConfig, out: Path, sides: bool = False) -> Iterator[JudgedCheckpoint]:
    """Every evaluated checkpoint of a study in a folder, by run and step; one at a time in memory.

    Args:
        config: The study.
        out: Its folder.
        sides: Also the answers to the study's other benchmarks, each after the checkpoint's own.

    Raises:
        StoreError: Nothing has been evaluated, or a piece is missing or damaged.
    """
    store, evaluation = Store(out / "store"), config.evaluation
    runs = {run.id: run for planned in config.runs() for run in (planned, twin_of(planned))}
    rows = [row for row in store.query(_ROWS) if row["run_id"] in runs and (sides or row["benchmark"] is None)]
    if not rows:
        raise StoreError(f"nothing has been evaluated in {out}", todo="run the study first: truing run")
    main = SideConfig(benchmark=evaluation.benchmark, judge=evaluation.judge)
    asked: dict[str | None, SideConfig] = {None: main, **{side.label: side for side in evaluation.also}}
    benchmarks = {label: load_benchmark(side.benchmark) for label, side in asked.items()}
    for row in rows:
        label, key = row["benchmark"], row["key"]
        if label in asked:
            judge = asked[label].judge or evaluation.judge
            answers = read_answers(store, key, benchmarks[label])
            written = datetime.fromtimestamp((store.root / "judgments" / f"{key}.parquet").stat().st_mtime, UTC)
            yield JudgedCheckpoint(
                run=runs[row["run_id"]],
                step=row["step"],
                weights=row["weights"],
                key=key,
                benchmark=benchmarks[label],
                label=label or benchmarks[label].name,
                judge=judge if isinstance(judge, str) else judge.model,
                judged_at=written,
                answers=answers,
            )


def read_answers(store: Store, key: str, benchmark: Benchmark) -> tuple[JudgedAnswer, ...]:
    """The answers of a piece of judgments, in the order of the benchmark's prompts.

    Raises:
        StoreError: A piece is missing or damaged, or holds other prompts.
    """
    prompts = {prompt.id: prompt for prompt in benchmark.prompts}
    order = {prompt_id: i for i, prompt_id in enumerate(prompts)}
    judged = store.read("judgments", key)
    if strange := sorted({row["prompt_id"] for row in judged} - set(prompts)):
        raise StoreError(
            f"the store holds answers to prompts that {benchmark.name} lacks",
            ", ".join(strange[:5]),
            "the prompts that were asked",
            "put the benchmark's file back as it was",
        )
    answered: dict[Any, dict[str, Any]] = {}
    for responses_key in dict.fromkeys(row["responses_key"] for row in judged):
        answered |= {(row["prompt_id"], row["sample"]): row for row in store.read("responses", responses_key)}
    judged.sort(key=lambda row: (order[row["prompt_id"]], row["sample"]))
    return tuple(_answer(prompts, answered[row["prompt_id"], row["sample"]], row) for row in judged)


def _answer(prompts: dict[str, Prompt], answered: dict[str, Any], judged: dict[str, Any]) -> JudgedAnswer:
    where = (judged["prompt_id"], judged["sample"])
    response = Response(*where, answered["text"], answered["n_tokens"], answered["finished"], answered["error"])
    judgment = Judgment(*where, judged["aligned"], judged["coherent"], judged["verdict"], judged["error"])
    return JudgedAnswer(prompts[where[0]], response, judgment)
