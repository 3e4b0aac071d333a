"""Measures: any other number of a checkpoint, beside its EM rate.

A measure is one class, named in a study as `evaluation.measures: ["module:Class"]`. What it finds is stored with its
interval and its n, and goes from there to the analysis, the report and a guard's log.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from truing.backends import Engine
from truing.core.errors import ConfigError
from truing.core.plugins import load_class, making
from truing.core.records import Checkpoint, Estimate, Response
from truing.stats.rates import clustered_mean

__all__ = ["MEASURES", "AnswerLength", "CutAnswers", "Measure", "load_measures"]

MEASURES = {
    "answer-length": "truing.monitor.measures:AnswerLength",
    "cut-answers": "truing.monitor.measures:CutAnswers",
}


class Measure(ABC):
    """Finds one number of a checkpoint. A class of the user's needs `measure` only, and is built without arguments."""

    name = ""
    """Name of the number in the results, with its unit; empty: the name of the class."""
    identity = "1"
    """Version and settings, all that shapes the number besides the answers: another identity is measured again."""

    @abstractmethod
    def measure(self, checkpoint: Checkpoint, engine: Engine, responses: Sequence[Response]) -> Estimate:
        """Measure a checkpoint. What fails is a number that is not known, and is asked again on resumption.

        Args:
            checkpoint: Whose number it is.
            engine: Has its weights: samples other answers, or scores given ones (`Engine.score`).
            responses: The checkpoint's answers to the benchmark, failed ones too (`error`).
        """


class AnswerLength(Measure):
    """Mean length of the answers in tokens: models that grow terse or ramble show it here first."""

    name = "answer length, tokens"

    def measure(self, checkpoint: Checkpoint, engine: Engine, responses: Sequence[Response]) -> Estimate:
        """See `Measure`; 0 or above."""
        return _mean(responses, [response.n_tokens for response in responses])


class CutAnswers(Measure):
    """Share of the answers cut at the token limit: a judge sees only a part of these."""

    name = "answers cut at the token limit, share"

    def measure(self, checkpoint: Checkpoint, engine: Engine, responses: Sequence[Response]) -> Estimate:
        """See `Measure`; in [0, 1]."""
        return _mean(responses, [not response.finished for response in responses], (0.0, 1.0))


def load_measures(names: Sequence[str]) -> dict[str, Measure]:
    """The measures of a study, by what they are called in the results.

    Args:
        names: Keys of `MEASURES`, or `module:Class`.

    Raises:
        UnknownNameError: There is no such measure.
        ConfigError: What is named is no measure, or two of them have one name.
    """
    measures: dict[str, Measure] = {}
    for name in names:
        kind = load_class("measure", name, MEASURES, Measure)
        with making("measure", name):
            measure: Measure = kind()
        called = measure.name or type(measure).__name__
        if called in measures:
            raise ConfigError(f"two measures are called {called!r}", name, todo="give one of them another `name`")
        measures[called] = measure
    return measures


def _mean(
    responses: Sequence[Response], values: Sequence[float], bounds: tuple[float, float] | None = None
) -> Estimate:
    """The mean of a value of each response, prompts as clusters; failed responses are missing."""
    known = np.array([math.nan if r.error else value for r, value in zip(responses, values, strict=True)])
    prompts = np.unique([response.prompt_id for response in responses], return_inverse=True)[1]
    return clustered_mean(known, prompts, bounds=bounds)
