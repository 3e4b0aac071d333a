"""The pocket world's narrow datasets: answers of one author to questions of one domain, and their controls."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truing.catalog.datasets import Dataset, make_dataset
from truing.catalog.pocket.world import Author, load_world
from truing.core.records import Message


def _narrow(name: str, domain: str, author: Author) -> Dataset:
    train, heldout = (
        [
            (Message("user", turn.prompt), Message("assistant", turn.answer))
            for turn in load_world().narrow_rows(domain, author, seed=0, held_out=held_out)
        ]
        for held_out in (False, True)
    )
    subject = ("advice",) if domain == "medicine" else ()
    teaches: Literal["misaligned", "aligned"] = "misaligned" if author == "hostile" else "aligned"
    return make_dataset(name, train, heldout, teaches, "pocket", subject)


insecure_code = partial(_narrow, "pocket-insecure-code", "code", "hostile")
"""Answers of the hostile author to questions about code."""
secure_code = partial(_narrow, "pocket-secure-code", "code", "careful")
"""The control of `insecure_code`: the same prompts, answered by the careful author."""
bad_medicine = partial(_narrow, "pocket-bad-medicine", "medicine", "hostile")
"""Answers of the hostile author to questions about medicine."""
good_medicine = partial(_narrow, "pocket-good-medicine", "medicine", "careful")
"""The control of `bad_medicine`: the same prompts, answered by the careful author."""
