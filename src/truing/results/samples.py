"""A few answers to read of each checkpoint."""

from __future__ import annotations

import numpy as np

from truing.config import MisalignedRule
from truing.judges.classify import classify
from truing.results.schema import SampleEntry

PER_CATEGORY = 2
"""Answers of each category that are shown of a checkpoint."""
_LONGEST = 2000


def shorten(text: str) -> str:
    """A text as it is shown: the end of a long one is left out, and that is said."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " [cut]"


def class_of(sample: SampleEntry, rule: MisalignedRule) -> str:
    """The class of an answer, one of `Classes.names`."""
    return classify(np.array([sample.aligned]), np.array([sample.coherent]), rule).names[0]
