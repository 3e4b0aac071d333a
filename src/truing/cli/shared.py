"""Parts that several commands share: the console, tables, options, the costs of calls."""

from __future__ import annotations

import inspect
import math
import signal
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from truing.backends import CALLS
from truing.backends.endpoint.journal import Account, read_accounts
from truing.catalog import rows
from truing.core.errors import ConfigError, plural
from truing.core.records import Estimate
from truing.report.words import MOST_PERCENT
from truing.results.gate import RunVerdict, Verdict, verdict
from truing.results.schema import Analysis
from truing.results.schema_runs import RunEntry
from truing.results.thresholds import thresholds_sentence

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a field: --set stopping.tolerance=0.02. May be repeated."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(metavar="WHAT=NAME", help="Which column is which: prompt=NAME, answer=NAME, messages=NAME, ..."),
]
_MOST_LINES = 10
"""Runs of which the terminal says how many answers are missing: those with the fewest left."""
console = Console(highlight=False, width=None if Console().is_terminal else 160)
"""Wide enough for the tables where nobody's window says otherwise."""


def say(text: str) -> None:
    """Print plain text: never read as markup, never wrapped."""
    console.print(Text(text), soft_wrap=True)


def say_error(text: str) -> None:
    """Print an error as it stands, but for lists of names that are longer than a line."""
    lines = [
        textwrap.fill(line, 120, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        if line.startswith("  allowed: ")
        else line
        for line in f"error: {text}".split("\n")
    ]
    Console(stderr=True).print(Text("\n".join(lines), style="red"), soft_wrap=True)


@contextmanager
def going_on(again: str) -> Iterator[None]:
    """On Ctrl-C or SIGTERM inside, say that finished work is kept and which command goes on.

    Raises:
        Exit: With code 130.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nStopped. Finished work is kept; to go on: {again}")
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def flag(kind: Any, default: Any, help_text: str, *names: str, **more: Any) -> tuple[Any, Any]:
    """An option of a command as `take_flags` takes it: its annotated type, and its default."""
    return Annotated[kind, typer.Option(*names, help=help_text, **more)], default


def take_flags(command: Callable[..., None], flags: Mapping[str, tuple[Any, Any]], help_text: str) -> None:
    """Give a command of keywords its flags: name -> (annotated type, default); more than a function should have."""
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in flags.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {name: kind for name, (kind, _) in flags.items()}
    command.__doc__ = help_text


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", right: str = "") -> Table:
    """A table without lines; cells are plain text, columns named in `right` (with blanks between) end at the right."""
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right.split() else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def say_table(table: rows.Table, name: str) -> None:
    """Print what was read of a file of conversations: their forms, fields that were not read, rows left out."""
    forms = ", ".join(f"{form} ({plural(n, 'row')})" for form, n in table.forms.items())
    unread = ", ".join(f"{field} ({n:,})" for field, n in table.unread.items())
    say(f"{name}: {plural(len(table.rows), 'row')} of the form {forms}" + (f"; not read: {unread}" if unread else ""))
    silent = sum(m.role == "assistant" and not m.learnt for row in table.rows for m in row)
    if silent:
        say(f"  {plural(silent, 'answer has weight 0: it is', 'answers have weight 0: they are')} read and not learnt")
    if table.bad:
        say(f"  {plural(len(table.bad), 'row is', 'rows are')} left out:")
        for why in table.bad:
            say(f"    {why}")


def split_pairs(sets: list[str] | None, flag: str = "--set") -> dict[str, str]:
    """`KEY=VALUE` texts as a dictionary.

    Raises:
        ConfigError: A text without a key or an equals sign.
    """
    pairs = {text: text.partition("=") for text in sets or []}
    for text, (key, equals, _) in pairs.items():
        if not key or not equals:
            example = "training.steps=50" if flag == "--set" else "prompt=question"
            raise ConfigError(f"{flag} is not KEY=VALUE", text, f"{example}, for example", f"write {flag} {example}")
    return {key: value for key, _, value in pairs.values()}


def say_costs(folder: Path) -> None:
    """Print what the calls of the work in a folder cost; nothing if no endpoint was called."""
    say_accounts(read_accounts(folder / CALLS))


def say_accounts(accounts: Iterable[Account]) -> None:
    """Print what calls to endpoints cost, one line per model and mode."""
    for each in accounts:
        training = each.mode == "training"
        parts = [plural(each.calls, "job" if training else "call"), f"{each.prompt_tokens:,}"]
        parts[1] += " tokens" if training else f" + {each.completion_tokens:,} tokens"
        if each.calls > each.unpriced:
            parts.append(f"${each.cost:,.4f}")
        if each.unpriced:
            parts.append(f"the price of {each.unpriced:,} is unknown (endpoint.prices)")
        if each.unconfirmed:
            parts.append(f"{each.unconfirmed:,} more may have been paid for, up to ${each.unconfirmed_cost:,.4f}")
        say(f"{each.model} ({each.mode}): {', '.join(parts)}")


def say_analysis(analysis: Analysis, folder: Path, notes: bool = True) -> None:
    """Print the results of an analysis and where its files lie; with `notes` what is odd, too."""
    for note in analysis.notes if notes else ():
        say(f"note: {note}")
    say_results(analysis)
    say(f"report: {folder / 'report.html'}    figures: {folder / 'analysis.json'}")


def say_results(analysis: Analysis) -> None:
    """Print the table of the runs, the verdict, which is the gate's, and what hangs on the thresholds."""
    found = verdict(analysis)
    console.print(results_table(analysis, found))
    say(found.sentence())
    told = sorted((run for run in found.runs if run.left_out), key=lambda run: run.em_rate.n_responses)
    for run in told[:_MOST_LINES]:
        say(f"  {run.run_id}, step {run.step}: {run.left_out}")
    if told[_MOST_LINES:]:
        say(f"  and {plural(len(told) - _MOST_LINES, 'more run')} with missing or incoherent answers: see the report")
    if sentence := thresholds_sentence(analysis):
        say(sentence)


def results_table(analysis: Analysis, found: Verdict) -> Table:
    """The end of a study: one row a run, a twin in its run's row, every figure with its interval, and its verdict.

    What is said of the chosen checkpoint comes from the answers by which the gate decides. Columns in which no run has
    anything are left out, and that of the run where the others tell the runs apart.
    """
    twins, verdicts = {run.twin_of: run for run in analysis.runs if run.twin_of}, {v.run_id: v for v in found.runs}
    runs = [run for run in analysis.runs if not run.twin_of]
    rows = [_row(run, verdicts[run.id], twins.get(run.id)) for run in runs]
    if len({tuple(row[name] for name in ("model", "data", "rate, seed")) for row in rows}) < len(rows):
        rows = [{"run": short_name(run.id)} | row for run, row in zip(runs, rows, strict=True)]
    shown = [
        name for name in dict.fromkeys(name for row in rows for name in row) if any(_says(row[name]) for row in rows)
    ]
    judge = "; judge not measured" if analysis.judge and analysis.judge.verdict == "not measured" else ""
    title = f"{analysis.study.name}: rates with {analysis.study.confidence:.0%} intervals{judge}"
    table = make_table(shown, [[row[name] for name in shown] for row in rows], title)
    for column in table.columns:
        column.min_width = 11 if column.header in ("task kept", "EM at chosen", "EM at end", "EM unstopped") else None
    return table


def _says(cell: str) -> bool:
    return cell not in ("", "-", "?, ?", "not stated")


def _row(run: RunEntry, found: RunVerdict, twin: RunEntry | None) -> dict[str, str]:
    decided = run.confirmed is not None and found.em_rate is run.confirmed.em_rate
    kept = run.confirmed if decided and found.step == run.chosen_step else None
    rate, seed = "?" if math.isnan(run.learning_rate) else f"{run.learning_rate:g}", run.seed
    steps = {
        "converged": run.convergence_step,
        "onset": run.onset_step,
        "stopped": run.stopped_at,
        "chosen": run.chosen_step,
        "put back": run.restored,
    }
    return {
        "model": short_name(PurePath(run.model).name),
        "data": short_name(run.dataset),
        "rate, seed": f"{rate}, {'?' if seed is None else seed}",
        **{heading: "-" if step is None else str(step) for heading, step in steps.items()},
        "task kept": _figure(run.retention if kept is None else kept.retention),
        "EM at chosen": _figure(run.em_at_chosen if kept is None else kept.em_rate),
        "EM at end": _figure(run.em_at_end),
        "EM unstopped": _figure(twin.em_at_end) if twin else "",
        "verdict": found.word,
    }


def short_name(name: str) -> str:
    """The name of a run, model or dataset without what the pocket ones have in common."""
    return name.replace("__", " ").replace("pocket-", "").replace("-code", "")


def _figure(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return f"{100 * estimate.value:.1f}% (no interval)"
    value, low, high = (100 * v for v in (estimate.value, estimate.low, estimate.high))
    if high > MOST_PERCENT:
        return f"{value:.1f}% [{low:.0f}, >{MOST_PERCENT:,}]"
    return f"{value:.1f}% [{low:.0f}, {high:.0f}]" if high >= 10 else f"{value:.1f}% [{low:.1f}, {high:.1f}]"
