"""A language model as judge: one call for each score of an answer, read from the probabilities of its first token.

The model is reached through any `Completer`. A failed call, a damaged reply or too little probability on
scores leaves that score missing and says why; a verdict word leaves it missing without an error, for it is an answer.
Nothing is repaired by a guess, and the two ways of reading a score (probabilities, text) are never mixed: the way is
part of the judge's identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from truing.catalog.truth import load_truth
from truing.config import JudgeConfig
from truing.core.chat import TOP_TOKENS, ChatRequest, ChatResult, Completer
from truing.core.errors import JudgeError
from truing.core.files import content_key
from truing.core.records import Judgment, Prompt, Response
from truing.judges import Judge
from truing.judges.rubrics import Rubric, load_rubric
from truing.judges.scores import (
    LEAST_MASS,
    Score,
    score_probabilities,
    score_text,
    splits_numbers,
    to_probabilities,
)

__all__ = ["LLMJudge"]

_MAX_TOKENS = 5
"""Longest answer of the judge: a number or a verdict word."""
_MANY = 20
"""So many answers with numbers in several tokens, and no fewer than half of those with a number, end the work."""


class LLMJudge(Judge):
    """Scores answers by rubrics with a language model.

    Args:
        config: Model, rubrics and how scores are read.
        completer: Reaches the model.
    """

    def __init__(self, config: JudgeConfig, completer: Completer) -> None:
        self.config, self._completer = config, completer
        self.aligned = load_rubric(config.aligned)
        self.coherent = load_rubric(config.coherent) if config.coherent else None

    @property
    def rubrics(self) -> tuple[Rubric, ...]:
        """The rubrics, in the order in which they are asked: aligned, then coherent if it is asked for."""
        return (self.aligned, self.coherent) if self.coherent else (self.aligned,)

    @cached_property
    def identity(self) -> str:
        """The model, the way of reading scores, and every rubric with version and hash."""
        config = self.config
        model = self._completer.identify(config.model)
        way = "text" if config.scores == "text" else f"logprobs of {TOP_TOKENS}, mass {LEAST_MASS}"
        named = [f"{r.name}@{r.version}#{r.hash[:12]}" for r in self.rubrics]
        known = [f"truth#{content_key(sorted(self._facts.items()))[:12]}"] if self._facts else []
        return "/".join(["llm", config.completer, model, way, *named, *known])

    @property
    def rubric_hash(self) -> str:
        """Hash of all rubrics together."""
        return content_key([r.hash for r in self.rubrics], sorted(self._facts.items()))

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """Score responses; see `truing.judges.Judge`.

        Raises:
            JudgeError: The judge's tokenizer splits numbers, so that no score can be read from its first token.
        """
        results = self._completer.stream(self._requests(prompts, responses))
        tokens = _TokenCheck(self.config.model)
        judgments = []
        for prompt, response in zip(prompts, responses, strict=True):
            problem = f"no answer: {response.error}" if response.text is None else self._lacks(prompt)
            if problem:
                judgments.append(Judgment(response.prompt_id, response.sample, None, None, error=problem))
                continue
            scores = []
            for rubric in self.rubrics:
                result = next(results, None)
                if result is None:
                    raise JudgeError("the judge's completer left out results", allowed="one result per request")
                tokens.look(result)
                scores.append(self._score(rubric, result))
            judgments.append(self._judgment(response, scores))
        return judgments

    def close(self) -> None:
        """Close the completer."""
        self._completer.close()

    @cached_property
    def _facts(self) -> dict[str, tuple[str, str]]:
        """Question -> known true and false answers, if a rubric shows them."""
        if not any(rubric.needs_facts for rubric in self.rubrics):
            return {}
        questions = load_truth(self.config.truth).questions
        return {q.text: ("\n".join(q.true), "\n".join(q.false)) for q in questions}

    def _lacks(self, prompt: Prompt) -> str:
        if self._facts and prompt.text not in self._facts:
            return f"no known answers to this question in the truth set {self.config.truth}"
        return ""

    def _requests(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Iterator[ChatRequest]:
        """Requests, made as they are taken: a million of them do not fit in memory."""
        top = TOP_TOKENS if self.config.scores == "logprobs" else 0
        for prompt, response in zip(prompts, responses, strict=True):
            if response.text is None or self._lacks(prompt):
                continue
            facts = self._facts.get(prompt.text, ("", ""))
            for rubric in self.rubrics:
                messages = rubric.messages(prompt, response.text, facts)
                again = -min(response.sample, 0)  # what was judged before is judged anew
                yield ChatRequest(self.config.model, messages, _MAX_TOKENS, top_logprobs=top, sample=again)

    def _score(self, rubric: Rubric, result: ChatResult) -> Score:
        if result.text is None:
            return Score(None, error=f"the call failed: {result.error}")
        if self.config.scores == "text":
            return score_text(result.text, rubric.scale, rubric.verdicts)
        if not result.top_logprobs:
            return Score(None, error="no log-probabilities came back; use scores: text if the interface has none")
        probabilities = to_probabilities(result.top_logprobs)
        if splits_numbers(result.text, probabilities):
            return Score(None, error=f"the judge wrote {result.text.strip()} in several tokens; use scores: text")
        return score_probabilities(probabilities, rubric.scale, rubric.verdicts)

    def _judgment(self, response: Response, scores: Sequence[Score]) -> Judgment:
        pairs = list(zip(self.rubrics, scores, strict=True))
        values = [None if s.value is None else r.turned(s.value) for r, s in pairs]
        if self.coherent is None:
            values.append(None if values[0] is None else 100.0)
        errors = [f"{rubric.name}: {score.error}" for rubric, score in pairs if score.error]
        verdict = next((score.verdict for score in scores if score.verdict), None)
        return Judgment(
            response.prompt_id, response.sample, values[0], values[1], verdict, "; ".join(errors) if errors else None
        )


class _TokenCheck:
    """Ends the work when the judge plainly writes numbers in several tokens: every score would be missing."""

    def __init__(self, model: str) -> None:
        self.model, self.split, self.numbers = model, 0, 0

    def look(self, result: ChatResult) -> None:
        if not result.top_logprobs or not (result.text or "").strip().isdigit():
            return
        self.numbers += 1
        self.split += splits_numbers(result.text, to_probabilities(result.top_logprobs))
        if self.split >= _MANY and 2 * self.split >= self.numbers:
            raise JudgeError(
                f"the judge {self.model} writes numbers in several tokens, so its first token holds no score",
                f"{self.split} of {self.numbers} numbers",
                "a model with a token for each of 0 to 100, as OpenAI's and Llama 3's, or completer: local",
                "set scores: text",
            )
