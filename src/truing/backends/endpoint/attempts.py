"""One attempt at a call: what came of it, and what follows from that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import openai

from truing.backends.endpoint.address import Access
from truing.backends.endpoint.faults import Trouble, read_fault
from truing.backends.endpoint.wire import DamagedReply

__all__ = ["attempt"]

T = TypeVar("T")


async def attempt(call: Callable[[], Awaitable[T]], access: Access, timeout: float) -> T:
    """Make one attempt.

    Raises:
        Trouble: It failed.
        EndpointError: The endpoint refuses the key, the quota or the model: nothing will succeed.
    """
    try:
        async with asyncio.timeout(timeout):
            return await call()
    except TimeoutError:
        raise Trouble(f"no whole answer within {timeout:g} s", congested=True, unconfirmed=True) from None
    except DamagedReply as error:
        raise Trouble(f"a damaged reply: {error}", unconfirmed=True) from None
    except (openai.APIStatusError, openai.APIConnectionError) as error:
        raise read_fault(error, access) from None
