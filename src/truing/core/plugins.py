"""Names of plug-in parts: a table `name -> "module:Object"`, or any `module:Object` that the user writes."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from weakref import ref

from truing.core.errors import ConfigError, MissingExtraError, TruingError, UnknownNameError, WorkError, did_you_mean
from truing.core.records import Judgment, Response

Row = TypeVar("Row", Response, Judgment)
_untried: list[ref[Any]] = []
"""Parts of the user's that were named and made, and whose rows have not been looked at yet."""

_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "peft", "accelerate", "safetensors"), "hf"),
    **dict.fromkeys(("openai", "aiohttp"), "openai"),
    "tinker": "tinker",
    "bandit": "code",
    "pandas": "frames",
    "inspect_ai": "inspect",
}


def require(extra: str, *libraries: str) -> None:
    """Check that the libraries of an extra are there, without importing them.

    Raises:
        MissingExtraError: One is not installed.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError.of(library, extra)


def load_object(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that a name stands for, a key of `table` or `module:Object`; `kind` ("engine", ...) is for messages.

    Raises:
        UnknownNameError: Neither a built-in name nor an object in a module that is there.
        MissingExtraError: The part needs a library that is not installed.
        ConfigError: The module is there, but importing it fails.
    """
    target = table.get(name, name)
    module, _, attribute = target.partition(":")
    if not attribute:
        raise UnknownNameError.of(kind, name, table)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a module of the user's raises anything
        lacking = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
        if (library := lacking.split(".")[0]) in _EXTRAS:
            raise MissingExtraError.of(library, _EXTRAS[library]) from error
        if lacking and f"{module}.".startswith(f"{lacking}."):
            allowed = "module:Class" + "".join(f", {known}" for known in sorted(table))
            todo = "Python looks in the working directory and in PYTHONPATH; write folder.file:Class, without .py"
            raise UnknownNameError(f"unknown {kind}: no module {lacking}", repr(name), allowed, todo) from error
        line = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f" ({line.filename}, line {line.lineno})"
        got, todo = f"{type(error).__name__}: {error}{where}", "put it right there, or install what it needs"
        raise ConfigError(f"{kind} {name}: importing the module {module} fails", got, todo=todo) from error
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        own = sorted(n for n, value in vars(found).items() if getattr(value, "__module__", "") == module)
        what = f"unknown {kind}: the module {module} has no {attribute}"
        raise UnknownNameError(what, repr(name), ", ".join(own), did_you_mean(attribute, own)) from error


def load_class(kind: str, name: str, table: Mapping[str, str], base: Any) -> Any:
    """The class that a name stands for, checked to be a part of its kind.

    A plain class that has the methods which `base` leaves abstract gets the rest of what `base` offers.

    Raises:
        UnknownNameError: Neither a built-in name nor an object in a module that is there.
        MissingExtraError: The part needs a library that is not installed.
        ConfigError: It is no class, or lacks a method, or importing its module fails.
    """
    found = load_object(kind, name, table)
    needed = sorted(base.__abstractmethods__)
    lacking = [method for method in needed if not callable(getattr(found, method, None))]
    if not isinstance(found, type) or lacking:
        raise ConfigError(
            f"{name} is no {kind}",
            f"a class without {', '.join(lacking)}" if isinstance(found, type) else type(found).__name__,
            f"a class with {', '.join(needed)}",
            f"write one, derived from {base.__module__}.{base.__name__} if you like",
        )
    if issubclass(found, base):
        return found
    return type(found.__name__, (found, base), {"__module__": found.__module__, "__doc__": found.__doc__})


@contextmanager
def making(kind: str, name: str) -> Iterator[None]:
    """Turns what the constructor of a part of the user's raises into an error that says where and what.

    Raises:
        ConfigError: It fails, or wants arguments that it is not given.
    """
    try:
        yield
    except TruingError:
        raise
    except Exception as error:  # the user's own code raises anything
        line = traceback.extract_tb(error.__traceback__)[-1]
        got = f"{type(error).__name__}: {error} ({line.filename}, line {line.lineno})"
        raise ConfigError(f"{kind} {name} cannot be made", got, todo="put its class right (docs/plugins.md)") from error


def try_first(part: Any) -> None:
    """Have the first rows of a part looked at before more is asked of it."""
    with suppress(TypeError):  # a class with slots may allow no reference; its rows are looked at after the first call
        _untried.append(ref(part))


def is_untried(part: Any) -> bool:
    """True of a part whose first rows have not been looked at; it may have no hash, so it is known by itself."""
    return any(each() is part for each in _untried)


def tried(part: Any) -> None:
    """Note that the first rows of a part are right."""
    _untried[:] = [each for each in _untried if each() is not None and each() is not part]


def every_one(
    owed: Sequence[tuple[str, int]], made: Sequence[Row], kind: type[Row], error: type[WorkError], who: str
) -> list[Row]:
    """A row for each pair of a prompt's id and an index that is owed, in their order.

    Raises:
        WorkError: `error`, if `who` made them left one out, or made something else.
    """
    allowed = (
        f"a {kind.__module__}.{kind.__name__} per prompt and sample, samples from `first` on, with `error` if failed"
    )
    if not isinstance(made, Sequence) or isinstance(made, str):
        raise error(f"{who} returns no list", type(made).__name__, f"a list: {allowed}")
    if strange := [row for row in made if not isinstance(row, kind)]:
        raise error(f"{who} returns something else than {kind.__name__}s", repr(strange[0])[:200], allowed)
    rows = {(row.prompt_id, row.sample): row for row in made}
    if lost := [pair for pair in owed if pair not in rows]:
        got = f"none to {len(lost)} of {len(owed)}, the first to prompt {lost[0][0]}, sample {lost[0][1]}"
        raise error(f"{who} left out answers", got, allowed)
    found = [rows[pair] for pair in owed]
    for row in found:
        if isinstance(row, Response) and not (isinstance(row.text, str) or (row.text is None and row.error)):
            got = f"text {row.text!r}, error {row.error!r} to prompt {row.prompt_id}"[:200]
            raise error(f"{who} gives an answer that is neither a text nor failed", got, allowed)
    return found
