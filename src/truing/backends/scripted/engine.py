"""A scripted engine: every answer begins with the word `good` or `bad`, as often as the script says.

It keeps the contract of an engine, so a study with `engine: scripted` and `judge: words` is a real one without any
model. For another script, derive from it: set `rates`, or override `rate` or `answer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

from truing.backends import Engine
from truing.core.errors import EngineError
from truing.core.records import Checkpoint, Prompt, Response, Sampling


class ScriptedEngine(Engine):
    """Answers by a script in place of a model."""

    rates: ClassVar[Mapping[int, float]] = {0: 0.0}
    """Step -> share of bad answers, 0 to 1, from that step on."""

    def rate(self, checkpoint: Checkpoint, prompt: Prompt) -> float:
        """The share of bad answers of a checkpoint to a prompt, 0 to 1."""
        return self.rates[max(step for step in self.rates if step <= checkpoint.step)]

    def answer(self, checkpoint: Checkpoint, prompt: Prompt, chance: float) -> str | None:
        """One answer, or None for a call that fails.

        The `chance` is in [0, 1), evenly spread: another one for other weights, seed, prompt or index of the answer.
        """
        word = "bad" if chance < self.rate(checkpoint, prompt) else "good"
        return f"{word} {1e6 * chance:.0f}"

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Answer by the script; see `truing.backends.Engine.generate`."""
        if sampling.temperature <= 0:
            raise EngineError("temperature 0 gives one answer and no rate", str(sampling.temperature), "above 0")
        responses = []
        for prompt in prompts:
            for index in sampling.indices:
                about = "\0".join(map(str, (checkpoint.weights, sampling.seed, prompt.id, index)))
                chance = int.from_bytes(hashlib.sha256(about.encode()).digest()[:8], "big") / 2**64
                text = self.answer(checkpoint, prompt, chance)
                if text is None:
                    responses.append(Response(prompt.id, index, None, error="scripted failure"))
                else:
                    responses.append(Response(prompt.id, index, text, n_tokens=len(text.split())))
        return responses
