"""What a fine-tuning job costs: the estimate before it starts, its place under the study's caps, and the bill.

The caps are those of the study's calls, in the same journal. A job holds a lease for the most that it can cost until it
is over, so that calls and jobs together never pass a cap; it counts as one call.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from truing.backends.endpoint.budget import LASTING, Budget
from truing.backends.endpoint.journal import Journal, Paid, set_lease, write_paid
from truing.backends.endpoint.pricing import load_prices
from truing.backends.openai.rows import Usage
from truing.config import EndpointConfig
from truing.core.errors import CapReached, ConfigError
from truing.core.files import content_key

__all__ = ["Estimate", "Purse", "journal_of"]

CALLS = "calls.sqlite"


def journal_of(folder: Path) -> Path:
    """The journal of the study to which a run's folder belongs (OUT/runs/RUN), or one of the run's own."""
    study = folder.parent.parent
    return study / CALLS if (study / "study.yaml").is_file() else folder / CALLS


@dataclass(frozen=True)
class Estimate:
    """What a job is thought to cost."""

    tokens: int
    """Expected, all epochs."""
    most_tokens: int
    dollars: float | None
    """Expected; None: the price is not known."""
    most_dollars: float | None


class Purse:
    """The price, the caps and the books of one run's training.

    Args:
        config: Caps and prices.
        model: The provider's name of the base model.
        journal: The study's journal of what is paid for.
    """

    def __init__(self, config: EndpointConfig, model: str, journal: Path) -> None:
        self._config, self._model, self._journal = config, model, journal
        self.prices = load_prices(config.prices)
        self.price = self.prices.training(model)

    def estimate(self, usage: Usage, epochs: int) -> Estimate:
        """What training on some rows costs; the provider bills every token of every epoch, and no validation."""
        tokens, most = round(usage.expected * epochs), usage.most * epochs
        return Estimate(tokens, most, self.dollars(tokens), self.dollars(most))

    def dollars(self, tokens: int) -> float | None:
        """The price of so many trained tokens; None if it is not known."""
        return None if self.price is None else tokens * self.price / 1e6

    def reserve(self, key: str, estimate: Estimate) -> None:
        """Lease what a job can cost at most; once for each key.

        Raises:
            CapReached: A cap leaves no room for it.
            ConfigError: A cap on the cost, and the price is not known.
        """
        if self._config.max_cost is not None and self.price is None:
            raise ConfigError(
                "a cap on the cost needs the price of training",
                f"no price of training {self._model}",
                f"a model with `train` in {self._config.prices or 'src/truing/prices.yaml'}, or in the catalogue",
                "add its price to a file and name that in endpoint.prices, or cap endpoint.max_calls instead",
            )
        journal, owner = Journal(self._journal), LASTING[1] + key
        budget = Budget(journal, self._config.max_calls, self._config.max_cost)
        try:
            with journal.transaction() as db:
                held = db.execute("SELECT 1 FROM leases WHERE owner = ?", (owner,)).fetchone() is not None
                room = held or budget.reserve(db, owner, 1, estimate.most_dollars or 0.0) == 1
            if not room:
                raise self._refusal(estimate, budget.reached())
        finally:
            budget.close()
            journal.close()

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
        dollars = None if tokens is None else self.dollars(tokens)
        name = hashlib.sha256(f"training\0{job_id}".encode()).digest()[:16]
        if tokens is None:
            paid = [Paid(self._model, cost=most)]
        else:
            paid = [Paid(self._model, name, content_key(job_id), tokens, 0, dollars)] if tokens else []
        journal = Journal(self._journal)
        try:
            with journal.transaction() as db:
                write_paid(db, paid, "training", only_new=True)
                set_lease(db, LASTING[1] + key, 0, 0.0)
        finally:
            journal.close()
        return dollars

    def note_call(self, model: str, read: int, written: int) -> None:
        """Write down the call by which a new model was asked whether it is there."""
        cost = self.prices.cost(model, (read, 0, written))
        name = hashlib.sha256(f"ready\0{model}".encode()).digest()[:16]
        journal = Journal(self._journal)
        try:
            journal.write([Paid(model, name, content_key(model), read, written, cost)], "live")
        finally:
            journal.close()

    def _refusal(self, estimate: Estimate, reached: CapReached) -> CapReached:
        expected = "at a price that is not known" if estimate.dollars is None else f"about ${estimate.dollars:,.2f}"
        most = "" if estimate.most_dollars is None else f", at most ${estimate.most_dollars:,.2f}"
        return CapReached(
            f"the study's caps leave no room for a fine-tuning job of {self._model}",
            f"the job: {expected}{most} (a token is at least a byte); so far {reached.got}",
            reached.allowed,
            "raise the cap and run the same command again; nothing was begun",
        )
