"""What a study's calls to endpoints cost, in a few lines."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from truing.cli.display import say

__all__ = ["say_costs"]


def say_costs(console: Console, journal: Path) -> None:
    """One line per model and mode; nothing if no endpoint was called."""
    if not journal.is_file():
        return
    from truing.backends.endpoint.journal import Account, Journal

    def line(account: Account) -> str:
        tokens = f"{account.prompt_tokens:,} + {account.completion_tokens:,} tokens"
        cost = f"${account.cost:,.4f}" if account.calls > account.unpriced else ""
        unknown = f"the price of {account.unpriced:,} is unknown (endpoint.prices)" if account.unpriced else ""
        doubt = f"{account.unconfirmed:,} more may have been paid for, up to ${account.unconfirmed_cost:,.4f}"
        if account.mode == "training":
            tokens = f"{account.prompt_tokens:,} tokens"
        what = "jobs" if account.mode == "training" else "calls"
        parts = [f"{account.calls:,} {what}", tokens, cost, unknown, doubt if account.unconfirmed else ""]
        return f"{account.model} ({account.mode}): " + ", ".join(part for part in parts if part)

    opened = Journal(journal)
    try:
        for account in opened.accounts():
            say(console, line(account))
    finally:
        opened.close()
