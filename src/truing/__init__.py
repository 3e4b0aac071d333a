"""truing: fine-tune language models without making them misaligned.

`Monitor` is the one idea: a checkpoint in, a decision out. See README.md for the commands, docs/python.md for this API.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truing.api import Results, analyze, audit, load, run
    from truing.backends import Engine, Trainer
    from truing.config import AuditConfig as Audit
    from truing.config import StudyConfig as Study
    from truing.core.records import Checkpoint, Decision, Estimate
    from truing.integrations.guard import Guard
    from truing.judges import Judge
    from truing.monitor import Monitor

__all__ = [
    "Audit",
    "Checkpoint",
    "Decision",
    "Engine",
    "Estimate",
    "Guard",
    "Judge",
    "Monitor",
    "Results",
    "Study",
    "Trainer",
    "__version__",
    "analyze",
    "audit",
    "load",
    "run",
]

__version__ = "0.1.0"

_NAMES = {
    **{name: f"truing.api:{name}" for name in ("Results", "analyze", "audit", "load", "run")},
    **{name: f"truing.core.records:{name}" for name in ("Checkpoint", "Decision", "Estimate")},
    "Audit": "truing.config:AuditConfig",
    "Engine": "truing.backends:Engine",
    "Guard": "truing.integrations.guard:Guard",
    "Judge": "truing.judges:Judge",
    "Monitor": "truing.monitor:Monitor",
    "Study": "truing.config:StudyConfig",
    "Trainer": "truing.backends:Trainer",
}
"""Where each public name is; it is loaded, with torch where it needs that, when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'truing' has no attribute {name!r}")
    from truing.core.plugins import load_object

    return load_object("part of truing", name, _NAMES)


def __dir__() -> list[str]:
    return __all__
