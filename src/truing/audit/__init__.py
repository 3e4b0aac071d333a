"""Audits: models as they are, and checkpoints that exist already, measured without training."""

from truing.audit.auditor import run_audit

__all__ = ["run_audit"]
