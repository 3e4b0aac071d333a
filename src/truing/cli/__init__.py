"""The command line: `truing demo | run | check | list | report | analyze | export`.

The one place that prints. A `UserError` is shown without a traceback and exits with 2, failed work with 1, Ctrl-C with
130; running the same command again goes on.
"""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

from truing.cli.app import app
from truing.core.errors import TruingError, UserError

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script, which finds the user's parts where `python -m truing` finds them, too."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # behind all else: a file here hides no library
    try:
        app()
    except TruingError as error:
        Console(stderr=True).print(Text(f"error: {error}", style="red"), soft_wrap=True)
        sys.exit(2 if isinstance(error, UserError) else 1)
