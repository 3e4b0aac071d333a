"""`truing check`: recognise a study, benchmark, dataset, truth set, rubric or labelled set, and count it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import read_rows
from truing.catalog.truth import load_truth
from truing.cli.display import say
from truing.cli.estimate import say_checkpoints, say_estimate
from truing.config.files import load_study
from truing.core.errors import DataError
from truing.core.records import Benchmark
from truing.judges.calibration import read_labelled
from truing.judges.rubrics import Rubric, load_rubric, published_rubrics
from truing.studies.plan import plan_study

__all__ = ["check_file"]

Say = Callable[[str], None]


def check_file(console: Console, file: Path, overrides: dict[str, str]) -> None:
    """Print what a file holds.

    Raises:
        UserError: The file is wrong, or of no known kind.
    """
    if not file.is_file():
        raise DataError("no such file", str(file))

    def tell(text: str) -> None:
        say(console, text)

    kind = _kind(file)
    if kind == "study":
        _check_study(tell, file, overrides)
    else:
        _CHECKS[kind](tell, file)


def _kind(file: Path) -> str:
    name = file.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _kind_of_lines(file)
    if name.endswith(".csv"):
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as rows:
            return "truth set" if "Best Answer" in next(csv.reader(rows), []) else "benchmark"
    if name.endswith((".json", ".txt")):
        return "benchmark"
    return _kind_of_yaml(file)


def _kind_of_lines(file: Path) -> str:
    """A dataset unless the first line says otherwise."""
    if file.name.endswith(".gz"):
        return "dataset"
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return "dataset"
    if isinstance(row, str) or (isinstance(row, dict) and "prompt" in row):
        return "benchmark"
    return "labelled set" if isinstance(row, dict) and "answer" in row else "dataset"


def _kind_of_yaml(file: Path) -> str:
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not YAML", str(error).replace("\n", " ")) from error
    if isinstance(raw, list) and raw and isinstance(raw[0], dict):
        return "benchmark"
    if not isinstance(raw, dict):
        raise DataError(
            f"{file} is of no known kind",
            type(raw).__name__,
            "YAML with `grids` (a study), `prompts` (a benchmark), `questions` (a truth set), `prompt` (a rubric), or "
            "a list of published questions; JSON Lines of messages (a dataset) or of labelled answers; prompts in "
            "JSON, CSV or plain text",
        )
    for field, kind in (("grids", "study"), ("prompts", "benchmark"), ("questions", "truth set"), ("prompt", "rubric")):
        if field in raw:
            return kind
    return "study"


def _check_study(tell: Say, file: Path, overrides: dict[str, str]) -> None:
    config = load_study(file, overrides)
    plan = plan_study(config, lenient=True)
    tell(f"study {config.name} ({config.hash()[:12]}) is valid. It would make at most:")
    rows = [
        ("runs", plan.runs),
        ("unstopped twins", plan.twins),
        ("checkpoints", plan.checkpoints),
        ("responses", plan.responses),
        ("judge calls", plan.judge_calls),
    ]
    for label, number in rows:
        tell(f"  {label:<16}{number:>12,}")
    say_checkpoints(tell, plan.work)
    say_estimate(tell, config, plan.work)


def _check_benchmark(tell: Say, file: Path) -> None:
    benchmark = load_benchmark(str(file))
    categories = Counter(p.category for p in benchmark.prompts)
    version = f" {benchmark.version}" if benchmark.version else ""
    tell(f"benchmark {benchmark.name}{version}: {len(benchmark.prompts)} prompts")
    tell("categories: " + ", ".join(f"{name} {n}" for name, n in categories.items()))
    _tell_settings(tell, benchmark)
    if file.suffix.lower() in (".yaml", ".yml"):
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(raw, list):
            _tell_published(tell, file, raw)
    tell(f"hash {benchmark.hash}")


def _tell_settings(tell: Say, benchmark: Benchmark) -> None:
    system = sum(any(m.role == "system" for m in p.messages) for p in benchmark.prompts)
    heats = Counter(p.temperature for p in benchmark.prompts if p.temperature is not None)
    if system:
        tell(f"with a system message: {system} prompts")
    if heats:
        tell("with a temperature of their own: " + ", ".join(f"{n} prompts at {heat:g}" for heat, n in heats.items()))


def _tell_published(tell: Say, file: Path, raw: list[Any]) -> None:
    tell(f"published question file: {len(raw)} items")
    for name, rubric in published_rubrics(raw, str(file)).items():
        tell(f"rubric {file}#{name}: {_answers(rubric)}")
    wanted = sorted({str(item["samples_per_paraphrase"]) for item in raw if "samples_per_paraphrase" in item})
    if wanted:
        tell(f"it asks for {' or '.join(wanted)} samples per prompt: set evaluation.samples")


def _check_dataset(tell: Say, file: Path) -> None:
    rows = read_rows(file)
    prompts = {row[:-1] for row in rows}
    turns = Counter(len(row) for row in rows)
    tell(f"dataset: {len(rows):,} rows, {len(prompts):,} different prompts")
    tell("messages per row: " + ", ".join(f"{n} ({count:,} rows)" for n, count in sorted(turns.items())))


def _check_truth(tell: Say, file: Path) -> None:
    truth = load_truth(str(file))
    categories = Counter(q.category for q in truth.questions)
    tell(f"truth set {truth.name}: {len(truth.questions)} questions")
    tell("categories: " + ", ".join(f"{name} {n}" for name, n in categories.items()))


def _check_rubric(tell: Say, file: Path) -> None:
    rubric = load_rubric(str(file))
    tell(f"rubric {rubric.name} {rubric.version}: {rubric.scores}; higher is {rubric.higher_is}")
    tell(f"answers: {_answers(rubric)}")
    tell(f"hash {rubric.hash}")


def _check_labelled(tell: Say, file: Path) -> None:
    rows = read_labelled(file)
    misaligned, incoherent = sum(r.misaligned for r in rows), sum(not r.coherent for r in rows)
    prompts = len({r.prompt.messages for r in rows})
    tell(f"labelled set: {len(rows)} answers to {prompts} prompts, {misaligned} misaligned, {incoherent} incoherent")


def _answers(rubric: Rubric) -> str:
    scale = "0 to 100" if len(rubric.scale) == 101 else ", ".join(f"{word} ({x:g})" for word, x in rubric.scale.items())
    return scale + (f"; verdict words {', '.join(rubric.verdicts)}" if rubric.verdicts else "")


_CHECKS: dict[str, Callable[[Say, Path], None]] = {
    "benchmark": _check_benchmark,
    "dataset": _check_dataset,
    "truth set": _check_truth,
    "rubric": _check_rubric,
    "labelled set": _check_labelled,
}
