"""What the estimators need of per-prompt counts: a few sums over prompts, for one rate or for many at once.

Shapes: P prompts; `...` any leading shape, one entry per rate (a checkpoint, a resample, a category).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BoolArray", "FloatArray", "IntArray", "PromptSums"]

IntArray = npt.NDArray[np.int64]
"""Whole numbers; shapes are given where used."""
FloatArray = npt.NDArray[np.float64]
"""Real numbers."""
BoolArray = npt.NDArray[np.bool_]
"""Truth values."""


@dataclass(frozen=True)
class PromptSums:
    """Sums over prompts with usable responses; every array has the shape (...), one entry per rate."""

    prompts: FloatArray
    """How many prompts have usable responses."""
    trials: FloatArray
    """sum(n_i): usable responses."""
    successes: FloatArray
    """sum(x_i); may be fractional (scores in [0, 1] added up)."""
    xx: FloatArray
    """sum(x_i^2)."""
    xn: FloatArray
    """sum(x_i n_i)."""
    nn: FloatArray
    """sum(n_i^2)."""
    with_success: FloatArray
    """Prompts with x_i > 0."""
    with_failure: FloatArray
    """Prompts with x_i < n_i."""

    @classmethod
    def of(cls, successes: FloatArray, trials: FloatArray, weights: FloatArray | None = None) -> PromptSums:
        """Sum counts over prompts.

        Args:
            successes: (C, P) successes per prompt, in [0, trials].
            trials: (C, P) usable responses per prompt; 0 where a prompt has none.
            weights: (B, P) how often each resample drew each prompt; without it every prompt counts once.

        Returns:
            Sums of shape (C,), or (B, C) with weights.
        """
        x, n = successes, trials

        def total(values: FloatArray) -> FloatArray:
            return values.sum(axis=-1) if weights is None else weights @ values.T

        def number(mask: BoolArray) -> FloatArray:
            return total(mask.astype(np.float64))

        return cls(
            number(n > 0),
            total(n),
            total(x),
            total(x * x),
            total(x * n),
            total(n * n),
            number(x > 0),
            number(x < n),
        )

    @property
    def ratio(self) -> FloatArray:
        """sum(x_i) / sum(n_i); NaN without responses (Cochran 1977, Sampling Techniques, section 3.12)."""
        with np.errstate(invalid="ignore"):
            return self.successes / self.trials

    @property
    def variance(self) -> FloatArray:
        """Linearised variance of the ratio between prompts (Cochran 1977, section 3.12).

        P / (P - 1) * sum((x_i - R n_i)^2) / sum(n_i)^2; NaN with fewer than two prompts.
        """
        ratio = self.ratio
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = np.maximum(self.xx - 2 * ratio * self.xn + ratio**2 * self.nn, 0.0)
            factor = np.where(self.prompts > 1, self.prompts / (self.prompts - 1), np.nan)
            return squares * factor / self.trials**2
