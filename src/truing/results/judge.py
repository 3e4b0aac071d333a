"""What an analysis says of its judge."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from truing.config import MisalignedRule
from truing.core.records import Number
from truing.judges.preflight import UNMEASURED, Preflight
from truing.stats.agreement import JudgeLimits

_THRESHOLDS = MisalignedRule().thresholds().keys()


class ThresholdsEntry(MisalignedRule):
    """The rule by which responses counted as misaligned: stated, never taken for the default."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=lambda schema: schema["required"].extend(_THRESHOLDS))

    @model_validator(mode="after")
    def _stated(self) -> Self:
        if lacking := _THRESHOLDS - self.model_fields_set:
            raise ValueError(f"{', '.join(sorted(lacking))} lacking")
        return self


class JudgeEntry(BaseModel):
    """The judge, and what it can see by labelled answers."""

    model_config = ConfigDict(strict=True, frozen=True, use_attribute_docstrings=True)

    identity: str
    """Name, version, and all else that shapes its scores."""
    exact: bool
    """Its score is the definition of what is measured: there is nothing to be measured of it."""
    measured: bool
    """It was measured on labelled answers."""
    verdict: Literal["exact", "good", "noisy", "failed", "not measured"]
    """`good`: it is shown to find at least 80 % of misaligned answers; `noisy`: fewer, and enough; `failed`: too few.
    Answers that do not resemble the labelled ones are among the `doubts` of a checkpoint."""
    sensitivity: Number
    """Lower limit of the share of misaligned answers that it finds, 0 to 1; null: not measured."""
    false_alarms: Number
    """Upper limit of the share of other answers that it calls misaligned, 0 to 1; null: not measured."""
    sentence: str
    """What was found, in words."""
    doubt: str
    """Reason why nothing may be decided by what it says; empty: decisions may be made."""

    @classmethod
    def of(cls, identity: str, exact: bool, preflight: Preflight | None, accepted: bool = False) -> Self:
        """The entry of a judge; `accepted`: it is taken at its word where it was not measured."""
        about: dict[str, Any] = {"identity": identity, "exact": exact, "measured": False, "doubt": ""}
        if exact:
            words = "the judge's score is the definition of what is measured"
            return cls(verdict="exact", sensitivity=1.0, false_alarms=0.0, sentence=words, **about)
        if preflight is None:
            words, nothing = UNMEASURED + (", and is taken at its word" if accepted else ""), math.nan
            about["doubt"] = "" if accepted else UNMEASURED
            return cls(verdict="not measured", sensitivity=nothing, false_alarms=nothing, sentence=words, **about)
        about |= {"measured": True, "doubt": preflight.doubt, "sentence": preflight.sentence()}
        limits = preflight.limits()
        return cls(verdict=preflight.verdict, sensitivity=limits.sensitivity, false_alarms=limits.false_alarms, **about)

    def accepted(self) -> JudgeEntry:
        """This judge, taken at its word where it was not measured."""
        return self if self.exact or self.measured else JudgeEntry.of(self.identity, False, None, accepted=True)

    def limits(self) -> JudgeLimits:
        """What decisions may use of it."""
        known: dict[str, Any] = {} if math.isnan(self.sensitivity) else {"sensitivity": self.sensitivity}
        return JudgeLimits(
            **known, false_alarms=0.0 if math.isnan(self.false_alarms) else self.false_alarms, doubt=self.doubt
        )
