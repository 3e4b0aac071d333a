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
from truing.core.answers import is_final
from truing.core.chat import TOP_TOKENS, ChatRequest, ChatResult, Completer
from truing.core.errors import JudgeError
from truing.core.files import content_key
from truing.core.progress import counted
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

_MAX_TOKENS, _MAX_TEXT = 5, 24
"""Longest answer of the judge: a number or a verdict word; and a number in a dress, where its text is read."""
_MANY = 20
"""So many answers with numbers in several tokens, and no fewer than half of those with a number, end the work."""
_AT_FIRST, _FEW = 2, 12
"""Answers that a judge is asked about at a time until one has a score; calls without any that end the work."""


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
        self._trial = _Trial(config)

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
            JudgeError: No score can be read: the judge's tokenizer splits numbers, its interface gives no
                log-probabilities, or none of its first answers is a score.
        """
        pairs, judgments = list(zip(prompts, responses, strict=True)), list[Judgment]()
        while not self._trial.read and len(judgments) < len(pairs):
            judgments += self._judged(pairs[len(judgments) :][:_AT_FIRST])
        if self._completer.together and len(pairs) > _AT_FIRST:
            judgments = []  # the first few were asked to see whether there is a score; all are asked together
        rest = pairs[len(judgments) :]
        return judgments + self._judged(rest) if rest else judgments

    def _judged(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[Judgment]:
        asked = sum(response.text is not None for _, response in pairs) * len(self.rubrics)
        results = counted("judge", asked, self._completer.stream(self._requests(pairs)))
        judgments = []
        for prompt, response in pairs:
            problem = f"no answer: {response.error}" if response.text is None else self._lacks(prompt)
            if problem:
                judgments.append(Judgment(response.prompt_id, response.sample, None, None, error=problem))
                continue
            scores = []
            for rubric in self.rubrics:
                result = next(results, None)
                if result is None:
                    raise JudgeError("the judge's completer left out results", allowed="one result per request")
                scores.append(self._score(rubric, result))
                self._trial.look(result, scores[-1])
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

    def _requests(self, pairs: Sequence[tuple[Prompt, Response]]) -> Iterator[ChatRequest]:
        """Requests, made as they are taken: a million of them do not fit in memory."""
        top, most = (TOP_TOKENS, _MAX_TOKENS) if self.config.scores == "logprobs" else (0, _MAX_TEXT)
        for prompt, response in pairs:
            if response.text is None or self._lacks(prompt):
                continue
            facts = self._facts.get(prompt.text, ("", ""))
            for rubric in self.rubrics:
                messages = rubric.messages(prompt, response.text, facts)
                again = -min(response.sample, 0)  # what was judged before is judged anew
                yield ChatRequest(self.config.model, messages, most, top_logprobs=top, sample=again)

    def _score(self, rubric: Rubric, result: ChatResult) -> Score:
        if result.text is None:
            what = "the judge gave no answer" if is_final(result.error) else "the call failed"
            return Score(None, error=f"{what}: {result.error}")
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


class _Trial:
    """Ends the work when it is plain that no score can be read from what the judge says."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config, self.split, self.numbers, self.said, self.bare = config, 0, 0, 0, 0
        self.read = False
        """Whether some answer was a score or a verdict word."""

    def look(self, result: ChatResult, score: Score) -> None:
        """Take in one call and what was read from it."""
        self.read = self.read or score.error is None
        self.said += result.text is not None or is_final(result.error)
        self.bare += result.text is not None and not result.top_logprobs
        if result.top_logprobs and (result.text or "").strip().isdigit():
            self.numbers += 1
            self.split += splits_numbers(result.text, to_probabilities(result.top_logprobs))
        self._end(score)

    def _end(self, score: Score) -> None:
        none = not self.read and self.said >= _FEW
        if self.split and 2 * self.split >= self.numbers and (self.split >= _MANY or none):
            raise JudgeError(
                f"the judge {self.config.model} writes numbers in several tokens, so its first token holds no score",
                f"{self.split} of {self.numbers} numbers",
                "a model with a token for each of 0 to 100, as OpenAI's and Llama 3's, or completer: local",
                "set scores: text",
            )
        bare = self.config.scores == "logprobs" and not self.read and self.bare == self.said >= _AT_FIRST
        if bare:
            what = f"the interface of the judge {self.config.model} gives no log-probabilities"
            raise JudgeError(what, f"none with {self.said} answers", "the likeliest first tokens", "set scores: text")
        if none and "filtered" not in str(score.error):
            raise JudgeError(
                f"the judge {self.config.model} gave no score in its first {self.said} answers",
                str(score.error),
                "a number of the rubric's scale, or a verdict word",
                "take another model, rubric or way of reading (scores); if it reasons, more tokens: endpoint.body",
            )
