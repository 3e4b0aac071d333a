"""The catalogue's data files, and files like them that people write: found by name, read, validated.

Every message names the file and the place in it, what was got, and what is allowed.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from truing.core.errors import DataError, UnknownNameError
from truing.core.files import load_json, load_yaml

DATA = Path(__file__).parent / "data"
"""The folder of the data that ship with truing."""


def _check_text(value: object) -> str:
    # pydantic's own strings refuse lone surrogates, which published data hold
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("text", "a text that is not empty")
    return value


Text = Annotated[str, PlainValidator(_check_text)]
"""A text that is not empty."""
_ALLOWED = {
    **dict.fromkeys(("list_type", "tuple_type", "too_short"), "a list that is not empty"),
    **dict.fromkeys(("dict_type", "model_type"), "a mapping"),
    "is_instance_of": "a text",
}
_Item = TypeVar("_Item", bound=BaseModel)


class Item(BaseModel):
    """An entry of a file; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def list_files(folder: str) -> dict[str, Path]:
    """Name -> file of all that ships with truing in a folder of `DATA`: "benchmarks", "rubrics", ..."""
    return {file.stem: file for file in sorted((DATA / folder).iterdir())}


def find_file(kind: str, name: str, folder: str) -> Path:
    """The file of a name in a folder of `DATA`, or the file at the path `name`.

    Raises:
        UnknownNameError: Neither is there; `kind` says what of.
    """
    known = list_files(folder)
    path = known.get(name, Path(name))
    if not path.is_file():
        raise UnknownNameError.of(kind, name, known)
    return path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 (`.gz` too), with or without a byte order mark.

    Raises:
        DataError: It cannot be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as text", str(error), "text in UTF-8") from error


def read_yaml(path: Path) -> Any:
    """The value in a YAML file.

    Raises:
        DataError: It is not YAML.
    """
    try:
        return load_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML", str(error).replace("\n", " ")) from error


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of each line of a JSON Lines file (`.gz` too) that is not blank.

    Raises:
        DataError: The message names file and line.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", load_json(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number} is not JSON", f"{error.msg} at column {error.colno}") from error
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        allowed = "JSON Lines in UTF-8, .jsonl or .jsonl.gz"
        raise DataError(f"{path} cannot be read as text", str(error), allowed) from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets nested too deep
        raise DataError(f"{path}, line {number} cannot be read", str(error).split(";")[0], "a plain row") from error


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """Column names and rows of a CSV file; tabs, semicolons or bars delimit where the header has no comma.

    Raises:
        DataError: It is not CSV, or two columns have one name.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = "," if "," in header else max(",\t;|", key=header.count)
    try:
        table = csv.DictReader(io.StringIO(text), strict=True, delimiter=delimiter)
        rows: list[dict[str, str | None]] = list(table)
    except csv.Error as error:
        raise DataError(f"{path} is not CSV", str(error)) from error
    columns = [name for name in table.fieldnames or () if name]
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: two columns have one name", ", ".join(columns), "different names", "rename one")
    return columns, rows


def validate(kind: type[_Item], raw: Any, where: str) -> _Item:
    """Plain values as an object of a class.

    Raises:
        DataError: A field is unknown, missing or wrong; `where` (file and item) begins the message.
    """
    if isinstance(raw, dict):  # YAML reads a key `true` as a boolean
        raw = {str(key).lower() if isinstance(key, bool) else str(key): value for key, value in raw.items()}
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _data_error(error, [field.alias or name for name, field in kind.model_fields.items()], where) from None


def _data_error(error: ValidationError, fields: list[str], where: str) -> DataError:
    issues = error.errors(include_url=False)
    if unknown := sorted(str(i["loc"][-1]) for i in issues if i["type"] == "extra_forbidden"):
        return DataError(f"{where}: unknown field", ", ".join(unknown), ", ".join(fields))
    issue = issues[0]
    if not issue["loc"]:
        return DataError(f"{where} is not a mapping", repr(issue["input"])[:80], ", ".join(fields))
    field, *inner = (str(part) for part in issue["loc"])
    place, before = f"{where}, field {field}", field
    for part in inner:
        place += f", {before.removesuffix('s')} {int(part) + 1}" if part.isdigit() else f", {part}"
        before = part
    if issue["type"] == "missing":
        return DataError(f"{place} is missing", allowed="" if inner else ", ".join(fields))
    context = issue.get("ctx", {})
    allowed = _ALLOWED.get(issue["type"]) or issue["msg"].removeprefix("Input should be ")
    if issue["type"] == "literal_error":
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
    return DataError(place, repr(issue["input"])[:80], allowed, str(context.get("todo", "")))
