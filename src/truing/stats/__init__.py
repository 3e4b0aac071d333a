"""Statistics of judged responses in which the prompt (and the seed) is the unit.

Rates, differences, correlations and judge error. Pure functions: no files, no network, no torch; random
generators are passed in. Undefined is NaN with a reason.
"""

from truing.stats.agreement import Calibration, agreement, calibrate, corrected_rate
from truing.stats.betting import anytime_interval, draw_prompts, draws_to_clear, log_wealth
from truing.stats.choice import Choice, choose_checkpoint, choose_with_report, split_prompts
from truing.stats.correlation import Correlation, correlate, correlate_sizes
from truing.stats.course import (
    Course,
    RunCounts,
    StepInterval,
    describe_course,
    find_convergence,
    find_onset,
    retention,
)
from truing.stats.domains import Separability, overgeneralisation, separability, share_of_runs
from truing.stats.learning_rate import LearningRateChoice, choose_learning_rate
from truing.stats.paired import paired_difference, paired_quotient
from truing.stats.rates import (
    BoolArray,
    Counts,
    FloatArray,
    IntArray,
    PromptSums,
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
from truing.stats.rules import Answers, FixedRule, StoppingRule, decide, make_rule
from truing.stats.search import Look, SearchResult, search_best, search_crossing
from truing.stats.seeds import (
    SeedVerdict,
    judge_seeds,
    mean_over_seeds,
    rate_over_seeds,
)
from truing.stats.sequential import DetectorSettings, DetectorState, SequentialRule, anytime_rate

__all__ = [
    "Answers",
    "BoolArray",
    "Calibration",
    "Choice",
    "Correlation",
    "Counts",
    "Course",
    "DetectorSettings",
    "DetectorState",
    "FixedRule",
    "FloatArray",
    "IntArray",
    "LearningRateChoice",
    "Look",
    "PromptSums",
    "RunCounts",
    "SearchResult",
    "SeedVerdict",
    "Separability",
    "SequentialRule",
    "StepInterval",
    "StoppingRule",
    "agreement",
    "anytime_interval",
    "anytime_rate",
    "binomial_interval",
    "calibrate",
    "choose_checkpoint",
    "choose_learning_rate",
    "choose_with_report",
    "clustered_mean",
    "clustered_rate",
    "clustered_rates",
    "clustered_rates_by_category",
    "corrected_rate",
    "correlate",
    "correlate_sizes",
    "decide",
    "describe_course",
    "draw_prompts",
    "draws_to_clear",
    "effective_size",
    "find_convergence",
    "find_onset",
    "judge_seeds",
    "log_wealth",
    "make_rule",
    "mean_over_seeds",
    "missing_bounds",
    "overgeneralisation",
    "paired_difference",
    "paired_quotient",
    "rate_limits",
    "rate_over_seeds",
    "rates_by_category",
    "retention",
    "search_best",
    "search_crossing",
    "separability",
    "share_of_runs",
    "split_prompts",
]
