"""Where vLLM is for the tests that start it: `make test-all` builds an environment and sets TRUING_VLLM_PYTHON."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["PYTHON", "needs_vllm"]

PYTHON = Path(os.environ["TRUING_VLLM_PYTHON"]) if "TRUING_VLLM_PYTHON" in os.environ else None
needs_vllm = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="set TRUING_VLLM_PYTHON to the Python of an environment with vLLM"),
]
