"""The command line: `truing COMMAND`, one file here for each; `app.py` lists them.

The one place that prints. A `UserError` is shown without a traceback and exits with 2, failed work with 1, Ctrl-C with
130; running the same command again goes on.
"""

from __future__ import annotations

import errno
import os
import sys

from truing.core.errors import TruingError, UserError

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script, which finds the user's parts where `python -m truing` finds them, too."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # behind all else: a file here hides no library
    try:
        from truing.cli.app import app  # takes a second, in which Ctrl-C may come, too
        from truing.cli.shared import say_error
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        app()
    except TruingError as error:
        say_error(str(error))
        sys.exit(2 if isinstance(error, UserError) else 1)
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of the output has no place
        say_error(f"the output cannot be written: {error.strerror}")
        sys.exit(2)
