"""Requests for a score; loads none of the heavy libraries, for processes that start often."""

from __future__ import annotations

from typing import Any

from truing.core.chat import ChatRequest
from truing.core.records import Message


def requests(n: int, first: int = 0, model: str = "judge", **settings: Any) -> list[ChatRequest]:
    """Different requests for a score."""
    settings = {"top_logprobs": 20, **settings}
    return [ChatRequest(model, (Message("user", f"score {i}"),), **settings) for i in range(first, first + n)]
