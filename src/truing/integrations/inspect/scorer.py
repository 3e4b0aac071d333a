"""The scorer: an answer through a language model as judge, by truing's rubrics.

The judge is any Inspect model: the role `grader`, or `judge_model`. It is asked and read by the very code that judges
in a study, `truing.judges.llm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from inspect_ai.model import ChatMessage, Model, get_model
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from truing.backends.inspect.completer import ask
from truing.config import EvaluationConfig, JudgeConfig
from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.errors import ConfigError
from truing.core.records import Judgment, Message, Prompt, Response
from truing.integrations.inspect.metrics import METRICS, to_score
from truing.judges import check_judge
from truing.judges.llm import LLMJudge

__all__ = ["WAYS", "em_judge"]

WAYS = ("auto", "logprobs", "text")
"""How scores are read; `auto`: by log-probabilities if the judge's first reply has them, else strictly by text."""


@scorer(metrics=METRICS)
def em_judge(
    judge_model: str | None = None,
    rubric: str = "aligned",
    coherent: str | None = "coherent",
    scores: str = "auto",
    truth: str = "truth-120",
) -> Scorer:
    """Judge answers by rubrics: aligned and coherent, 0 to 100.

    Args:
        judge_model: Inspect model that judges, if no model has the role `grader`.
        rubric: Rubric of the aligned score: a name, or a file.
        coherent: Rubric of the coherent score; none: every scored answer counts as coherent.
        scores: How scores are read, one of `WAYS`.
        truth: Truth set with the known answers, for rubrics that show them.
    """
    if scores not in WAYS:
        raise ConfigError("unknown way to read scores", repr(scores), ", ".join(WAYS))
    config = JudgeConfig(
        model=judge_model or "grader",
        completer="inspect",
        aligned=rubric,
        coherent=coherent,
        truth=truth,
    )
    check_judge(config)
    grader = _Grader(config, None if scores == "auto" else scores)
    thresholds = EvaluationConfig()

    async def score(state: TaskState, target: Target) -> Score:
        model = get_model(role="grader", required=True, default=judge_model)
        sample_id = str(state.sample_id)
        prompt = Prompt(sample_id, "", tuple(_messages(state.input)))
        output = state.output
        text = output.completion if output.choices else None
        response = Response(sample_id, state.epoch - 1, text, error=None if output.choices else "no answer came back")
        judgment = await grader.judge(model, prompt, response)
        judge = grader.by_way(grader.way or "logprobs", str(model)).identity
        return to_score(judgment, response, thresholds, judge=judge)

    return score


class _Grader:
    """Judges one answer at a time with an asynchronous model.

    The two ways of reading a score are never mixed: the first reply settles which it is, and a later reply that cannot
    be read that way is a missing score.
    """

    def __init__(self, config: JudgeConfig, way: str | None) -> None:
        self.config, self.way = config, way
        self._judges: dict[tuple[str, str], tuple[LLMJudge, _Relay]] = {}

    def by_way(self, way: str, model: str) -> LLMJudge:
        """The judge that reads scores in one of the ways."""
        return self._judge(way, model)[0]

    def _judge(self, way: str, model: str) -> tuple[LLMJudge, _Relay]:
        if (way, model) not in self._judges:
            relay = _Relay()
            judge = LLMJudge(
                self.config.model_copy(update={"model": model, "scores": way, "completer": "inspect"}), relay
            )
            self._judges[way, model] = judge, relay
        return self._judges[way, model]

    async def judge(self, model: Model, prompt: Prompt, response: Response) -> Judgment:
        """What the model says of one answer."""
        judge, relay = self._judge(self.way or "logprobs", str(model))
        # no await inside the two calls of `judge`, so a relay serves one answer at a time
        relay.begin(())
        judge.judge([prompt], [response])
        asked = relay.asked
        results = [await ask(model, request) for request in asked]
        replies = [result for result in results if result.text is not None]
        if self.way is None and replies:
            self.way = "logprobs" if replies[0].top_logprobs else "text"
        judge, relay = self._judge(self.way or "logprobs", str(model))
        relay.begin(results)
        return judge.judge([prompt], [response])[0]


class _Relay(Completer):
    """A completer that notes what is asked and answers with what was put in."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []
        self._results: Sequence[ChatResult] = ()

    def begin(self, results: Sequence[ChatResult]) -> None:
        """Take the results of the next requests; without any the requests are only noted."""
        self.asked, self._results = [], results

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """The results that were put in."""
        results = iter(self._results)
        for request in requests:
            self.asked.append(request)
            yield next(results, ChatResult(None, error="not asked yet"))


def _messages(given: str | list[ChatMessage]) -> list[Message]:
    if isinstance(given, str):
        return [Message("user", given)]
    return [Message(m.role, m.text) for m in given if m.role in ("system", "user", "assistant")]
