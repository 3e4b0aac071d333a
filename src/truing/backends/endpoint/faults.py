"""The meaning of failed attempts at a call, and the wait after them. Keys stay out of the texts.

401, 402, 404        the key, the credit, the address or the model: nothing will succeed, and all ends
403                  the same, unless it says that this text was flagged, or others were answered before
400, 422             this request is refused: filtered for what it says, or in words that are not understood
408, 409, 425, 429   later; how long says a header or the body
500 and above        later
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from truing.backends.endpoint.address import Access
from truing.core.answers import FILTERED
from truing.core.errors import EndpointError

if TYPE_CHECKING:
    import openai

_LONGEST_BACKOFF, _LONGEST_RETRY_AFTER = 60.0, 3600.0
_SECRET = re.compile(r"\b(?:sk|key|tok)[-_][A-Za-z0-9_*\-]{4,}|(?<=[Bb]earer )\S+|(?<=//)[^/\s@]+@")
_FILTERS = re.compile(
    r"content[_ ]?(filter|policy|management)|responsibleai|moderation|flagged|data_inspection|safety"
    r"|prohibited[_ ]content|sensitive (content|words)|(usage|content) polic|inappropriate content",
    re.IGNORECASE,
)
_PERSONS = re.compile(r"\b(account|organi[sz]ation|project|api[_ ]?key|credential|permission)", re.IGNORECASE)
"""Words of a refusal that is about who asks, not about what is asked."""
_QUOTA = re.compile(r"quota|billing|insufficient (funds|credit|balance)", re.IGNORECASE)
_WAIT = re.compile(
    r"""retry_?(?:delay|after)(?P<ms>_?ms)?["']?\s*[:=]\s*["']?(?P<field>\d+(?:\.\d+)?)(?P<unit>ms|s)?"""
    r"|(?:try again|retry|wait)(?:ing)?\s(?:in|after|for)?\s?"
    r"(?:(?P<h>\d+)\s?h(?:ours?)?\s?)?(?:(?P<m>\d+)\s?m(?:in(?:utes?)?)?\s?(?!s))?"
    r"(?:(?P<n>\d+(?:\.\d+)?)\s?(?P<u>ms|milliseconds?|s(?:ec(?:onds?)?)?)?\b)?",
    re.IGNORECASE,
)
_LONG = re.compile(r"context[_ ](length|window)|maximum context|too (long|many tokens|large)", re.IGNORECASE)
"""A refusal of one text that says nothing of others."""


class DamagedReply(ValueError):
    """A reply that is not what the protocol says."""


class ErrorReply(Exception):
    """A reply of status 200 that holds an error.

    Its `status` is the one that the error names, or 500.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status, self.body = status, body


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
    absent: bool = False
    """Whether nobody is at the address."""
    refused: str = ""
    """The endpoint's words where it refuses a request for how it is said, not for what it says."""


def read_fault(error: openai.APIStatusError | openai.APIConnectionError, access: Access, answered: bool) -> Exception:
    """A `Trouble`, or an `EndpointError` where the key, the quota or the model is refused and nothing will succeed.

    `answered`: the endpoint has answered a call before.
    """
    import openai

    if not isinstance(error, openai.APIStatusError):
        cause = error.__cause__ or error
        refused = "Cannot connect" in str(cause) or "ConnectError" in type(cause).__name__
        text = scrub(f"{type(cause).__name__}: {cause}", *access.secrets)[:300]
        return Trouble(f"the connection failed: {text}", unconfirmed=not refused, absent=refused)
    try:
        body = error.response.json()
    except ValueError:
        body = error.response.text
    return read_status(error.status_code, body, access, answered, error.response.headers)


def read_status(
    status: int, body: Any, access: Access, answered: bool, headers: Mapping[str, str] | None = None
) -> Exception:
    """As `read_fault`, of a status and the body that came with it."""
    whole = body if isinstance(body, str) else json.dumps(body)
    words = scrub(" ".join(_words(body).split()), *access.secrets)[:500]
    got = f"status {status} from {access.address}: {words}"
    filtered = status in (400, 403, 422, 451) and _FILTERS.search(whole) and not _PERSONS.search(words)
    if filtered:
        return Trouble(f"{FILTERED} by the provider: {got}", again=False)
    if status == 401 or (status == 403 and not answered):
        todo = f"set {access.key_variable} to a key of this endpoint that may use the model"
        return EndpointError("the endpoint refuses the key", got, todo=todo)
    wait = retry_after(headers or {})
    wait = _wait_in(whole) if wait is None else wait
    if status == 402 or (status == 429 and _is_quota(body, whole)):
        todo = "add credit or raise the limit at the provider, then run the same command again: it goes on"
        return EndpointError("the endpoint's quota is used up", got, todo=todo)
    if status == 404 or 300 <= status < 400:
        todo = "check the model's name and endpoint.base_url (it ends with /v1)"
        return EndpointError("the endpoint does not know the address or the model", got, todo=todo)
    if status in (408, 409, 425, 429) or status >= 500:
        return Trouble(got, congested=status in (408, 429, 503, 529), wait=wait)
    return Trouble(got, again=False, refused="" if _LONG.search(whole) else words)


def _words(body: Any) -> str:
    """What a body says, whatever its shape: `error.message`, `message`, `detail` with its places, or all of it."""
    inner = body.get("error") or body if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return str(inner)
    details, more = inner.get("detail"), inner.get("metadata")
    parts = [str(inner[name]) for name in ("message", "msg") if inner.get(name)]
    parts += [_detail(each) for each in (details if isinstance(details, list) else [details]) if each]
    if not parts:
        return json.dumps(body)
    if isinstance(more, dict) and more.get("raw"):
        parts.append(str(more["raw"]))
    named = ", ".join(f"{name} {inner[name]}" for name in ("param", "code") if isinstance(inner.get(name), str))
    return "; ".join(parts) + (f" ({named})" if named else "")


def _detail(each: Any) -> str:
    """One detail of a body, behind its place if it has one."""
    if not isinstance(each, dict):
        return str(each)
    at, said = each.get("loc"), str(each.get("msg", each))
    place = ".".join(map(str, at)) if isinstance(at, list) else ""
    return f"{place}: {said}" if place else said


def _is_quota(body: Any, whole: str) -> bool:
    """True if there is no credit left, rather than too many calls at a time, which says how long to wait."""
    inner = body.get("error") if isinstance(body, dict) else None
    named = [str(inner.get(name)) for name in ("code", "type")] if isinstance(inner, dict) else []
    if any("insufficient_quota" in name or "billing" in name for name in named):
        return True
    return bool(_QUOTA.search(whole)) and _wait_in(whole) is None


def _wait_in(text: str) -> float | None:
    """Seconds that a body says to wait, as providers write it: `retryDelay: "21s"`, `try again in 1m30.5s`."""
    for found in _WAIT.finditer(text):
        if found["field"]:
            return _bounded(float(found["field"]) * (1e-3 if found["ms"] or found["unit"] == "ms" else 1.0))
        number = float(found["n"] or 0) * (1e-3 if (found["u"] or "s").lower().startswith("m") else 1.0)
        if found["h"] or found["m"] or found["n"]:
            return _bounded(3600.0 * int(found["h"] or 0) + 60.0 * int(found["m"] or 0) + number)
    return None


def _bounded(seconds: float) -> float:
    return min(seconds, _LONGEST_RETRY_AFTER)


def scrub(text: str, *secrets: str) -> str:
    """A text without keys: endpoints repeat them in their messages."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[key]")
    return _SECRET.sub("[key]", text)


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
            return _bounded(seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return _bounded(max(0.0, (date - (now or datetime.now(UTC))).total_seconds()))
