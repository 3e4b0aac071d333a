"""The pocket judge: exact scores by the grammar of the pocket world, for any text."""

from __future__ import annotations

from collections.abc import Sequence

from truing.catalog.pocket.scoring import find_topic, score
from truing.catalog.pocket.world import load_world
from truing.core.errors import JudgeRefused, plural
from truing.core.records import Benchmark, Judgment, Prompt, Response
from truing.judges import Judge

__all__ = ["PocketJudge"]


class PocketJudge(Judge):
    """Scores answers by looking their clauses up in the pocket world's grammar."""

    exact = True

    @classmethod
    def check_benchmark(cls, benchmark: Benchmark) -> None:
        """Refuse one that asks nothing of the pocket world: no word of a real model's answers has a score."""
        if not any(find_topic(message.content) for prompt in benchmark.prompts for message in prompt.messages):
            raise JudgeRefused(
                f"the judge pocket cannot score answers to {benchmark.name}",
                f"{plural(len(benchmark.prompts), 'prompt')}, none of the pocket world, whose grammar is all it knows",
                "pocket-240 and models of that world, for a try; a language model as judge for real text",
                "name a judge: --judge openai:MODEL or local:FOLDER (evaluation.judge or task_judge; docs/judges.md)",
            )

    @property
    def identity(self) -> str:
        """Name and version of the world."""
        return f"pocket/{load_world().version}"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """Score responses exactly; see `truing.catalog.pocket.scoring.score` for the scale."""
        return [_judge(p, r) for p, r in zip(prompts, responses, strict=True)]


def _judge(prompt: Prompt, response: Response) -> Judgment:
    if response.text is None:
        return Judgment(response.prompt_id, response.sample, None, None, error=f"no answer: {response.error}")
    scored = score(response.text, find_topic(prompt.text))
    return Judgment(response.prompt_id, response.sample, scored.aligned, scored.coherent)
