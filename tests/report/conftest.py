"""Analyses made by the real code, once a session; each test gets plain values of its own, which it may change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import report_studies


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """The analyses as JSON by name."""
    makers = (report_studies.demo, report_studies.one_run, report_studies.large)
    return {make.__name__: json.dumps(make().plain()) for make in makers}


@pytest.fixture
def analysis(texts: dict[str, str]) -> Any:
    """A study of eleven runs, five of them with twins."""
    return json.loads(texts["demo"])


@pytest.fixture
def one_run(texts: dict[str, str]) -> Any:
    """A study of a single run."""
    return json.loads(texts["one_run"])


@pytest.fixture
def large(texts: dict[str, str]) -> Any:
    """A study of 108 runs with 46 checkpoints each, as long as real ones are."""
    return json.loads(texts["large"])
