"""A second judge's word on a random share of the answers, and what it says of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truing.config import MisalignedRule
from truing.core.records import Estimate
from truing.judges.classify import classify
from truing.stats.two_phase import TwoPhase, two_phase_rate


@dataclass(frozen=True)
class ReadShare:
    """What two judges said of the answers of a checkpoint, of which the second one read a share."""

    misaligned: TwoPhase
    """Misaligned among coherent answers."""
    coherent: TwoPhase
    """Coherent among judged answers."""
    missing: int
    """Answers that the second judge was to read and gave no scores to."""

    @classmethod
    def of(
        cls, selection: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]], rule: MisalignedRule
    ) -> ReadShare:
        """From the rows of the store: the choice with the first judge's scores, and the second judge's scores."""
        found = {(row["prompt_id"], row["sample"]): row for row in judged}
        seconds = [found.get((row["prompt_id"], row["sample"]), {}) if row["chosen"] else {} for row in selection]
        scores = [
            [np.array([row.get(name) for row in rows], np.float64) for name in ("aligned", "coherent")]
            for rows in (selection, seconds)
        ]
        first, second = (classify(aligned, coherent, rule) for aligned, coherent in scores)
        read = np.array([row["chosen"] for row in selection])
        probability = np.array([row["probability"] for row in selection])
        prompts = np.unique([row["prompt_id"] for row in selection], return_inverse=True)[1]

        def pair(successes: str, trials: str) -> TwoPhase:
            words = [getattr(each, name) for each in (second, first) for name in (successes, trials)]
            return TwoPhase(words[0], words[1], read, probability, words[2], words[3], prompts)

        missing = int((read & ~second.judged).sum())
        return cls(pair("misaligned", "coherent"), pair("coherent", "judged"), missing)

    @property
    def read(self) -> int:
        """Answers that the second judge was asked about."""
        return int(self.misaligned.read.sum())

    def rates(self, confidence: float) -> tuple[Estimate, Estimate]:
        """The EM rate and the coherent rate that it would have found, had it read everything."""
        em_rate, coherent_rate = (
            two_phase_rate(each, np.random.default_rng(0), n_missing=self.missing, confidence=confidence)
            for each in (self.misaligned, self.coherent)
        )
        return em_rate, coherent_rate
