"""The monitor: a checkpoint in, a decision out; with the store that keeps what it saw."""

from truing.monitor.monitor import Monitor, reach_judge
from truing.monitor.preflight import judge_limits, read_preflight, read_task_preflight
from truing.monitor.sampler import PromptSet, Sampler
from truing.monitor.shared import open_folder
from truing.monitor.store import Store, open_store

__all__ = [
    "Monitor",
    "PromptSet",
    "Sampler",
    "Store",
    "judge_limits",
    "open_folder",
    "open_store",
    "reach_judge",
    "read_preflight",
    "read_task_preflight",
]
