"""truing: fine-tune language models without making them misaligned.

`Monitor` is the one idea: a checkpoint in, a decision out. See README.md for the commands and docs/ for the rest.
"""

from truing._version import __version__

__all__ = ["__version__"]
