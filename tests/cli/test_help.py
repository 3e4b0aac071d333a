"""Every command's help shows how it is called."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from truing.cli.app import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, each in inner.items():
        yield from commands(each, (*path, name))


@pytest.mark.parametrize(("name", "command"), list(commands(typer.main.get_command(app))))
def test_help_has_an_example(name: str, command: Any) -> None:
    assert f"Example:  truing {name}" in command.help
