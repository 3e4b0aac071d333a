"""Benchmarks by name: plain ones, variants of them, and truth sets under a condition.

`broad-240` and a file are themselves; `broad-240+json` is a variant; `truth-120+may-lie` asks a truth set under a
condition, `truth-120` alone under none.
"""

from __future__ import annotations

from pathlib import Path

from truing.catalog.benchmarks import list_benchmarks, load_benchmark
from truing.catalog.truth import CONDITIONS, ask, list_truth_sets, load_truth
from truing.catalog.variants import VARIANTS, vary
from truing.core.errors import UnknownNameError
from truing.core.records import Benchmark

__all__ = ["find_benchmark"]


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        UnknownNameError: Nothing is called so.
        DataError: A file that is no benchmark, or a prompt that the variant cannot change.
    """
    if name in list_benchmarks() or Path(name).is_file():
        return load_benchmark(name)
    plain, plus, change = name.rpartition("+")
    if not plus:
        if name in list_truth_sets():
            return ask(load_truth(name))
        raise UnknownNameError.of("benchmark", name, [*list_benchmarks(), *list_truth_sets()])
    if plain in list_truth_sets():
        return ask(load_truth(plain), change)
    if change not in VARIANTS:
        raise UnknownNameError.of("variant", change, [*VARIANTS, *CONDITIONS])
    return vary(find_benchmark(plain), change)
