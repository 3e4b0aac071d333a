"""What a person sees while a study runs, and the table at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from truing.config import StudyConfig
from truing.core.records import Action, Estimate
from truing.studies.run import Progress

__all__ = ["Display", "going_on", "make_console", "results_table", "say"]

_COLOURS = {Action.CONTINUE: "green", Action.UNDECIDED: "yellow", Action.STOP: "red"}


def make_console() -> Console:
    """A console that is wide enough for the tables where nobody's window says otherwise."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def say(console: Console, text: str) -> None:
    """Print plain text: never read as markup, never wrapped."""
    console.print(Text(text), soft_wrap=True)


@contextmanager
def going_on(console: Console, again: str) -> Iterator[None]:
    """What Ctrl-C inside ends with: what was finished is kept, and how to go on is said.

    Raises:
        Exit: With code 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(console, f"\nStopped. Finished work is kept; to go on: {again}")
        raise typer.Exit(130) from None


class Display:
    """Live progress of the runs of a study: a table on a terminal, a line per checkpoint elsewhere."""

    def __init__(self, console: Console, config: StudyConfig) -> None:
        self.console, self.steps = console, config.training.steps
        self.latest: dict[str, Progress] = {}
        self.evaluated: dict[str, Progress] = {}
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def update(self, news: Progress) -> None:
        """Take in news of a run."""
        self.latest[news.run_id] = news
        if news.evaluation is not None:
            self.evaluated[news.run_id] = news
            if not self.console.is_terminal:
                self._print_line(news)

    def _print_line(self, news: Progress) -> None:
        evaluation = news.evaluation
        if evaluation is not None:
            say(
                self.console,
                f"{news.run_id}  step {news.step:>4}  EM {_rate(evaluation.em_rate)}  "
                f"task {_rate(evaluation.task_score)}  {evaluation.decision.action}",
            )

    def _table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "progress", "step", "EM rate", "task", ""):
            table.add_column(heading, no_wrap=True)
        ended = [r for r, news in self.latest.items() if news.ended]
        visible = [r for r in self.latest if r not in ended]
        room = max(4, self.console.size.height - len(visible) - 4)
        for run_id in (*ended[-room:], *visible):
            table.add_row(*self._row(run_id))
        return Group(table)

    def _row(self, run_id: str) -> list[RenderableType]:
        news, seen = self.latest[run_id], self.evaluated.get(run_id)
        evaluation = seen.evaluation if seen else None
        if news.ended:
            word, colour = (
                news.ended.state,
                {"stopped": "red", "failed": "magenta"}.get(news.ended.state, "green"),
            )
        elif evaluation:
            word, colour = str(evaluation.decision.action), _COLOURS[evaluation.decision.action]
        else:
            word, colour = "starting", "dim"
        return [
            Text(_short(run_id)),
            ProgressBar(total=self.steps, completed=news.step, width=16),
            Text(f"{news.step}/{self.steps}"),
            Text(_rate(evaluation.em_rate) if evaluation else ""),
            Text(_rate(evaluation.task_score) if evaluation else ""),
            Text(word, style=colour),
        ]


def results_table(analysis: dict[str, Any]) -> Table:
    """The end of a study: one row a run, a twin in its run's row, every figure with its interval.

    What is said of the chosen checkpoint comes from fresh answers where there are such. Columns in which no run has
    anything are left out.
    """
    confidence = analysis["study"]["confidence"]
    table = Table(title=f"{analysis['study']['name']}: rates with {confidence:.0%} intervals", title_justify="left")
    twins = {run["twin_of"]: run for run in analysis["runs"] if run["twin_of"]}
    rows = [_row(run, twins.get(run["id"])) for run in analysis["runs"] if not run["twin_of"]]
    for heading in _HEADINGS:
        if any(row[heading] not in _NOTHING for row in rows):
            figure = heading in ("task kept", "EM at chosen", "EM at end", "EM unstopped")
            table.add_column(heading, min_width=11 if figure else None, overflow="fold")
    shown = [str(column.header) for column in table.columns]
    for row in rows:
        table.add_row(*(Text(row[heading]) for heading in shown))
    return table


_HEADINGS = (
    "model",
    "data",
    "rate, seed",
    "converged",
    "onset",
    "stopped",
    "chosen",
    "task kept",
    "EM at chosen",
    "EM at end",
    "EM unstopped",
)
_NOTHING = ("", "-", "?, ?", "not stated")


def _row(run: dict[str, Any], twin: dict[str, Any] | None) -> dict[str, str]:
    chosen = run["confirmed"]
    if chosen is None or chosen["step"] != run["chosen_step"]:
        chosen = {"retention": run["retention"], "em_rate": run["em_at_chosen"]}
    values = (
        _short(PurePath(run["model"]).name),
        _short(run["dataset"]),
        _settings(run),
        *(_step(run[event]) for event in ("convergence_step", "onset_step", "stopped_at", "chosen_step")),
        _figure(chosen["retention"]),
        _figure(chosen["em_rate"]),
        _figure(run["em_at_end"]),
        _figure(twin["em_at_end"]) if twin else "",
    )
    return dict(zip(_HEADINGS, values, strict=True))


def _short(run_id: str) -> str:
    return run_id.replace("__", " ").replace("pocket-", "").replace("-code", "")


def _settings(run: dict[str, Any]) -> str:
    """Learning rate and seed; a question mark is not known."""
    rate, seed = run["learning_rate"], run["seed"]
    return f"{'?' if rate is None else format(rate, 'g')}, {'?' if seed is None else seed}"


def _step(step: int | None) -> str:
    return "-" if step is None else str(step)


def _figure(estimate: dict[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{100 * estimate['value']:.1f}% (no interval)"
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f}% [{low:.0f}, {high:.0f}]" if high >= 10 else f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def _rate(estimate: Estimate) -> str:
    if estimate.reason:
        return "-"
    return f"{estimate.value:5.1%} ({estimate.low:.1%} to {estimate.high:.1%})"
