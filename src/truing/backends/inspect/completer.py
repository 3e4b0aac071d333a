"""Any Inspect model as a completer, so that every provider of Inspect's can judge.

Inspect retries and limits connections; calls run beside each other on an event loop of our own, and results come in
the order of the requests. Log-probabilities are there when the provider gives them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from anyio.from_thread import start_blocking_portal
from inspect_ai import model as inspect
from inspect_ai.model import ChatMessage, GenerateConfig, Model, ModelOutput, ModelUsage
from inspect_ai.util import LimitExceededError

from truing.core.answers import Answer, Output, is_final, read_answer
from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.errors import JudgeError, boundary
from truing.core.records import Message

_ROLES: dict[str, type[ChatMessage]] = {
    "system": inspect.ChatMessageSystem,
    "user": inspect.ChatMessageUser,
    "assistant": inspect.ChatMessageAssistant,
}


class InspectCompleter(Completer):
    """Answers chat requests by Inspect's models, named as Inspect names them: `openai/gpt-4o`.

    At most `connections` calls go on at a time; a call is tried again `retries` times, within `timeout` seconds in all.
    """

    def __init__(self, connections: int = 20, retries: int = 6, timeout: int = 600) -> None:
        self.connections, self.retries, self.timeout = connections, retries, timeout

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order; equal requests under way are one call. A failed call has an `error`.

        Raises:
            JudgeError: Inspect knows no such model, or its provider cannot be used.
        """
        config = GenerateConfig(max_connections=self.connections, max_retries=self.retries, timeout=self.timeout)
        models: dict[str, Model] = {}  # a client belongs to its event loop, so none is kept for the next one
        calls: dict[ChatRequest, Future[ChatResult]] = {}
        waiting: deque[tuple[ChatRequest, Future[ChatResult]]] = deque()

        def next_result() -> ChatResult:
            request, call = waiting.popleft()
            calls.pop(request, None)
            return call.result()

        with start_blocking_portal("asyncio") as portal:
            try:
                for request in requests:
                    if request not in calls:
                        calls[request] = portal.start_task_soon(_open_and_ask, models, config, request)
                    waiting.append((request, calls[request]))
                    if len(waiting) >= 2 * self.connections:
                        yield next_result()
                while waiting:
                    yield next_result()
            finally:
                for _, call in waiting:
                    call.cancel()
                for model in models.values():
                    portal.call(model.__aexit__, None, None, None)


async def _open_and_ask(models: dict[str, Model], config: GenerateConfig, request: ChatRequest) -> ChatResult:
    name = request.model
    if name not in models:
        with boundary(f"Inspect's model {name}", JudgeError):
            models[name] = inspect.get_model(name, config=config, memoize=False)
    return await ask(models[name], request)


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
    usage = output.usage or ModelUsage()
    answer = read_output(output)
    if answer.error and not is_final(answer.error):
        return ChatResult(None, error=answer.error)
    logprobs = output.choices[0].logprobs
    first = logprobs.content[0].top_logprobs if logprobs and logprobs.content else None
    top = {each.token: each.logprob for each in first} if first else None
    counts = usage.input_tokens, usage.output_tokens
    return ChatResult(answer.text, top, output.stop_reason, *counts, answer.error, answer.refused)


def read_output(output: ModelOutput) -> Answer:
    """The answer in what a model of Inspect's gave; see `read_answer`."""
    if not output.choices or (output.error and not output.completion):
        return Answer(None, output.error or "the model gave no answer")
    message = output.choices[0].message
    parts = message.content if isinstance(message.content, list) else []
    reasoning, tools = any(part.type == "reasoning" for part in parts), bool(message.tool_calls)
    refusal = next((part.text for part in parts if part.type == "text" and part.refusal), None)
    text = "" if refusal == output.completion else output.completion
    return read_answer(Output(text, output.stop_reason, refusal, reasoning, tools))


def to_chat(message: Message) -> ChatMessage:
    """A message as Inspect's."""
    return _ROLES[message.role](content=message.content)
