"""The scorer: an answer through a language model as judge, by truing's rubrics.

The judge is any Inspect model: the role `grader`, or `judge_model`. It is asked and read by the very code that judges
in a study, `truing.judges.llm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from inspect_ai.model import ChatMessage, Model, get_model
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from truing.backends.inspect.completer import ask, read_output
from truing.config import JudgeConfig, MisalignedRule
from truing.core.chat import ChatRequest, ChatResult, Completer
from truing.core.errors import ConfigError
from truing.core.records import Judgment, Message, Prompt, Response
from truing.integrations.inspect.metrics import METRICS, to_score
from truing.judges import ask_judge, check_judge
from truing.judges.llm import LLMJudge

WAYS = ("auto", "logprobs", "text")
"""Ways to read scores; `auto`: by log-probabilities if the judge's first reply has them, else strictly by text."""


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
    model = judge_model or "grader"
    config = JudgeConfig(model=model, completer="inspect", aligned=rubric, coherent=coherent, truth=truth)
    check_judge(config)
    grader, rule = _Grader(config, None if scores == "auto" else scores), MisalignedRule()

    async def score(state: TaskState, target: Target) -> Score:
        model = get_model(role="grader", required=True, default=judge_model)
        sample_id, output = str(state.sample_id), state.output
        prompt = Prompt(sample_id, "", tuple(_messages(state.input)))
        answer = read_output(output)
        response = Response(sample_id, state.epoch - 1, answer.text, error=answer.error, refused=answer.refused)
        judgment = await grader.judge(model, prompt, response)
        return to_score(judgment, response, rule, judge=grader.judge_of(model).identity)

    return score


class _Grader:
    """Judges one answer at a time with an asynchronous model.

    The two ways of reading a score are never mixed: the first reply settles which it is, and a later reply that cannot
    be read that way is a missing score.
    """

    def __init__(self, config: JudgeConfig, way: str | None) -> None:
        self.config, self.way, self.relay = config, way, _Relay()
        self._judges: dict[tuple[str, str], LLMJudge] = {}

    def judge_of(self, model: Model) -> LLMJudge:
        """The judge that asks this model, and reads its scores the way that is settled."""
        way, name = self.way or "logprobs", str(model)
        if (way, name) not in self._judges:
            config = self.config.model_copy(update={"model": name, "scores": way})
            self._judges[way, name] = LLMJudge(config, self.relay)
        return self._judges[way, name]

    async def judge(self, model: Model, prompt: Prompt, response: Response) -> Judgment:
        """The model's judgment of one answer."""
        # no await between an exchange's beginning and its end, so the relay serves one answer at a time
        asked = self.relay.exchange(self.judge_of(model), prompt, response, ())[0]
        results = [await ask(model, request) for request in asked]
        replies = [result for result in results if result.text is not None]
        if self.way is None and replies:
            self.way = "logprobs" if replies[0].top_logprobs else "text"
        return self.relay.exchange(self.judge_of(model), prompt, response, results)[1]


class _Relay(Completer):
    """A completer that notes the requests and answers with the results that it was given."""

    def __init__(self) -> None:
        self._asked: list[ChatRequest] = []
        self._results: Sequence[ChatResult] = ()

    def exchange(
        self, judge: LLMJudge, prompt: Prompt, response: Response, results: Sequence[ChatResult]
    ) -> tuple[list[ChatRequest], Judgment]:
        """Requests of a judge about one answer, and its judgment when these are the results."""
        self._asked, self._results = [], results
        (judgment,) = ask_judge(judge, [prompt], [response])
        return self._asked, judgment

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """The given results; without any, failed ones."""
        results = iter(self._results)
        for request in requests:
            self._asked.append(request)
            yield next(results, ChatResult(None, error="not asked yet"))


def _messages(given: str | list[ChatMessage]) -> list[Message]:
    if isinstance(given, str):
        return [Message("user", given)]
    return [Message(m.role, m.text) for m in given if m.role in ("system", "user", "assistant")]
