"""Progress of a study while it runs: a table on a terminal, a line per checkpoint elsewhere."""

from __future__ import annotations

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from truing.cli.shared import console, say, short_name
from truing.config import StudyConfig
from truing.core.records import Estimate
from truing.studies.run import Progress

__all__ = ["Display"]

_COLOURS = {
    "continue": "green",
    "undecided": "yellow",
    "stop": "red",
    "finished": "green",
    "stopped": "red",
    "failed": "magenta",
    "starting": "dim",
}


class Display:
    """Live progress of the runs of a study."""

    def __init__(self, config: StudyConfig) -> None:
        self.steps = config.training.steps
        self.latest: dict[str, Progress] = {}
        self.evaluated: dict[str, Progress] = {}
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def __enter__(self) -> Display:
        if console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if console.is_terminal:
            self.live.stop()

    def update(self, news: Progress) -> None:
        """Take in news of a run."""
        self.latest[news.run_id] = news
        if news.evaluation is None:
            return
        self.evaluated[news.run_id] = news
        if not console.is_terminal:
            rate, task = _rate(news.evaluation.em_rate), _rate(news.evaluation.task_score)
            say(f"{news.run_id}  step {news.step:>4}  EM {rate}  task {task}  {news.evaluation.decision.action}")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "progress", "step", "EM rate", "task", ""):
            table.add_column(heading, no_wrap=True)
        ended = [r for r, news in self.latest.items() if news.ended]
        visible = [r for r in self.latest if r not in ended]
        room = max(4, console.size.height - len(visible) - 4)
        for run_id in (*ended[-room:], *visible):
            self._add_row(table, run_id)
        return table

    def _add_row(self, table: Table, run_id: str) -> None:
        news, seen = self.latest[run_id], self.evaluated.get(run_id)
        evaluation = seen.evaluation if seen else None
        word = news.ended.state if news.ended else str(evaluation.decision.action) if evaluation else "starting"
        table.add_row(
            Text(short_name(run_id)),
            ProgressBar(total=self.steps, completed=news.step, width=16),
            f"{news.step}/{self.steps}",
            _rate(evaluation.em_rate) if evaluation else "",
            _rate(evaluation.task_score) if evaluation else "",
            Text(word, style=_COLOURS.get(word, "green")),
        )


def _rate(estimate: Estimate) -> str:
    return "-" if estimate.reason else f"{estimate.value:5.1%} ({estimate.low:.1%} to {estimate.high:.1%})"
