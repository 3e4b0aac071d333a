"""What calls cost is said, and what is not known about it too."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from truing.backends.endpoint.journal import Journal, Paid
from truing.cli.costs import say_costs


def said(journal: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    say_costs(console, journal)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_nothing_where_no_endpoint_was_called(tmp_path: Path) -> None:
    assert said(tmp_path / "calls.sqlite") == ""


def test_a_line_per_model_and_mode(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "calls.sqlite")
    journal.write([Paid("gpt-4o", b"1", "[]", 1000, 2, 0.5), Paid("gpt-4o", cost=0.25)], "live")
    journal.write([Paid("[b]mine[/b]", b"2", "[]", 10, 1, None)], "batch")
    journal.close()
    assert said(tmp_path / "calls.sqlite").splitlines() == [
        "[b]mine[/b] (batch): 1 calls, 10 + 1 tokens, the price of 1 is unknown (endpoint.prices)",
        "gpt-4o (live): 1 calls, 1,000 + 2 tokens, $0.5000, 1 more may have been paid for, up to $0.2500",
    ]
