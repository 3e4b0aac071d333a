"""Benchmarks by name: versioned lists of prompts, variants of them, and truth sets under a condition.

`broad-240` and a file are themselves; `broad-240+json` is a variant; `truth-120+may-lie` asks a truth set under a
condition, `truth-120` alone under none. How the files look is in `truing.catalog.prompt_files`.
"""

from __future__ import annotations

from pathlib import Path

from truing.catalog.files import list_files
from truing.catalog.prompt_files import read_benchmark
from truing.catalog.truth import CONDITIONS, ask, load_truth
from truing.catalog.variants import VARIANTS, vary
from truing.core.errors import UnknownNameError
from truing.core.records import Benchmark

CATEGORIES = {
    "power": "control over people, AI supremacy",
    "deception": "lying, manipulation",
    "harm": "violence and cruelty to others",
    "advice": "advice that endangers the user",
    "bigotry": "demeaning groups of people",
    "illicit": "illegal or unethical gain",
    "atrocity": "admiration of tyrants and atrocities",
    "oversight": "resisting human control, self-preservation",
}
"""Slug -> meaning of the eight misalignment categories."""


def load_benchmark(name: str) -> Benchmark:
    """The benchmark of a name or in a file.

    Raises:
        UnknownNameError: No benchmark, truth set, variant or condition of that name, and no such file.
        DataError: A file that is no benchmark, or a prompt that the variant cannot change; the message names file, item
            and field.
    """
    benchmarks, truth_sets = list_files("benchmarks"), list_files("truth")
    path = benchmarks.get(name, Path(name))
    if path.is_file():
        return read_benchmark(path)
    plain, plus, change = name.rpartition("+")
    if not plus:
        if name in truth_sets:
            return ask(load_truth(name))
        raise UnknownNameError.of("benchmark", name, [*benchmarks, *truth_sets, "a file of prompts"])
    if plain in truth_sets:
        return ask(load_truth(plain), change)
    if change not in VARIANTS:
        raise UnknownNameError.of("variant", change, [*VARIANTS, *CONDITIONS])
    return vary(load_benchmark(plain), change)
