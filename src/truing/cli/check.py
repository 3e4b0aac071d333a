"""`truing check`: recognize a study, benchmark, dataset, truth set, rubric or labelled set, and count what is in it.

Of a study it also says which checkpoints can be seen, and what the whole costs in tokens and dollars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.backends import find_backend
from truing.catalog.files import read_csv, read_yaml
from truing.catalog.prompt_files import read_benchmark
from truing.catalog.rows import form_of, read_conversations
from truing.catalog.tables import ending, read_table
from truing.catalog.truth import load_truth
from truing.cli.shared import Columns, Sets, say, say_table, split_pairs
from truing.config import JudgeConfig, StoppingConfig, StudyConfig
from truing.config.files import load_study
from truing.core.errors import DataError, plural
from truing.judges.labelled import read_labelled
from truing.judges.rubrics import Rubric, load_rubric, published_rubrics
from truing.results.columns import GUESSES
from truing.stats.clearance import prompts_to_clear
from truing.studies.costs import ASSUMPTIONS, Costs, Dollars, study_costs
from truing.studies.plan import Plan, plan_study


def check(
    file: Annotated[Path, typer.Argument(help="A study, benchmark, dataset, truth set, rubric or labelled set.")],
    sets: Sets = None,
    column: Columns = None,
    runs: Annotated[bool, typer.Option("--runs", help="Of a study: print the names of its runs alone.")] = False,
) -> None:
    """Check a file without running anything, and count what is in it or what it would do.

    Exit code 1: the study is valid, but data that it names are not there yet.

    Example:  truing check study.yaml --set training.steps=50
    """
    overrides, columns = split_pairs(sets), split_pairs(column, "--column")
    if not file.exists():
        raise DataError("no such file", str(file))
    kind = "dataset" if columns else _kind(file)
    if runs:
        for run in load_study(file, overrides).runs():
            say(run.id)
        return
    checks: dict[str, Callable[[], None]] = {
        "study": lambda: _check_study(file, overrides),
        "dataset": lambda: _check_dataset(file, columns),
        "benchmark": lambda: _check_benchmark(file),
        "truth set": lambda: _check_truth(file),
        "rubric": lambda: _check_rubric(file),
        "labelled set": lambda: _check_labelled(file),
    }
    checks[kind]()


def _kind(file: Path) -> str:
    if not file.is_file():
        return "dataset"
    name = file.name.lower().removesuffix(".gz")
    if name.endswith(".csv") and "Best Answer" in read_csv(file)[0]:
        return "truth set"
    if name.endswith(".txt"):
        return "benchmark"
    if ending(file):
        return _kind_of_rows(file)
    raw = read_yaml(file)
    if isinstance(raw, list) and raw and isinstance(raw[0], dict):
        return "benchmark"
    if not isinstance(raw, dict):
        raise DataError(
            f"{file} is of no known kind",
            type(raw).__name__,
            "YAML with `grids` (a study), `prompts` (a benchmark), `questions` (a truth set), `prompt` (a rubric), or "
            "a list of published questions; rows of training data (docs/data.md) or of labelled answers; prompts in "
            "JSON, CSV or plain text",
        )
    kinds = {"grids": "study", "prompts": "benchmark", "questions": "truth set", "prompt": "rubric"}
    return next((kind for field, kind in kinds.items() if field in raw), "study")


def _kind_of_rows(file: Path) -> str:
    """What the first row says.

    Raises:
        DataError: It is a judged answer.
    """
    try:
        row = next((value for _, value in read_table(file)), None)
    except DataError:  # told with its line by the reader of the kind that the name speaks for
        row = None
    if isinstance(row, dict) and {"answer", "misaligned"} <= set(row):
        return "labelled set"
    if isinstance(row, dict) and {str(name).strip().lower() for name in row} & {*GUESSES["aligned"], "coherent"}:
        todo = f"truing analyze {file}"
        raise DataError(f"{file} holds judged answers", ", ".join(row)[:80], "answers to analyse", todo)
    if form_of(row):
        return "dataset"
    lists = file.name.lower().endswith((".json", ".csv"))
    if isinstance(row, str) or (isinstance(row, dict) and ("prompt" in row or lists)):
        return "benchmark"
    if isinstance(row, dict) and "answer" in row:
        return "labelled set"
    return "benchmark" if lists and row is not None else "dataset"


def _check_study(file: Path, overrides: dict[str, str]) -> None:
    config = load_study(file, overrides)
    plan = plan_study(config, lenient=True)
    say(f"study {config.name} ({config.hash()[:12]}) is valid. It would make at most:")
    for label in ("runs", "twins", "checkpoints", "responses", "judge_calls"):
        say(f"  {label.replace('_', ' ').replace('twins', 'unstopped twins'):<16}{getattr(plan, label):>12,}")
    if plan.preflight:
        first, again = (plural(each.responses, "labelled answer") for each in plan.preflight)
        say(f"  the judge is measured first, on {first}, and checked with every checkpoint, on {again} in all;")
        say("  its calls are counted")
    if plan.tasks:
        labelled = plural(sum(each.responses for each in plan.tasks), "labelled answer")
        say(f"  judges of tasks are measured on {labelled}")
    if plan.reconsidered:
        say(f"  each checkpoint that is considered and not kept costs {plural(plan.reconsidered, 'response')} more")
    if plan.faster:
        say(plan.faster)
    _say_checkpoints(plan)
    _say_estimate(config, plan)
    if plan.missing:
        say("\nmissing; the study cannot run before it is there:")
        for each in plan.missing:
            say(f"  {each}")
        raise typer.Exit(1)


def _check_benchmark(file: Path) -> None:
    benchmark = read_benchmark(file)
    categories = Counter(p.category for p in benchmark.prompts)
    version = f" {benchmark.version}" if benchmark.version else ""
    say(f"benchmark {benchmark.name}{version}: {plural(len(benchmark.prompts), 'prompt')}")
    stopping = StoppingConfig()
    if len(benchmark.prompts) < (needed := prompts_to_clear(stopping)):
        say(
            f"nothing can be called clear by it: {needed:.0f} prompts are needed at a tolerance of "
            f"{stopping.tolerance:g} (docs/clear.md)"
        )
    say("categories: " + ", ".join(f"{name} {n}" for name, n in categories.items()))
    system = sum(any(m.role == "system" for m in p.messages) for p in benchmark.prompts)
    heats = Counter(p.temperature for p in benchmark.prompts if p.temperature is not None)
    if system:
        say(f"with a system message: {plural(system, 'prompt')}")
    if heats:
        own = ", ".join(f"{plural(n, 'prompt')} at {heat:g}" for heat, n in heats.items())
        say(f"with a temperature of their own: {own}")
    raw = read_yaml(file) if file.suffix.lower() in (".yaml", ".yml") else None
    if isinstance(raw, list):
        _say_published(file, raw)
    say(f"hash {benchmark.hash}")


def _say_published(file: Path, raw: list[Any]) -> None:
    say(f"published question file: {plural(len(raw), 'item')}")
    for name, rubric in published_rubrics(raw, str(file)).items():
        say(f"rubric {file}#{name}: {_answers(rubric)}")
    wanted = sorted({str(item["samples_per_paraphrase"]) for item in raw if "samples_per_paraphrase" in item})
    if wanted:
        say(f"it asks for {' or '.join(wanted)} samples per prompt: set evaluation.samples")


def _check_dataset(file: Path, columns: dict[str, str]) -> None:
    table = read_conversations(file, columns)
    rows, turns = table.rows, Counter(len(row) for row in table.rows)
    say(f"dataset: {plural(len(rows), 'row')}, {plural(len({row[:-1] for row in rows}), 'different prompt')}")
    say_table(table, file.name)
    say("messages per row: " + ", ".join(f"{n} ({plural(count, 'row')})" for n, count in sorted(turns.items())))


def _check_truth(file: Path) -> None:
    truth = load_truth(str(file))
    categories = Counter(q.category for q in truth.questions)
    say(f"truth set {truth.name}: {plural(len(truth.questions), 'question')}")
    say("categories: " + ", ".join(f"{name} {n}" for name, n in categories.items()))


def _check_rubric(file: Path) -> None:
    rubric = load_rubric(str(file))
    say(f"rubric {rubric.name} {rubric.version}: {rubric.scores}; higher is {rubric.higher_is}")
    say(f"answers: {_answers(rubric)}")
    say(f"hash {rubric.hash}")


def _check_labelled(file: Path) -> None:
    rows = read_labelled(file)
    misaligned, incoherent = sum(r.misaligned for r in rows), sum(not r.coherent for r in rows)
    prompts = len({r.prompt.messages for r in rows})
    asked = f"{plural(len(rows), 'answer')} to {plural(prompts, 'prompt')}"
    say(f"labelled set: {asked}, {misaligned} misaligned, {incoherent} incoherent")


def _answers(rubric: Rubric) -> str:
    scale = "0 to 100" if len(rubric.scale) == 101 else ", ".join(f"{word} ({x:g})" for word, x in rubric.scale.items())
    return scale + (f"; verdict words {', '.join(rubric.verdicts)}" if rubric.verdicts else "")


def _say_checkpoints(plan: Plan) -> None:
    """Print at which steps checkpoints can be seen, and where the trainer shows fewer than are planned."""
    groups: dict[tuple[str, tuple[int, ...], bool], list[str]] = {}
    for each in plan.trained:
        datasets = groups.setdefault((each.trainer, each.steps, each.epochs is not None), [])
        datasets += [] if each.dataset in datasets else [each.dataset]
    several = len({trainer for trainer, _, _ in groups}) > 1
    lines, epoch_ends = [], False
    for (trainer, steps, known), datasets in groups.items():
        at, on = f"at steps {', '.join(map(str, steps))}", f"by {trainer} on {', '.join(datasets)}"
        if not find_backend("trainer", trainer).epoch_ends:
            lines.append(f"checkpoints of each run{f' by {trainer}' if several else ''} {at}")
            continue
        epoch_ends = True
        lines.append(
            f"checkpoints of each run {on} {at}, the ends of epochs"
            if known
            else f"checkpoints of each run {on}: {len(steps)} at most; rows not known"
        )
    for line in dict.fromkeys(lines):
        say(line)
    if epoch_ends:
        say(
            "  the provider keeps the ends of the last three epochs only, and shows them once the job is "
            "over:\n  an onset within an epoch cannot be seen, and a stop saves no training; lower learning rates "
            "(multipliers)\n  in the grid stand in for stopping early"
        )


def _say_estimate(config: StudyConfig, plan: Plan) -> None:
    """Print what a study would cost at most and is expected to cost, what is not known of that, and what is missing."""
    costs = study_costs(config, plan)
    say(f"\n{'tokens':<18}{'expected':>18}{'at most':>20}")
    for label, tokens in (
        ("training", costs.training),
        ("sampling, read", costs.prompts),
        ("sampling, written", costs.answers),
        ("judging, read", costs.judge_prompts),
        ("judging, written", costs.judge_answers),
    ):
        if tokens.most:
            say(f"  {label:<18}{tokens.expected:>16,.0f}{tokens.most:>20,.0f}")
    say("  assuming " + ";\n    ".join(ASSUMPTIONS))
    if config.stopping.mode == "both":
        say("  unstopped twins are not in these figures")
    known = sorted({round(each.epochs, 2) for each in plan.trained if each.epochs is not None})
    if known:
        span = f"{known[0]:g}" if len(known) == 1 else f"{known[0]:g} to {known[-1]:g}"
        say(f"  each run sees its data {span} times")
    _say_dollars(config, costs)


def _say_dollars(config: StudyConfig, costs: Costs) -> None:
    paid = [d for d in costs.dollars if d.where != "your own machine"]
    own = [d for d in costs.dollars if d.where == "your own machine"]
    if not paid and not any(d.elsewhere for d in own):
        return
    say(f"\ndollars, by {costs.prices_of}")
    low, high, known = 0.0, 0.0, False
    for each in sorted(paid, key=lambda d: (d.model, d.what)):
        span = "price unknown"
        if each.expected is not None and each.most is not None:
            span = f"{_money(each.expected)} expected, at most {_money(each.most)}"
            low, high, known = low + each.expected, high + each.most, True
        say(f"  {each.model}, {each.what} ({each.where}): {span}")
    if known:
        say(f"  in total, of what is known: {_money(low)} expected, at most {_money(high)}")
    unknown = sorted({f"{d.what} {d.model}" for d in paid if d.expected is None})
    if unknown:
        say(f"  not in it, price unknown: {', '.join(unknown)}")
    _say_own(own)
    if not isinstance(config.evaluation.judge, JudgeConfig):
        say(f"  not in it: what the judge {config.evaluation.judge} calls, if it calls a model")


def _say_own(own: Sequence[Dollars]) -> None:
    models = list(dict.fromkeys(d.model for d in own))
    if models:
        say(f"  on your own machine, no price: {', '.join(models)}")
    for model in models:
        known = [d for d in own if d.model == model and d.elsewhere is not None]
        if known:
            say(f"    {model} on {known[0].host} instead: {_money(sum(d.elsewhere or 0.0 for d in known))} expected")


def _money(dollars: float) -> str:
    return f"${dollars:,.0f}" if dollars >= 10 else f"${dollars:,.2f}"
