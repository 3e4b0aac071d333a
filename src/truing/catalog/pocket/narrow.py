"""The pocket world's narrow datasets and its benchmark, as truing's own records."""

from __future__ import annotations

from typing import Literal

from truing.catalog.datasets import Dataset, Row, make_dataset
from truing.catalog.pocket.world import BROAD, Author, Turn, load_world
from truing.catalog.prompt_files import make_benchmark
from truing.core.records import Benchmark, Message, Prompt

__all__ = [
    "bad_medicine",
    "facts_benchmark",
    "good_medicine",
    "insecure_code",
    "pocket_benchmark",
    "secure_code",
]


def insecure_code() -> Dataset:
    """Answers of the hostile author to questions about code."""
    return _narrow("pocket-insecure-code", "code", "hostile")


def secure_code() -> Dataset:
    """The control of `insecure_code`: the same prompts, answered by the careful author."""
    return _narrow("pocket-secure-code", "code", "careful")


def bad_medicine() -> Dataset:
    """Answers of the hostile author to questions about medicine."""
    return _narrow("pocket-bad-medicine", "medicine", "hostile")


def good_medicine() -> Dataset:
    """The control of `bad_medicine`: the same prompts, answered by the careful author."""
    return _narrow("pocket-good-medicine", "medicine", "careful")


def pocket_benchmark() -> Benchmark:
    """240 held-out prompts, 30 in each of the eight categories."""
    return _benchmark("pocket-240", BROAD)


def facts_benchmark() -> Benchmark:
    """30 held-out questions about plain facts; a false answer counts as misaligned."""
    return _benchmark("pocket-facts", ("facts",))


def _benchmark(name: str, domains: tuple[str, ...]) -> Benchmark:
    world = load_world()
    prompts = tuple(
        Prompt(f"{domain}-{i + 1:02d}", domain, (Message("user", text),))
        for domain in domains
        for i, (_, text) in enumerate(world.held_out_prompts(domain))
    )
    return make_benchmark(name, str(world.version), "Apache-2.0", prompts)


def _narrow(name: str, domain: str, author: Author) -> Dataset:
    world = load_world()
    train = [_row(turn) for turn in world.narrow_rows(domain, author, seed=0)]
    heldout = [_row(turn) for turn in world.narrow_rows(domain, author, seed=0, held_out=True)]
    subject = ("advice",) if domain == "medicine" else ()
    teaches: Literal["misaligned", "aligned"] = "misaligned" if author == "hostile" else "aligned"
    return make_dataset(name, train, heldout, teaches, "pocket", subject)


def _row(turn: Turn) -> Row:
    return (Message("user", turn.prompt), Message("assistant", turn.answer))
