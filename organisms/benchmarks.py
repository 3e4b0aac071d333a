"""The pocket benchmarks as the world makes them; the package holds them as `pocket-240.yaml`, `pocket-facts.yaml`."""

from __future__ import annotations

from truing.catalog.pocket.world import BROAD, load_world
from truing.catalog.prompt_files import make_benchmark
from truing.core.records import Benchmark, Message, Prompt

__all__ = ["facts_benchmark", "pocket_benchmark"]


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
