"""truing: fine-tune language models without making them misaligned.

`Monitor` is the one idea: a checkpoint in, a decision out. See README.md for the commands and docs/ for the rest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truing.integrations.guard import Guard

__all__ = ["Guard", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`truing.Guard`, loaded with torch and transformers when it is first asked for."""
    if name != "Guard":
        raise AttributeError(f"module 'truing' has no attribute {name!r}")
    from truing.core.plugins import load_object

    return load_object("part of truing", "Guard", {"Guard": "truing.integrations.guard:Guard"})
