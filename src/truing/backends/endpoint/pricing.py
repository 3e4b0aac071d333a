"""Prices of calls: a table of prices by model, in a file that the user can override. An unknown price is unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from truing.catalog.models import find_model
from truing.core.errors import ConfigError
from truing.core.files import load_yaml

Amount = Annotated[float, Field(strict=True, ge=0, lt=1e6)]


@dataclass(frozen=True, slots=True, config={"extra": "forbid"})
class Price:
    """Dollars per million tokens of one model."""

    input: Amount
    output: Amount
    cached: Amount | None = None
    """Of prompt tokens that the provider read from its cache; None: as `input`."""
    train: Amount | None = None
    """Of a token in training, once for each epoch; None: as the catalogue says."""


@dataclass(frozen=True, slots=True, config={"extra": "ignore"})
class Prices:
    """Prices by model."""

    date: Annotated[str, BeforeValidator(str)]
    """The day on which the table was true."""
    batch: Amount
    """Factor of the Batch API."""
    models: Mapping[str, Price]

    def of(self, model: str) -> Price | None:
        """The price of a model: by its name, without a date at its end, or as a fine-tuned model of its base."""
        name = "ft:" + model.split(":")[1] if model.startswith("ft:") else model
        names = (model, name, re.sub(r"-\d{4}-\d{2}-\d{2}$", "", name))
        return next((self.models[each] for each in names if each in self.models), None)

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
        reading = price.input if price.cached is None else price.cached
        dollars = ((prompt - cached) * price.input + cached * reading + completion * price.output) / 1e6
        return dollars * (self.batch if batch else 1.0)


def load_prices(path: Path | None = None) -> Prices:
    """The built-in prices, with those of a file added or in their place.

    Raises:
        ConfigError: The file cannot be read or is not a table of prices.
    """
    table: dict[str, Any] = yaml.safe_load(resources.files("truing").joinpath("catalog/data/prices.yaml").read_text())
    try:
        own = {} if path is None else load_yaml(path.read_text(encoding="utf-8"))
        models = {**table["models"], **own.get("models", {})}
        return TypeAdapter(Prices).validate_python({**table, **own, "models": models})
    except ValidationError as error:
        issue = error.errors(include_url=False)[0]
        got = f"{'.'.join(map(str, issue['loc']))}: {issue['msg']} (got {issue['input']!r})"
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        got = str(error).replace("\n", " ")
    allowed = "date, batch, models: {NAME: {input, output, cached, train}}, in dollars per million tokens, 0 or more"
    raise ConfigError(f"{path} is not a table of prices", got, allowed)
