"""Statistics of judged responses in which the prompt (and the seed) is the unit.

Rates, differences, correlations and judge error. Pure functions: no files, no network, no torch; random
generators are passed in. Undefined is NaN with a reason.
"""

from truing.stats.correlation import Correlation, correlate, correlate_sizes
from truing.stats.domains import Separability, overgeneralisation, separability, share_of_runs
from truing.stats.judges import Calibration, agreement, calibrate, corrected_rate
from truing.stats.paired import paired_difference, paired_quotient
from truing.stats.rates import (
    binomial_interval,
    clustered_mean,
    clustered_rate,
    clustered_rates,
    clustered_rates_by_category,
    effective_size,
    missing_bounds,
    rate_limits,
    rates_by_category,
)
from truing.stats.seeds import (
    SeedVerdict,
    judge_seeds,
    mean_over_seeds,
    rate_over_seeds,
)
from truing.stats.sums import BoolArray, FloatArray, IntArray, PromptSums

__all__ = [
    "BoolArray",
    "Calibration",
    "Correlation",
    "FloatArray",
    "IntArray",
    "PromptSums",
    "SeedVerdict",
    "Separability",
    "agreement",
    "binomial_interval",
    "calibrate",
    "clustered_mean",
    "clustered_rate",
    "clustered_rates",
    "clustered_rates_by_category",
    "corrected_rate",
    "correlate",
    "correlate_sizes",
    "effective_size",
    "judge_seeds",
    "mean_over_seeds",
    "missing_bounds",
    "overgeneralisation",
    "paired_difference",
    "paired_quotient",
    "rate_limits",
    "rate_over_seeds",
    "rates_by_category",
    "separability",
    "share_of_runs",
]
