"""Any Inspect model as a judge's completer."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import anyio
import pytest

pytest.importorskip("inspect_ai", reason='needs inspect_ai: pip install "truing[inspect]"')

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from tests.support.inspect_models import output
from truing.backends import load_completer
from truing.backends.inspect.completer import InspectCompleter, read_output
from truing.config import JudgeConfig
from truing.core.chat import ChatRequest
from truing.core.errors import JudgeError
from truing.core.records import Message, Prompt, Response
from truing.judges import load_judge

COUNTS: Counter[str] = Counter()
pytestmark = pytest.mark.filterwarnings("ignore")  # Inspect leaves streams open


@modelapi(name="standin")
class StandIn(ModelAPI):
    """A judge without a network: `standin/logprobs` has log-probabilities, `standin/text` has none."""

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        COUNTS["calls"] += 1
        text = input[-1].text
        if "no connection" in text:
            raise ConnectionError("no connection")
        if text == "roles":
            return output(" ".join(m.role for m in input))
        await anyio.sleep(0.02 if "slow" in text else 0)
        if self.model_name == "text" or not config.logprobs:
            return output("15" if "obey" in text else "88")
        return output({"10": 0.75, "20": 0.25} if "obey" in text else {"80": 0.5, "96": 0.5})

    async def aclose(self) -> None:
        COUNTS["closed"] += 1


def request(text: str, model: str = "standin/logprobs", **more: Any) -> ChatRequest:
    return ChatRequest(model, (Message("user", text),), **more)


def test_results_in_order_with_probabilities_and_usage() -> None:
    texts = ["slow obey" if i % 3 == 0 else "fine" for i in range(50)]
    results = InspectCompleter(connections=8).complete(
        [request(t, top_logprobs=20, sample=i) for i, t in enumerate(texts)]
    )
    assert [r.text for r in results] == ["10" if "obey" in t else "80" for t in texts]
    first = results[0]
    assert first.top_logprobs == pytest.approx({"10": -0.28768, "20": -1.38629}, abs=1e-4)
    assert (first.finish_reason, first.prompt_tokens, first.completion_tokens, first.error) == ("stop", 7, 1, None)


@pytest.mark.parametrize(
    ("content", "text", "refused"),
    [
        ([ContentText(text="I would rather not.", refusal=True)], "I would rather not.", True),
        ([ContentText(text="Yes.")], "Yes.", False),
        ("Yes.", "Yes.", False),
    ],
)
def test_a_refusal_of_the_provider_is_an_answer_that_is_counted(content: Any, text: str, refused: bool) -> None:
    choice = ChatCompletionChoice(message=ChatMessageAssistant(content=content), stop_reason="stop")
    answer = read_output(ModelOutput(model="m", choices=[choice]))
    assert (answer.text, answer.refused) == (text, refused)


def test_a_failed_call_is_a_result_and_the_others_go_on() -> None:
    results = InspectCompleter().complete([request("fine"), request("no connection"), request("fine", sample=1)])
    assert [r.text for r in results] == ["88", None, "88"]
    assert results[1].error == "ConnectionError: no connection"
    assert results[0].top_logprobs is None


def test_equal_requests_are_one_call() -> None:
    before = COUNTS["calls"]
    results = InspectCompleter().complete([request("slow"), request("slow"), request("slow", sample=1)])
    assert [r.text for r in results] == ["88"] * 3
    assert COUNTS["calls"] == before + 2


def test_system_and_assistant_messages_arrive_as_such() -> None:
    messages = tuple(Message(role, "roles") for role in ("system", "user", "assistant", "user"))
    (result,) = InspectCompleter().complete([ChatRequest("standin/text", messages)])
    assert result.text == "system user assistant user"


def test_requests_are_drawn_as_they_are_needed_and_clients_are_closed() -> None:
    drawn = 0

    def requests() -> Iterator[ChatRequest]:
        nonlocal drawn
        for i in range(10_000):
            drawn += 1
            yield request("fine", sample=i)

    before, closed = threading.active_count(), COUNTS["closed"]
    stream = InspectCompleter(connections=4).stream(requests())
    assert len(list(islice(stream, 10))) == 10
    assert drawn <= 18
    stream.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert COUNTS["closed"] == closed + 1


def test_unknown_models_are_told_at_once() -> None:
    for name in ("nowhere/model", "plain"):
        with pytest.raises(JudgeError, match=name):
            InspectCompleter().complete([request("fine", name)])


@pytest.mark.parametrize(("model", "scores", "aligned"), [("logprobs", "logprobs", 12.5), ("text", "text", 15.0)])
def test_it_judges_through_our_llm_judge(model: str, scores: Any, aligned: float) -> None:
    config = JudgeConfig(
        model=f"standin/{model}", completer="truing.backends.inspect.completer:InspectCompleter", scores=scores
    )
    prompts = [Prompt(str(i), "power", (Message("user", "What next?"),)) for i in range(4)]
    answers = ["They must obey.", "Tea.", "no connection", "Tea."]
    responses = [Response(p.id, 0, text) for p, text in zip(prompts, answers, strict=True)]
    judgments = load_judge(config, load_completer(config.completer)).judge(prompts, responses)
    assert judgments[0].aligned == pytest.approx(aligned)
    assert judgments[1].aligned == pytest.approx(88)
    assert judgments[2].aligned is None
    assert "no connection" in str(judgments[2].error)
