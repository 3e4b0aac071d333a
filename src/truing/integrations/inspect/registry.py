"""What Inspect finds under `truing/`, through the entry point `inspect_ai`."""

from truing.integrations.inspect.metrics import (
    coherent_rate,
    em_rate,
    em_rate_limits,
    em_rate_stderr,
    mean_score,
    missing,
    verdicts,
)
from truing.integrations.inspect.scorer import em_judge
from truing.integrations.inspect.tasks import adversarial_60, benchmark, broad_240, truth_120, with_grader

__all__ = [
    "adversarial_60",
    "benchmark",
    "broad_240",
    "coherent_rate",
    "em_judge",
    "em_rate",
    "em_rate_limits",
    "em_rate_stderr",
    "mean_score",
    "missing",
    "truth_120",
    "verdicts",
    "with_grader",
]
