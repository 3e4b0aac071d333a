"""Progress of a study while it runs: a table on a terminal; elsewhere a line per checkpoint and per half a minute."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from truing.cli.shared import console, say, short_name
from truing.config import StudyConfig
from truing.core.progress import Lines, Phase, Shown
from truing.core.records import Estimate, Evaluation
from truing.studies.run import Progress

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress, only what comes out.")]
ShownAs = Annotated[
    Shown, typer.Option("--progress", help="`json`: JSON Lines on standard error, for a program that watches.")
]
_COLOURS = {"undecided": "yellow", "stop": "red", "stopped": "red", "failed": "magenta", "starting": "dim"}
"""Of the words for what is or was decided; any other is green."""


def how_shown(quiet: bool, progress: Shown) -> Shown:
    """How progress is shown, by the two flags."""
    return "quiet" if quiet else progress


class Display:
    """Live progress of the runs of a study."""

    def __init__(self, config: StudyConfig, shown: Shown = "auto") -> None:
        self.steps, self.shown = config.training.steps, shown
        self.latest: dict[str, Progress] = {}
        self.evaluated: dict[str, Evaluation] = {}
        self.phases: dict[str, Phase] = {}
        self.lines = Lines(shown)
        self.table = shown == "auto" and console.is_terminal
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def __enter__(self) -> Display:
        if self.table:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.table:
            self.live.stop()

    def update(self, news: Progress) -> None:
        """Take in news of a run."""
        if news.said:
            return self._say(news.said)
        if news.phase is not None:
            self.phases[news.run_id] = news.phase
            if not self.table:
                known = news.run_id in self.latest
                self.lines(news.phase, f"{news.run_id}, step {news.step}" if known else news.run_id)
            return
        self.latest[news.run_id] = news
        if self.shown == "json" and (news.evaluation or news.ended):
            print(json.dumps(_as_object(news)), file=sys.stderr, flush=True)
        if news.evaluation is None:
            return
        self.evaluated[news.run_id] = news.evaluation
        if self.shown == "auto" and not self.table:
            rate, task = _rate(news.evaluation.em_rate), _rate(news.evaluation.task_score)
            say(f"{news.run_id}  step {news.step:>4}  EM {rate}  task {task}  {news.evaluation.decision.action}")

    def _say(self, text: str) -> None:
        if self.shown == "json":
            print(json.dumps({"event": "said", "text": text}), file=sys.stderr, flush=True)
        elif self.shown == "auto":
            say(text)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "progress", "step", "EM rate", "task", "", ""):
            table.add_column(heading, no_wrap=True)
        ended = [r for r, news in self.latest.items() if news.ended]
        visible = [r for r in self.latest if r not in ended]
        room = max(4, console.size.height - len(visible) - 4)
        for run_id in (*ended[-room:], *visible):
            self._add_row(table, run_id)
        if not self.latest:
            for name, phase in self.phases.items():
                table.add_row(Text(name), "", "", "", "", "", Text(phase.words(), style="dim"))
        return table

    def _add_row(self, table: Table, run_id: str) -> None:
        news, evaluation = self.latest[run_id], self.evaluated.get(run_id)
        phase = None if news.ended else self.phases.get(run_id)
        word = news.ended.state if news.ended else str(evaluation.decision.action) if evaluation else "starting"
        table.add_row(
            Text(short_name(run_id)),
            ProgressBar(total=self.steps, completed=news.step, width=16),
            f"{news.step}/{self.steps}",
            _rate(evaluation.em_rate) if evaluation else "",
            _rate(evaluation.task_score) if evaluation else "",
            Text(word, style=_COLOURS.get(word, "green")),
            Text(phase.words() if phase else "", style="dim"),
        )


def _as_object(news: Progress) -> dict[str, object]:
    """An evaluation, or the end of a run, as one object of JSON Lines; numbers that are not known are null."""
    about: dict[str, object] = {"event": "ended" if news.ended else "evaluated", "where": news.run_id}
    if news.evaluation is None:
        return {**about, "step": news.step, "state": news.ended.state if news.ended else ""}
    rate = news.evaluation.em_rate
    figures = {"em_rate": rate.value, "low": rate.low, "high": rate.high} if not rate.reason else {}
    return {**about, "step": news.step, **figures, "decision": str(news.evaluation.decision.action)}


def _rate(estimate: Estimate) -> str:
    return "-" if estimate.reason else f"{estimate.value:5.1%} ({estimate.low:.1%} to {estimate.high:.1%})"
