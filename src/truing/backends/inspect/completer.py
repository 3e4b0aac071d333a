"""Any Inspect model as a completer, so that every provider of Inspect's can judge.

Inspect retries and limits connections; calls run beside each other on an event loop of our own, and results come in
the order of the requests. Log-probabilities are there when the provider gives them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from anyio.from_thread import BlockingPortal, start_blocking_portal
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.util import LimitExceededError

from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.errors import JudgeError, boundary
from truing.core.records import Message

__all__ = ["InspectCompleter", "ask", "to_chat"]

_ROLES: dict[str, type[ChatMessageSystem | ChatMessageUser | ChatMessageAssistant]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


class InspectCompleter(Completer):
    """Answers chat requests by Inspect's models, named as Inspect names them: `openai/gpt-4o`.

    Args:
        connections: Most calls at a time.
        retries: How often a call is tried again before it counts as failed.
        timeout: Seconds that a call may take with all its retries.
    """

    def __init__(self, connections: int = 20, retries: int = 6, timeout: int = 600) -> None:
        self.connections, self.retries, self.timeout = connections, retries, timeout

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order. A failed call is a result with `error`.

        Raises:
            JudgeError: Inspect knows no such model, or its provider cannot be used.
        """
        config = GenerateConfig(max_connections=self.connections, max_retries=self.retries, timeout=self.timeout)
        with start_blocking_portal("asyncio") as portal:
            calls = _Calls(portal, config)
            try:
                for request in requests:
                    calls.start(request)
                    if len(calls.waiting) >= 2 * self.connections:
                        yield calls.next_result()
                while calls.waiting:
                    yield calls.next_result()
            finally:
                calls.close()


class _Calls:
    """The calls under way on one event loop, in the order of their requests; equal ones among them are one call."""

    def __init__(self, portal: BlockingPortal, config: GenerateConfig) -> None:
        self._portal, self._config = portal, config
        self.waiting: deque[tuple[ChatRequest, Future[ChatResult]]] = deque()
        self._calls: dict[ChatRequest, Future[ChatResult]] = {}
        self._models: dict[str, Model] = {}

    def start(self, request: ChatRequest) -> None:
        if request not in self._calls:
            self._calls[request] = self._portal.start_task_soon(ask, self._model(request.model), request)
        self.waiting.append((request, self._calls[request]))

    def next_result(self) -> ChatResult:
        request, call = self.waiting.popleft()
        self._calls.pop(request, None)
        return call.result()

    def close(self) -> None:
        for _, call in self.waiting:
            call.cancel()
        for model in self._models.values():
            self._portal.call(model.__aexit__, None, None, None)

    def _model(self, name: str) -> Model:
        if name not in self._models:
            # a client belongs to its event loop, so none is kept for the next one
            with boundary(f"Inspect's model {name}", JudgeError):
                self._models[name] = self._portal.call(_open, name, self._config)
        return self._models[name]


async def _open(name: str, config: GenerateConfig) -> Model:
    return get_model(name, config=config, memoize=False)


async def ask(model: Model, request: ChatRequest) -> ChatResult:
    """One call; what fails in it is the result's `error`. `request.model` is not looked at."""
    config = GenerateConfig(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        logprobs=True if request.top_logprobs else None,
        top_logprobs=request.top_logprobs or None,
    )
    try:
        output = await model.generate([to_chat(m) for m in request.messages], config=config)
    except Exception as error:  # a provider raises anything
        if isinstance(error, LimitExceededError):  # Inspect's own, which ends the sample
            raise
        return ChatResult(None, error=f"{type(error).__name__}: {error}")
    return _result(output)


def _result(output: ModelOutput) -> ChatResult:
    usage = output.usage or ModelUsage()
    if not output.choices or (output.error and not output.completion):
        return ChatResult(None, error=output.error or "the model gave no answer")
    logprobs = output.choices[0].logprobs
    first = logprobs.content[0].top_logprobs if logprobs and logprobs.content else None
    top = {each.token: each.logprob for each in first} if first else None
    return ChatResult(output.completion, top, output.stop_reason, usage.input_tokens, usage.output_tokens)


def to_chat(message: Message) -> ChatMessage:
    """A message as Inspect's."""
    return _ROLES[message.role](content=message.content)
