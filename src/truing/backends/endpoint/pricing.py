"""What calls cost: a table of prices by model, in a file that the user can override. An unknown price is unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from truing.catalog.models import find_model
from truing.core.errors import ConfigError

__all__ = ["Price", "Prices", "load_prices"]

_FIELDS = ("input", "cached", "output", "train")


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens of one model."""

    input: float
    output: float
    cached: float
    train: float | None = None
    """Of a token in training, once for each epoch; None: as the catalogue says."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by model."""

    date: str
    """The day on which the table was true."""
    batch: float
    """Factor of the Batch API."""
    models: Mapping[str, Price]

    def of(self, model: str) -> Price | None:
        """The price of a model: by its name, without a date at its end, or as a fine-tuned model of its base."""
        tuned = model.startswith("ft:")
        name = "ft:" + model.split(":")[1] if tuned else model
        for candidate in (model, name, re.sub(r"-\d{4}-\d{2}-\d{2}$", "", name)):
            if candidate in self.models:
                return self.models[candidate]
        return None

    def training(self, model: str) -> float | None:
        """Dollars per million tokens that a model is trained on; None if unknown."""
        price, known = self.of(model), find_model(model)
        if price is not None and price.train is not None:
            return price.train
        return None if known is None else known.train_price

    def cost(self, model: str, tokens: tuple[int, int, int], batch: bool = False) -> float | None:
        """Dollars for (prompt, cached prompt, completion) tokens; None if the price is unknown."""
        price = self.of(model)
        if price is None:
            return None
        prompt, cached, completion = tokens
        dollars = ((prompt - cached) * price.input + cached * price.cached + completion * price.output) / 1e6
        return dollars * (self.batch if batch else 1.0)


def load_prices(path: Path | None = None) -> Prices:
    """The built-in prices, with those of a file added or in their place.

    Raises:
        ConfigError: The file cannot be read or is not a table of prices.
    """
    own = yaml.safe_load(resources.files("truing").joinpath("catalog/data/prices.yaml").read_text(encoding="utf-8"))
    raw: dict[str, Any] = {} if path is None else _read(path)
    models = {**own["models"], **raw.get("models", {})}
    source = str(path) if path else "prices.yaml"
    return Prices(
        date=str(raw.get("date", own["date"])),
        batch=_number(raw.get("batch", own["batch"]), source, "batch"),
        models={name: _price(row, source, name) for name, row in models.items()},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the prices in {path}", str(error).replace("\n", " ")) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("models", {}), dict):
        raise ConfigError(f"{path} is not a table of prices", type(raw).__name__, "date, batch, models: {NAME: {...}}")
    return raw


def _price(row: Any, source: str, name: str) -> Price:
    if not isinstance(row, dict) or not {"input", "output"} <= set(row) <= set(_FIELDS):
        raise ConfigError(f"{source}, model {name}", repr(row), "input, output and, if you like, cached and train")
    numbers = {field: _number(row[field], source, f"model {name}, {field}") for field in row}
    return Price(numbers["input"], numbers["output"], numbers.get("cached", numbers["input"]), numbers.get("train"))


def _number(value: Any, source: str, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise ConfigError(f"{source}, {field}", repr(value), "a number of dollars per million tokens, 0 or more")
    return float(value)
