"""Costs of a fine-tuning job: the price before it starts, its place under the study's caps, and the bill.

The caps are those of the study's calls, in the same journal. A job holds a lease for the most that it can cost until it
is over, so that calls and jobs together never pass a cap; it counts as one call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from truing.backends.endpoint.client import Endpoint
from truing.backends.endpoint.journal import Paid
from truing.backends.openai.data import Usage
from truing.core.errors import CapReached
from truing.core.files import content_key

__all__ = ["Amounts", "JobCosts"]

Amounts = Mapping[str, int | float | None]
"""`tokens` (expected, all epochs), `most_tokens`, `dollars` (expected), `most_dollars`; no dollars: no known price."""


class JobCosts:
    """The price, the caps and the bill of one run's training.

    Args:
        endpoint: Holds the prices, the caps and the journal of what is paid for.
        model: The provider's name of the base model.
    """

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint, self._model = endpoint, model
        self._price = endpoint.prices.training(model)

    def expect(self, usage: Usage, epochs: int) -> Amounts:
        """The cost of training on some rows; the provider bills every token of every epoch, and no validation."""
        tokens, most = round(usage.expected * epochs), usage.most * epochs
        dollars = {"dollars": self._dollars(tokens), "most_dollars": self._dollars(most)}
        return {"tokens": tokens, "most_tokens": most, **dollars}

    def reserve(self, key: str, expected: Amounts) -> None:
        """Lease what a job can cost at most; once for each key.

        Raises:
            CapReached: A cap leaves no room for it.
            ConfigError: A cap on the cost, and the price is not known.
        """
        journal, most = self._endpoint.journal, expected["most_dollars"]
        if self._endpoint.config.max_cost is not None and most is None:
            raise self._endpoint.unpriced(f"training {self._model}", "a model with `train`, there or in the catalogue,")
        if not journal.take([most or 0.0], f"training-{key}"):
            reached = journal.reached()
            dollars = f"about ${expected['dollars']:,.2f}, at most ${most:,.2f}" if most else "at an unknown price"
            raise CapReached(
                f"the study's caps leave no room for a fine-tuning job of {self._model}",
                f"the job: {dollars} (a token is at least a byte); so far {reached.got}",
                reached.allowed,
                "raise the cap and run the same command again; nothing was begun",
            )

    def settle(self, key: str, job_id: str, tokens: int | None, most: float | None) -> float | None:
        """Write down what a job came to, once for each job, and give its lease back.

        Args:
            key: Of the lease.
            job_id: The provider's id of the job.
            tokens: Billed, as the provider says; None: it does not say, so that the bill may be up to `most`.
            most: The most that it can have cost, in dollars; None: the price is not known.

        Returns:
            Dollars, if they are known.
        """
        dollars = None if tokens is None else self._dollars(tokens)
        paid = [Paid(self._model, cost=most)] if tokens is None else []
        if tokens:
            paid = [Paid(self._model, _name("training", job_id), content_key(job_id), tokens, 0, dollars)]
        self._endpoint.journal.write(paid, "training", (f"training-{key}", 0, 0.0), once=True)
        return dollars

    def note_call(self, model: str, read: int, written: int) -> None:
        """Write down the call by which a new model was asked whether it is there."""
        cost = self._endpoint.prices.cost(model, (read, 0, written))
        paid = Paid(model, _name("ready", model), content_key(model), read, written, cost)
        self._endpoint.journal.write([paid], "live")

    def _dollars(self, tokens: int) -> float | None:
        return None if self._price is None else tokens * self._price / 1e6


def _name(what: str, of: str) -> bytes:
    """The key of an entry that is no call of a user's."""
    return hashlib.sha256(f"{what}\0{of}".encode()).digest()[:16]
