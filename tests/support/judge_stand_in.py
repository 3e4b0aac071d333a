"""A completer for tests: answers by a function of the request."""

import math
from collections.abc import Callable, Iterable, Iterator

from truing.core.chat import ChatRequest, ChatResult, Completer


def said(text: str, probability: float = 1.0, **others: float) -> ChatResult:
    tokens = {text: probability, **others}
    return ChatResult(text, {token: math.log(p) for token, p in tokens.items()})


class StandIn(Completer):
    """Answers each request by a function, and remembers the requests."""

    def __init__(self, answer: Callable[[ChatRequest], ChatResult]) -> None:
        self.answer = answer
        self.requests: list[ChatRequest] = []

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        for request in requests:
            self.requests.append(request)
            yield self.answer(request)
