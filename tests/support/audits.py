"""An audit and its analysis, as the command line joins them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from truing.config import AuditConfig
from truing.results import analyse
from truing.results.schema import Analysis
from truing.studies.audit import run_audit


def audited(config: AuditConfig, out: Path, *told: Callable[[Any], None], **more: Callable[[Any], None]) -> Analysis:
    """Measure, then analyse the folder."""
    run_audit(config, out, *told, **more)
    return analyse(out)
