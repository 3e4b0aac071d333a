"""`truing list`: what is built in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import DATASETS, load_dataset
from truing.catalog.files import list_files
from truing.catalog.truth import CONDITIONS, load_truth
from truing.catalog.variants import VARIANTS
from truing.cli.display import make_console
from truing.cli.models import show_models
from truing.core.errors import MissingExtraError, UnknownNameError
from truing.judges import JUDGES, load_judge
from truing.judges.rubrics import load_rubric

__all__ = ["list_names"]

Rows = list[tuple[str, ...]]
console = make_console()


def list_names(
    kind: Annotated[str, typer.Argument(help="models, benchmarks, variants, truth-sets, datasets, judges or rubrics.")],
    name: Annotated[str | None, typer.Argument(help="One model, in full.", show_default=False)] = None,
) -> None:
    """List what is built in."""
    if kind == "models" or name is not None:
        show_models(console, kind, name)
        return
    if kind not in _KINDS:
        raise UnknownNameError.of("kind", kind, ("models", *_KINDS))
    columns, rows = _KINDS[kind]
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows():
        table.add_row(*map(escape, row))
    console.print(table)


def _benchmarks() -> Rows:
    loaded = [load_benchmark(name) for name in list_files("benchmarks")]
    return [
        (b.name, str(len(b.prompts)), str(len({p.category for p in b.prompts})), b.licence, b.hash[:12]) for b in loaded
    ]


def _variants() -> Rows:
    return [(f"NAME+{v.name}", v.purpose) for v in VARIANTS.values()]


def _truth_sets() -> Rows:
    sets = [load_truth(name) for name in list_files("truth")]
    return [(t.name, str(len(t.questions)), ", ".join(f"+{c}" for c in CONDITIONS), t.licence) for t in sets]


def _datasets() -> Rows:
    datasets = [load_dataset(name) for name in DATASETS]
    return [(d.name, str(len(d.train)), str(len(d.heldout)), d.teaches, d.hash[:12]) for d in datasets]


def _judges() -> Rows:
    return [(name, _identity(name)) for name in JUDGES]


def _identity(name: str) -> str:
    try:
        return load_judge(name).identity
    except MissingExtraError as error:
        return f"{error.what}; {error.todo}"


def _rubrics() -> Rows:
    rubrics = [load_rubric(name) for name in list_files("rubrics")]
    return [(r.name, r.version, r.scores, r.higher_is, r.hash[:12]) for r in rubrics]


_KINDS: dict[str, tuple[tuple[str, ...], Callable[[], Rows]]] = {
    "benchmarks": (("name", "prompts", "categories", "licence", "hash"), _benchmarks),
    "variants": (("name", "what it tests"), _variants),
    "truth-sets": (("name", "questions", "conditions", "licence"), _truth_sets),
    "datasets": (("name", "rows", "held out", "teaches", "hash"), _datasets),
    "judges": (("name", "identity"), _judges),
    "rubrics": (("name", "version", "scores", "higher is", "hash"), _rubrics),
}
"""Kind -> its columns, and what makes its rows."""
