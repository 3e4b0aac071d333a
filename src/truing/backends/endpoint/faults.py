"""The meaning of failed attempts at a call, and the wait after them. Keys stay out of the texts."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from truing.backends.endpoint.address import Access
from truing.core.errors import EndpointError

if TYPE_CHECKING:
    import openai

__all__ = ["DamagedReply", "Trouble", "backoff", "read_fault", "retry_after", "scrub"]

_LONGEST_BACKOFF, _LONGEST_RETRY_AFTER = 60.0, 3600.0
_SECRET = re.compile(r"\b(?:sk|key|tok)[-_][A-Za-z0-9_*\-]{4,}|(?<=[Bb]earer )\S+|(?<=//)[^/\s@]+@")


class DamagedReply(ValueError):
    """A reply that is not what the protocol says."""


@dataclass(eq=False)
class Trouble(Exception):
    """An attempt that failed."""

    reason: str
    again: bool = True
    """Whether another attempt may succeed."""
    congested: bool = False
    """Whether it says that there are too many calls."""
    unconfirmed: bool = False
    """Whether it may have been done, and paid for."""
    wait: float | None = None
    """Seconds to wait, if the endpoint said so."""


def read_fault(error: openai.APIStatusError | openai.APIConnectionError, access: Access) -> Exception:
    """A `Trouble`, or an `EndpointError` where the key, the quota or the model is refused and nothing will succeed."""
    import openai

    if not isinstance(error, openai.APIStatusError):
        cause = error.__cause__ or error
        refused = "Cannot connect" in str(cause) or "ConnectError" in type(cause).__name__
        text = scrub(f"{type(cause).__name__}: {cause}", access.key)[:300]
        return Trouble(f"the connection failed: {text}", unconfirmed=not refused)
    status, code = error.status_code, str(error.code or "")
    got = f"status {status} from {access.address}: {scrub(str(error.message), access.key)[:500]}"
    if status in (401, 403):
        todo = f"set {access.key_variable} to a key of this endpoint"
        return EndpointError("the endpoint refuses the key", got, todo=todo)
    if status == 402 or (status == 429 and "quota" in code):
        todo = "add credit or raise the limit at the provider, then run the same command again: it goes on"
        return EndpointError("the endpoint's quota is used up", got, todo=todo)
    if status == 404 or 300 <= status < 400:
        todo = "check the model's name and endpoint.base_url (it ends with /v1)"
        return EndpointError("the endpoint does not know the address or the model", got, todo=todo)
    if status in (408, 409, 425, 429) or status >= 500:
        return Trouble(got, congested=status in (408, 429, 503, 529), wait=retry_after(error.response.headers))
    return Trouble(got, again=False)


def scrub(text: str, key: str | None = None) -> str:
    """A text without keys: endpoints repeat them in their messages."""
    return _SECRET.sub("[key]", text.replace(key, "[key]") if key else text)


def backoff(attempt: int, base: float) -> float:
    """Seconds before attempt `attempt + 1`: doubling, with jitter between half of it and all of it."""
    return min(_LONGEST_BACKOFF, base * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return min(seconds, _LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(0.0, (date - (now or datetime.now(UTC))).total_seconds()), _LONGEST_RETRY_AFTER)
