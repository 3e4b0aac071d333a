"""How requests of one kind are said to one model, where it refuses the protocol's usual words.

Providers take different fields: the name of the longest answer, a temperature, a seed, fewer likeliest tokens. What is
refused is learnt from the first calls, told once, and kept to. Only what leaves the meaning is changed: a temperature
other than a judge's 0 or the model's own 1 is never left out in silence. Names of calls in the journal do not change.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from truing.core.chat import ChatRequest

_FIELDS = ("max_tokens", "max_completion_tokens")
_UNKNOWN = re.compile(
    r"not (?:a )?(?:supported|permitted|allowed|recogni[sz]ed|valid|available|accept\w*)|unsupported|unrecogni[sz]ed"
    r"|unknown|extra|unexpected|does not (?:support|take|accept)|doesn't support|invalid|instead|only|forbidden|must",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:<=?|less than(?: or equal to)?|at most|up to|no more than|maximum[^0-9]{0,20}|between 0 and|0 to|\[0,|0-)"
    r"\s*(\d+)",
    re.IGNORECASE,
)
_FEW = 5
"""Likeliest tokens that most interfaces give which do not give 20."""


@dataclass(frozen=True)
class Dialect:
    """The changes to a request."""

    tokens_field: str = ""
    """Name of the longest answer; empty: as it stands."""
    dropped: frozenset[str] = frozenset()
    """Fields that are left out."""
    top_logprobs: int | None = None
    """Most likeliest tokens to ask for; None: as many as are wanted."""

    def say(self, content: bytes) -> bytes:
        """The body to send for that of the usual words."""
        if self == Dialect():
            return content
        body = {name: value for name, value in json.loads(content).items() if name not in self.dropped}
        if self.top_logprobs is not None and "top_logprobs" in body:
            body["top_logprobs"] = min(body["top_logprobs"], self.top_logprobs)
        if self.tokens_field:
            old = next(name for name in _FIELDS if name in body)
            body = {self.tokens_field if name == old else name: value for name, value in body.items()}
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()

    def after(self, words: str, request: ChatRequest, tokens_field: str) -> tuple[Dialect, str] | None:
        """The dialect to try after a refusal in these words, and what it changes; None: nothing that helps is known.

        `tokens_field` is how the longest answer is called in the usual words; empty: the settings say how.
        """
        if not _UNKNOWN.search(words) and not _BOUND.search(words):
            return None
        said = set(re.findall(r"[a-z_]+", words.lower()))
        if tokens_field and not self.tokens_field and said & set(_FIELDS):
            other = next(name for name in _FIELDS if name != tokens_field)
            return replace(self, tokens_field=other), f"the longest answer is asked for as {other}"
        if "seed" in said and request.seed is not None and "seed" not in self.dropped:
            what = "no seed is sent, so the same index may give another answer when it is asked again"
            return replace(self, dropped=self.dropped | {"seed"}), what
        if "temperature" in said and request.temperature in (0.0, 1.0) and "temperature" not in self.dropped:
            what = "no temperature is sent, so answers come at the model's own"
            return replace(self, dropped=self.dropped | {"temperature"}), what
        if "top_logprobs" in said and request.top_logprobs and self.top_logprobs is None:
            bounds = [int(found) for found in _BOUND.findall(words) if 1 <= int(found) < request.top_logprobs]
            most = min(bounds, default=_FEW)
            return replace(self, top_logprobs=most), f"a score is read from the {most} likeliest tokens"
        return None
