"""Models of Inspect's that need no network: one that answers, one that judges with or without log-probabilities."""

import math
from collections.abc import Callable
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    Model,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    get_model,
)

Reply = str | dict[str, float]
"""A text, or first tokens with their probabilities."""


def output(reply: Reply) -> ModelOutput:
    text = reply if isinstance(reply, str) else max(reply, key=lambda token: reply[token])
    logprobs = None
    if isinstance(reply, dict):
        top = [TopLogprob(token=token, logprob=math.log(p)) for token, p in reply.items()]
        logprobs = Logprobs(content=[Logprob(token=text, logprob=math.log(reply[text]), top_logprobs=top)])
    message = ChatMessageAssistant(content=text, source="generate")
    choice = ChatCompletionChoice(message=message, stop_reason="stop", logprobs=logprobs)
    # without usage the mock counts tokens with a tokenizer from the network
    return ModelOutput(model="mockllm", choices=[choice], usage=ModelUsage(input_tokens=7, output_tokens=1))


def model(reply: Callable[[list[ChatMessage], GenerateConfig], Reply]) -> Model:
    """A model whose replies are a function of what it is sent; an exception in it is a failed call."""

    def outputs(messages: list[ChatMessage], tools: Any, choice: Any, config: GenerateConfig) -> ModelOutput:
        return output(reply(messages, config))

    return get_model("mockllm/model", custom_outputs=outputs)


def speaker() -> Model:
    """It answers every question with its last word."""
    return model(lambda messages, config: "I say " + messages[-1].text.split()[-1])
