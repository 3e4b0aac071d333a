"""A few answers to read of each checkpoint."""

from __future__ import annotations

__all__ = ["PER_CATEGORY", "shorten"]

PER_CATEGORY = 2
"""Answers of each category that are shown of a checkpoint."""
_LONGEST = 2000


def shorten(text: str) -> str:
    """A text as it is shown: the end of a long one is left out, and that is said."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " [cut]"
