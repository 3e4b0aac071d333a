"""What a failed request to an endpoint means: the one place that reads the SDK's errors; keys stay out of texts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from truing.backends.endpoint.address import Access
from truing.backends.endpoint.pacing import retry_after
from truing.core.errors import EndpointError

if TYPE_CHECKING:
    import openai

__all__ = ["Trouble", "read_fault", "scrub"]

_SECRET = re.compile(r"\b(?:sk|key|tok)[-_][A-Za-z0-9_*\-]{4,}|(?<=[Bb]earer )\S+|(?<=//)[^/\s@]+@")


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
    text = scrub(str(error.message), access.key)[:500]
    got = f"status {status} from {access.address}: {text}"
    if (refusal := _refusal(status, code, got, access)) is not None:
        return refusal
    if status in (408, 409, 425, 429) or status >= 500:
        congested = status in (408, 429, 503, 529)
        return Trouble(got, congested=congested, wait=retry_after(error.response.headers))
    return Trouble(got, again=False)


def _refusal(status: int, code: str, got: str, access: Access) -> EndpointError | None:
    if status in (401, 403):
        return EndpointError(
            "the endpoint refuses the key", got, todo=f"set {access.key_variable} to a key of this endpoint"
        )
    if status == 402 or (status == 429 and "quota" in code):
        return EndpointError(
            "the endpoint's quota is used up",
            got,
            todo="add credit or raise the limit at the provider, then run the same command again: it goes on",
        )
    if status == 404 or 300 <= status < 400:
        return EndpointError(
            "the endpoint does not know the address or the model",
            got,
            todo="check the model's name and endpoint.base_url (it ends with /v1)",
        )
    return None


def scrub(text: str, key: str | None = None) -> str:
    """A text without keys: endpoints repeat them in their messages."""
    if key:
        text = text.replace(key, "[key]")
    return _SECRET.sub("[key]", text)
