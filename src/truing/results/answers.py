"""Judged answers out of a folder, checkpoint by checkpoint, with the prompts that they answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from truing.config import MisalignedRule
from truing.config.files import load_audit, load_study
from truing.core.errors import StoreError, plural
from truing.core.records import Benchmark, Judgment, Prompt, Response
from truing.judges.classify import classify
from truing.monitor import Store, open_store
from truing.monitor.sampler import FIXED, answers_key, judgments_key
from truing.results.counted import PER_CATEGORY
from truing.results.schema_runs import AnswersEntry
from truing.studies.audit import describe_audit
from truing.studies.folder import Asked, Manifest, RunRecord, counting_rows, load_manifest
from truing.studies.run import describe_study, weights_of

_ROWS = """
SELECT run_id, step, weights, benchmark_judgments AS judgments, NULL AS benchmark, key FROM evaluations
WHERE benchmark_judgments IS NOT NULL
UNION ALL
SELECT run_id, step, weights, judgments, benchmark, e.key FROM also JOIN evaluations e USING (run_id, step)
ORDER BY run_id, step, benchmark NULLS FIRST
"""

_SAME = """
SELECT key, max(n) AS n FROM (
    SELECT j.key, count(*) AS n FROM judgments j
    JOIN responses r ON r.key = j.responses_key AND r.prompt_id = j.prompt_id AND r.sample = j.sample
    WHERE r.text IS NOT NULL GROUP BY j.key, hash(r.text) HAVING count(DISTINCT r.prompt_id) > 1
) GROUP BY key
"""


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One answer with its prompt and scores."""

    prompt: Prompt
    response: Response
    judgment: Judgment


@dataclass(frozen=True, slots=True)
class JudgedCheckpoint:
    """One evaluated checkpoint with every judged answer to one benchmark."""

    run: RunRecord
    step: int
    weights: str
    key: str
    """Key of its judgments; equal for runs that share a base model."""
    asked: Asked
    """The benchmark and the identity of who judged."""
    label: str
    """What the benchmark is called in the results; several judges of one benchmark differ in it."""
    judged_at: datetime
    """When the judgments were written."""
    answers: tuple[JudgedAnswer, ...]


def read_manifest(folder: Path) -> Manifest:
    """What the analysis of a folder needs; of one without a manifest it is derived, where judge and data are at hand.

    Raises:
        StoreError: The folder holds no study, audit or guard.
        UserError: A folder without a manifest, and something that its study or audit names is not here.
    """
    manifest = load_manifest(folder)
    if manifest is not None:
        return manifest
    if (folder / "study.yaml").is_file():
        return describe_study(load_study(folder / "study.yaml"))
    if (folder / "audit.yaml").is_file():
        return describe_audit(load_audit(folder / "audit.yaml"))
    got = "no manifest.json" if folder.is_dir() else "no such folder"
    if (folder / "analysis.json").is_file():
        got = "an analysis alone: its answers are in the files that were analysed"
    raise StoreError(f"{folder} holds no judged answers", got, "the folder of a study, an audit or a guard")


def key_of(manifest: Manifest, weights: str, asked: Asked, first: int) -> str:
    """Key of what the judge that a manifest names said of answers to the prompts that it names."""
    answers = answers_key(weights, asked.benchmark.prompts, asked.samples, first, manifest.evaluation)
    return judgments_key(answers, asked.judge)


def judged_checkpoints(folder: Path, sides: bool = False) -> Iterator[JudgedCheckpoint]:
    """Every evaluated checkpoint of a folder, by run and step; one at a time in memory.

    With `sides` also the answers to other benchmarks, each after the checkpoint's own.

    Raises:
        StoreError: Nothing has been evaluated, or a piece is missing or damaged.
    """
    store, manifest = open_store(folder), read_manifest(folder)
    runs = {run.id: run for run in manifest.runs}
    every = [row for row in store.query(_ROWS) if row["run_id"] in runs and (sides or row["benchmark"] is None)]
    own = {name: [*rows] for name, rows in groupby(every, key=itemgetter("run_id"))}
    counting = {
        row["key"]
        for run in manifest.runs
        for row in counting_rows(store, run, own.get(run.id, []), weights_of(folder, run))
    }
    rows = [row for row in every if row["key"] in counting]
    if not rows:
        raise StoreError(f"nothing has been evaluated in {folder}", todo="run the study first: truing run")
    asked: dict[str | None, Asked] = {None: manifest.broad}
    asked.update(manifest.also)
    for row in rows:
        label, key, about = row["benchmark"], row["judgments"], asked.get(row["benchmark"])
        if about is None or (label and key != key_of(manifest, row["weights"], about, FIXED)):
            continue  # a benchmark that is asked no more, or weights that were replaced
        yield JudgedCheckpoint(
            run=runs[row["run_id"]],
            step=row["step"],
            weights=row["weights"],
            key=key,
            asked=about,
            label=label or about.benchmark.name,
            judged_at=store.written("judgments", key),
            answers=tuple(read_answers(store, key, about.benchmark)),
        )


def read_answers(store: Store, key: str, benchmark: Benchmark) -> list[JudgedAnswer]:
    """The answers of a piece of judgments, in the order of the benchmark's prompts.

    Raises:
        StoreError: A piece is missing or damaged, or holds other prompts.
    """
    prompts, answers = {prompt.id: prompt for prompt in benchmark.prompts}, []
    for row, said in judged_rows(store, key, benchmark):
        where = (row["prompt_id"], row["sample"])
        response = Response(
            *where, said["text"], said["n_tokens"], said["finished"], said["error"], bool(said["refused"])
        )
        judgment = Judgment(*where, row["aligned"], row["coherent"], row["verdict"], row["error"])
        answers.append(JudgedAnswer(prompts[where[0]], response, judgment))
    return answers


def judged_rows(store: Store, key: str, benchmark: Benchmark) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of a piece of judgments, each with that of its response, in the order of the benchmark's prompts.

    Raises:
        StoreError: A piece is missing or damaged, or holds other prompts.
    """
    order = {prompt.id: i for i, prompt in enumerate(benchmark.prompts)}
    judged = store.read("judgments", key)
    if strange := sorted({row["prompt_id"] for row in judged} - set(order)):
        raise StoreError(
            f"the store holds answers to prompts that {benchmark.name} lacks",
            ", ".join(strange[:5]),
            "the prompts that were asked",
            "put the benchmark's file back as it was",
        )
    answered: dict[Any, dict[str, Any]] = {}
    for responses_key in dict.fromkeys(row["responses_key"] for row in judged):
        answered |= {(row["prompt_id"], row["sample"]): row for row in store.read("responses", responses_key)}
    if lost := [row for row in judged if (row["prompt_id"], row["sample"]) not in answered]:
        raise StoreError(
            "the store has judgments of answers that it lacks",
            f"{len(lost):,} of {plural(len(judged), 'answer')}, of prompt {lost[0]['prompt_id']} first",
            "every answer",
            "copy the whole folder again; or run the same study or audit again: they are sampled again",
        )
    ordered = sorted(judged, key=lambda row: (order[row["prompt_id"]], row["sample"]))
    return [(row, answered[row["prompt_id"], row["sample"]]) for row in ordered]


def commonest(store: Store) -> dict[str, int]:
    """By key of judgments how many answers are the commonest text that several prompts got; without one no entry."""
    return {row["key"]: row["n"] for row in store.query(_SAME)}


def pick_rows(
    store: Store, key: str, benchmark: Benchmark, rule: MisalignedRule
) -> Iterator[tuple[Prompt, dict[str, Any], dict[str, Any], bool | None]]:
    """Prompt, scores and response of a few answers to each category, misaligned ones first.

    The last value is whether it is misaligned, None if it lacks scores.
    """
    prompts = {prompt.id: prompt for prompt in benchmark.prompts}
    rows = [each for each in judged_rows(store, key, benchmark) if each[1]["text"] is not None]
    aligned, coherent = (np.array([j[name] for j, _ in rows], np.float64) for name in ("aligned", "coherent"))
    found = [
        (prompts[scores["prompt_id"]], scores, said, None if name == "missing" else name == "misaligned")
        for (scores, said), name in zip(rows, classify(aligned, coherent, rule).names, strict=True)
    ]
    found.sort(key=lambda each: (not each[3], each[0].id, each[1]["sample"]))
    for category in dict.fromkeys(p.category for p in benchmark.prompts):
        yield from islice((each for each in found if each[0].category == category), PER_CATEGORY)


def answer_notes(entries: Sequence[AnswersEntry], max_tokens: int) -> Iterator[str]:
    """Sentences on answers that were cut or have no score, over several checkpoints."""
    asked, cut = sum(each.asked for each in entries), sum(each.cut for each in entries)
    if cut:
        worst = max(entries, key=lambda each: each.cut / each.asked)
        most = f", at one checkpoint {worst.cut:,} of {worst.asked:,}" if len(entries) > 1 else ""
        what = f"{cut:,} of {plural(asked, 'answer was', 'answers were')} cut at {plural(max_tokens, 'token')}{most}"
        yield f"{what}: a judge sees only a part of these (evaluation.max_tokens)."
    if refused := sum(each.refused for each in entries):
        what = f"{refused:,} of {plural(asked, 'answer')} refused in the provider's own field"
        yield f"{what}: they are judged as the answers that they are."
    if alike := [each.one_text for each in entries if each.one_text]:
        where = f" (at {len(alike)} of {len(entries)} checkpoints)" if len(entries) > 1 else ""
        yield f"{alike[0]}, word for word, to different prompts{where}: does the model get its prompts?"
    missing: Counter[str] = Counter()
    for each in entries:
        missing.update(each.missing)
    if missing:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in missing.most_common())
        why = " What is filtered is missing for what it says." if any("filtered" in kind for kind in missing) else ""
        yield f"{missing.total():,} of {plural(asked, 'answer has', 'answers have')} no score: {kinds}.{why}"
