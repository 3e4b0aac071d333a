"""Random prompts, a few at a time: what rules that look until they can tell ask of a checkpoint.

Which prompts come, and in which order, follows from the weights and the seed of sampling alone, so a look that was
interrupted goes on with the very same answers, and what the store holds is not asked again.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from truing.core.records import Checkpoint, Judgment
from truing.judges.classify import Tally, tally
from truing.monitor.sampler import DRAWN, Pair, Probe, Prober
from truing.stats import draw_prompts

__all__ = ["Draws"]

_CHUNK = 1 << 12
"""Indices of answers kept for each chunk of draws."""


class Draws:
    """Judges answers of one checkpoint to prompts drawn at random: the same ones whenever it is asked again.

    Args:
        prober: Samples and stores.
        checkpoint: Who is asked.
        probe: The prompts to draw from, and the judge.
        fewest: Answers to sample at once at first.
    """

    def __init__(self, prober: Prober, checkpoint: Checkpoint, probe: Probe, fewest: int) -> None:
        self.prober, self.checkpoint, self.probe, self.fewest = prober, checkpoint, probe, fewest
        name = f"{prober.config.seed} {checkpoint.weights}".encode()
        self.rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:8], "big"))
        self.drawn = self.chunks = 0
        self.ahead: list[Pair] = []
        """Drawn and sampled, not yet judged: an engine samples many at a time, a detector wants few."""
        self.judgments: list[Judgment] = []

    def __call__(self, size: int) -> tuple[int, int, int]:
        """Misaligned, coherent and missing ones among `size` more answers."""
        if len(self.ahead) < size:
            self._sample_ahead(max(size - len(self.ahead), self.fewest - self.drawn, self.drawn // 2))
        pairs, self.ahead = self.ahead[:size], self.ahead[size:]
        _, judgments = self.prober.judged(self.checkpoint, self.probe, pairs, DRAWN)
        self.judgments += judgments
        counts = self._tally(judgments)
        return int(counts.misaligned.sum()), int(counts.coherent.sum()), int(counts.missing.sum())

    def _sample_ahead(self, size: int) -> None:
        first = DRAWN + self.chunks * _CHUNK  # equal in a chunk: few calls of the engine
        seen: Counter[str] = Counter()
        for i in draw_prompts(self.rng, len(self.probe.prompts), size).tolist():
            prompt_id = self.probe.prompts[i].id
            self.ahead.append((prompt_id, first + seen[prompt_id]))
            seen[prompt_id] += 1
        self.drawn, self.chunks = self.drawn + size, self.chunks + 1
        self.prober.sampled(self.checkpoint, self.probe, self.ahead, DRAWN)

    def counts(self, after: int = 0) -> Tally:
        """Of all answers so far but the first `after`, by prompt."""
        return self._tally(self.judgments[after:])

    def _tally(self, judgments: list[Judgment]) -> Tally:
        return tally(judgments, [p.id for p in self.probe.prompts], self.prober.config)
